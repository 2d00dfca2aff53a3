"""Rules about the repository: direction of imports, light imports, size of files, current documents, dependencies."""

from __future__ import annotations

import ast
import importlib.resources
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from packaging.requirements import Requirement

import docs
from dpc.prompt.corruption import corrupt
from rooms import FORBIDDEN, ROOMS, room_of
from tests.paths import ROOT
from tracked import tracked_files

FILES = [ROOT / name for name in tracked_files()]
SOURCES = [path for path in FILES if path.suffix == ".py"]
PACKAGED = [path for path in FILES if path.is_relative_to(ROOT / "src")]
MODULES = {
    ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGED
    if path.suffix == ".py"
}
LONGEST_FILE, LONGEST_FUNCTION, LONGEST_LINE = 400, 60, 120
# Distributions whose name is not the name that is imported.
DISTRIBUTIONS = {"yaml": "pyyaml"}
MACHINE_PATH = re.compile(r"(?<![\w.~$}/-])/(?:work|tmp|home|root|Users)(?![\w-])")


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), filename=str(path))


def names_imported(path: Path, module: str) -> Iterator[str]:
    """Dotted names that a module imports: at the top, inside functions, and for type checkers only."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, node.module] if node.module else above)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def dependencies(module: str) -> set[str]:
    """Modules of the package that ``module`` imports; for ``from dpc.stats import holm`` that is ``dpc.stats``."""
    found = set()
    for name in names_imported(MODULES[module], module):
        if name.split(".")[0] == "dpc":
            found.add(name if name in MODULES else name.rpartition(".")[0])
    return found - {module}


def height(module: str) -> int:
    room = room_of(module)
    return -1 if room is None else ROOMS.index(room)


def test_every_module_belongs_to_a_room() -> None:
    missing = [module for module in MODULES if module != "dpc" and room_of(module) is None]
    assert not missing, f"add to ROOMS in scripts/rooms.py: {missing}"


def test_imports_only_go_up_the_list_of_rooms() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module in MODULES.keys() - {"dpc"}
        for imported in dependencies(module) - {"dpc"}
        if height(imported) > height(module)
    ]
    assert not wrong


def test_no_room_imports_a_room_that_is_forbidden_to_it() -> None:
    assert {name for room, others in FORBIDDEN.items() for name in (room, *others)} <= set(ROOMS)
    wrong = [
        f"{module} imports {imported}"
        for module in MODULES
        for imported in dependencies(module)
        if room_of(imported) in FORBIDDEN.get(room_of(module) or "", ())
    ]
    assert not wrong


def test_there_is_no_cycle_of_imports() -> None:
    left = {module: dependencies(module) for module in MODULES}
    while leaves := [module for module, needed in left.items() if not needed & left.keys()]:
        for module in leaves:
            del left[module]
    assert not left, "these modules are part of a cycle, or import one that is"


@pytest.mark.parametrize("module", ["dpc", "dpc.cli", "dpc.tasks", "dpc.report"])
def test_light_modules_import_no_heavy_library(module: str) -> None:
    heavy = "{'torch', 'transformers', 'peft', 'datasets', 'accelerate'}"
    program = f"import sys, {module}; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_shapes_in_signatures_are_checked_while_tests_run() -> None:
    with pytest.raises(TypeCheckError, match="vectors"):
        corrupt(torch.zeros(3), key_token=0)


def test_generated_documents_are_current() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "docs.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_generator_of_documentation_is_used() -> None:
    texts = [path.read_text("utf-8") for path in docs.documents(check=True)]
    blocks = {match["name"] for text in texts for match in docs.BLOCK.finditer(text)}
    assert blocks == docs.GENERATORS.keys()


def test_a_stale_document_is_reported_with_the_command_that_updates_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text("<!-- generated: shout hello -->\nold\n<!-- end -->\n")
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    monkeypatch.setitem(docs.GENERATORS, "shout", lambda argument: [argument.upper()])
    assert docs.main(check=True) == 1
    assert capsys.readouterr().err == "README.md is stale: run make docs\n"
    assert docs.main(check=False) == 0
    assert docs.main(check=True) == 0
    assert "\nHELLO\n" in (tmp_path / "README.md").read_text()


def test_blocks_are_generated_in_subfolders_of_docs_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "docs" / "guides" / "start.md"
    page.parent.mkdir(parents=True)
    page.write_text("<!-- generated: shout hello -->\n<!-- end -->\n")
    (tmp_path / "README.md").write_text("")
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    monkeypatch.setitem(docs.GENERATORS, "shout", lambda argument: [argument.upper()])
    assert docs.main(check=True) == 1
    assert docs.main(check=False) == 0
    assert "\nHELLO\n" in page.read_text()


def test_only_files_that_git_tracks_are_checked(tmp_path: Path) -> None:
    for name in ("README.md", "stray.log", "docs/added.md", "docs/stray.md", "src/removed.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert tracked_files(tmp_path) == ["README.md", "docs/added.md", "docs/stray.md", "src/removed.py", "stray.log"]
    for arguments in (["init", "--quiet"], ["add", "README.md", "docs/added.md", "src/removed.py"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    (tmp_path / "src/removed.py").unlink()
    assert tracked_files(tmp_path) == ["README.md", "docs/added.md"]


def test_the_drawing_of_the_rooms_names_all_of_them_in_order() -> None:
    [drawing] = re.findall(r"```text\n(values .*?)```", (ROOT / "docs/architecture.md").read_text("utf-8"), re.DOTALL)
    assert [word for word in drawing.split() if word in ROOMS] == [room for room in ROOMS if room != "__main__"]


def test_files_and_functions_are_small() -> None:
    large = [
        f"{path.relative_to(ROOT)}: {lines} lines"
        for path in SOURCES
        if (lines := len(path.read_text("utf-8").splitlines())) > LONGEST_FILE
    ]
    for path in SOURCES:
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    large.append(f"{path.relative_to(ROOT)}: {node.name} has {lines} lines")
    assert not large


def test_every_module_begins_with_a_docstring() -> None:
    without = [name for name, path in MODULES.items() if not (ast.get_docstring(parse(path)) or "").split("\n")[0]]
    assert not without


def test_lines_of_documents_fit_in_120_columns() -> None:
    long = []
    for path in [*docs.documents(check=True), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        # Generated blocks and tables are exempt.
        text = docs.BLOCK.sub(lambda block: "\n" * block[0].count("\n"), path.read_text("utf-8"))
        for number, line in enumerate(text.split("\n"), 1):
            if len(line) > LONGEST_LINE and not line.startswith("|"):
                long.append(f"{path.relative_to(ROOT)}:{number}: {len(line)} columns")
    assert not long


def test_no_two_modules_have_the_same_name() -> None:
    # A module of cli/commands has the name of its command, and __main__ a name that Python gives.
    names = Counter(
        module.rpartition(".")[2]
        for module in MODULES
        if not module.startswith("dpc.cli.commands.") and module != "dpc.__main__"
    )
    assert not [name for name, count in names.items() if count > 1]


def test_contributing_is_short() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text("utf-8").splitlines()) < 60


def test_no_file_contains_an_absolute_path_of_a_machine() -> None:
    found = []
    for path in FILES:
        data = path.read_bytes()
        if b"\0" in data:
            continue
        for number, line in enumerate(data.decode("utf-8").split("\n"), 1):
            if (match := MACHINE_PATH.search(line)) and "MACHINE_PATH = " not in line:
                found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]}")
    assert not found


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_package_data_is_part_of_the_package() -> None:
    shipped = {
        path
        for package, patterns in project()["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns
        for path in (ROOT / "src" / package.replace(".", "/")).glob(pattern)
    }
    assert {path for path in PACKAGED if path.suffix != ".py"} <= shipped
    zoo = importlib.resources.files("dpc.zoo")
    assert zoo.joinpath("model", "model.safetensors").is_file()
    assert zoo.joinpath("data", "test.jsonl").is_file()


def declared() -> dict[str, Requirement]:
    """All direct dependencies, also those of development, by name."""
    lists = [project()["project"]["dependencies"], *project()["project"]["optional-dependencies"].values()]
    return {requirement.name: requirement for requirement in map(Requirement, chain(*lists))}


def extra(name: str) -> set[Requirement]:
    return {Requirement(line) for line in project()["project"]["optional-dependencies"][name]}


def bounds(requirement: Requirement, operator: str) -> list[str]:
    return [specifier.version for specifier in requirement.specifier if specifier.operator == operator]


def test_lower_bounds_are_the_versions_that_the_tests_run_on() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = dict(line.lower().split("==") for line in lines if not line.startswith("#"))
    assert {name: bounds(requirement, ">=") for name, requirement in declared().items()} == {
        name: [pinned.get(name)] for name in declared()
    }


def test_the_package_imports_declared_dependencies_only() -> None:
    runtime = {Requirement(line).name for line in project()["project"]["dependencies"]}
    imported = (
        {name.split(".")[0] for module, path in MODULES.items() for name in names_imported(path, module)}
        - sys.stdlib_module_names
        # `dpc bench` imports the benchmarks of the checkout that it runs in.
        - {"dpc", "benchmarks"}
    )
    imported = {DISTRIBUTIONS.get(name, name) for name in imported}
    # What a user may install beside it, for models in certain formats.
    extras = {requirement.name for requirement in extra("gguf") | extra("quant")}
    assert imported - extras <= runtime
    # transformers imports it to place models on devices.
    assert runtime - imported <= {"accelerate"}


def private_names(path: Path, module: str) -> Iterator[str]:
    """Dotted names below a library that have a private part: imported, or reached from an imported name."""
    aliases = {}
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            aliases |= {alias.asname or alias.name.split(".")[0]: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            aliases |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    reached = set(aliases.values()) | set(names_imported(path, module))
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Attribute):
            root, _, rest = ast.unparse(node).partition(".")
            reached.add(f"{aliases[root]}.{rest}") if root in aliases else None
    yield from (name for name in reached if re.search(r"\._(?!_)", name))


def test_libraries_whose_private_parts_are_used_have_an_upper_bound() -> None:
    used = {name.split(".")[0] for module, path in MODULES.items() for name in private_names(path, module)}
    # Of transformers, the package sets a private attribute of configurations and subclasses internals of the cache.
    # Of math_verify, it replaces two functions.
    used = (used | {"transformers", "math_verify"}) - {"dpc"} - sys.stdlib_module_names
    assert used == {name for name, requirement in declared().items() if bounds(requirement, "<")}
