"""The house keeps its order: one direction of imports, light starts, small files, current documents."""

from __future__ import annotations

import ast
import importlib.resources
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

import docs
from dpc.prompt.corruption import corrupt
from rooms import ROOMS, STRANGERS, room_of
from tests.paths import PACKAGE, ROOT

SOURCES = sorted(path for folder in ("src", "scripts", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py"))
MODULES = {
    ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
LONGEST_FILE, LONGEST_FUNCTION = 400, 60
# What is installed under another name than it is imported by.
DISTRIBUTIONS = {"yaml": "pyyaml"}
MACHINE_PATH = re.compile(r"(?<![\w.~$}/-])/(?:work|tmp|home|root|Users)(?![\w-])")


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), filename=str(path))


def names_imported(path: Path, module: str) -> Iterator[str]:
    """Dotted names that a module imports anywhere in it: at the top, in functions, for type checkers only."""
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


def test_every_module_stands_in_a_room() -> None:
    homeless = [module for module in MODULES if module != "dpc" and room_of(module) is None]
    assert not homeless, f"add to ROOMS in scripts/rooms.py: {homeless}"


def test_imports_only_go_up_the_list_of_rooms() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module in MODULES
        for imported in dependencies(module) - {"dpc"}
        if module == "dpc" or height(imported) > height(module)
    ]
    assert not wrong


def test_no_room_knows_its_strangers() -> None:
    assert {name for pair in STRANGERS.items() for name in (pair[0], *pair[1])} <= set(ROOMS)
    wrong = [
        f"{module} imports {imported}"
        for module in MODULES
        for imported in dependencies(module)
        if room_of(imported) in STRANGERS.get(room_of(module) or "", ())
    ]
    assert not wrong


def test_no_module_imports_itself_by_a_detour() -> None:
    left = {module: dependencies(module) for module in MODULES}
    while leaves := [module for module, needed in left.items() if not needed & left.keys()]:
        for module in leaves:
            del left[module]
    assert not left, "these import each other"


@pytest.mark.parametrize("module", ["dpc.cli", "dpc.tasks", "dpc.report"])
def test_light_modules_load_no_heavy_library(module: str) -> None:
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


def test_documents_hold_the_blocks_that_are_promised() -> None:
    blocks = {
        match["name"]
        for path in [ROOT / "README.md", ROOT / "benchmarks/README.md", *(ROOT / "docs").glob("*.md")]
        for match in docs.BLOCK.finditer(path.read_text("utf-8"))
    }
    assert blocks == docs.GENERATORS.keys()


def test_a_stale_document_is_named_with_its_cure(
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


def test_files_and_functions_stay_small() -> None:
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


def test_every_module_says_in_one_line_what_lives_there() -> None:
    silent = [name for name, path in MODULES.items() if not (ast.get_docstring(parse(path)) or "").split("\n")[0]]
    assert not silent


def test_contributing_is_short() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text("utf-8").splitlines()) < 60


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    found = []
    for name in docs.tracked_files():
        data = (ROOT / name).read_bytes()
        if b"\0" in data:
            continue
        for number, line in enumerate(data.decode("utf-8").split("\n"), 1):
            if (match := MACHINE_PATH.search(line)) and "MACHINE_PATH = " not in line:
                found.append(f"{name}:{number}: {match[0]}")
    assert not found


def test_package_data_is_part_of_the_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    shipped = {
        path
        for package, patterns in settings.items()
        for pattern in patterns
        for path in (ROOT / "src" / package.replace(".", "/")).glob(pattern)
    }
    present = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert present == shipped
    zoo = importlib.resources.files("dpc.zoo")
    assert zoo.joinpath("model", "model.safetensors").is_file()
    assert zoo.joinpath("data", "test.jsonl").is_file()


def declared() -> dict[str, tuple[str, bool]]:
    """Direct dependencies: lower bound, and whether it is one of development only."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    found = {}
    for requirement in project["dependencies"] + project["optional-dependencies"]["dev"]:
        name, _, bound = requirement.partition(">=")
        found[name] = (bound, requirement not in project["dependencies"])
    return found


def test_lower_bounds_are_the_versions_that_the_tests_run_on() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    tested = {name.lower(): version for name, version in pinned.items()}
    assert {name: bound for name, (bound, _) in declared().items()} == {name: tested.get(name) for name in declared()}


def test_what_the_package_imports_is_declared() -> None:
    runtime = {name for name, (_, development) in declared().items() if not development}
    imported = (
        {name.split(".")[0] for module, path in MODULES.items() for name in names_imported(path, module)}
        - sys.stdlib_module_names
        # The bench command finds what it runs in the checkout.
        - {"dpc", "benchmarks"}
    )
    imported = {DISTRIBUTIONS.get(name, name) for name in imported}
    assert imported <= runtime
    # transformers loads models onto devices with it and imports it by itself.
    assert runtime - imported <= {"accelerate"}
