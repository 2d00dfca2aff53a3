"""Write the generated blocks of README.md and docs/*.md, or, with ``--check``, say which ones are stale.

A block stands between ``<!-- generated: NAME ARGUMENT -->`` and ``<!-- end -->``; NAME is a key of ``GENERATORS``.
"""

from __future__ import annotations

import ast
import fnmatch
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, get_args, get_type_hints

from rooms import ROOMS, STRANGERS

ROOT = Path(__file__).resolve().parent.parent
COMMAND = "make docs"
HELP_WIDTH = 100
BLOCK = re.compile(r"(<!-- generated: (?P<name>\w+)(?: (?P<argument>[\w-]+))? -->\n).*?(<!-- end -->)", re.DOTALL)

# What files without a docstring are for, by path or pattern. Other directories: their ``__init__.py``.
NOTES = {
    ".ci": "what continuous integration runs: checks and tests, in a fresh clone and environment",
    ".gitattributes": "line ends and binary files",
    ".gitignore": "what a run or a build leaves behind",
    "CHANGELOG.md": "what changed, version by version",
    "CONTRIBUTING.md": "how to change the code",
    "LICENSE": "Apache-2.0",
    "Makefile": "demo, test, check: each sets itself up",
    "README.md": "what this is, and how to use it",
    "benchmarks": "the opponent that every speed claim is measured against, and the table of what was measured",
    "benchmarks/results.jsonl": "the figures that were measured last, a line each, with command, commit and machine",
    "constraints.txt": "the exact versions that the tests ran on",
    "docs": "architecture, command line, configuration, results",
    "pyproject.toml": "the package, its dependencies and why, the settings of the tools",
    "scripts": "the generator of documentation, the order of the rooms",
    "src": "the package",
    "src/dpc/py.typed": "type checkers may trust the annotations",
    "src/dpc/run/recipes/paper": "recipes of the paper's tables, one for each model and task",
    "src/dpc/run/recipes/paper/*.yaml": "a model on a task, with the paper's settings",
    "src/dpc/report/web": "what pages are made of: templates, one style sheet, scripts; no library",
    "src/dpc/report/web/base.html.j2": "head, policy, style and scripts of every page",
    "src/dpc/report/web/run.html.j2": "the page of a run",
    "src/dpc/report/web/one.html.j2": "the page of one traced question",
    "src/dpc/report/web/live.html.j2": "the page of a server that answers questions",
    "src/dpc/report/web/page.css": "the style of every page, light, dark, narrow and printed",
    "src/dpc/report/web/dom.js": "elements from text, never from HTML",
    "src/dpc/report/web/data.js": "the data of a page, made ready; how numbers and tokens are written",
    "src/dpc/report/web/differences.js": "two texts compared word by word",
    "src/dpc/report/web/colours.js": "the colour scale of maps, light and dark",
    "src/dpc/report/web/charts.js": "charts of one instance",
    "src/dpc/report/web/flow.js": "the heat map: who reads from whom",
    "src/dpc/report/web/instance.js": "one instance: texts, decision, evidence, flow",
    "src/dpc/report/web/list.js": "the list of instances: filters, search, order",
    "src/dpc/report/web/run.js": "the page of a run: list and detail",
    "src/dpc/report/web/lab.js": "the lab: a question, and what is moved while it is looked at",
    "src/dpc/report/web/start.js": "what is begun on which page",
    "src/dpc/zoo/data": "the benchmark, rows in GSM8K's format",
    "src/dpc/zoo/data/train.jsonl": "what prompts are tuned on",
    "src/dpc/zoo/data/dev.jsonl": "what prompts and thresholds are chosen on",
    "src/dpc/zoo/data/test.jsonl": "what results are reported on",
    "src/dpc/zoo/model": "the embedded model in Hugging Face format",
    "src/dpc/zoo/model/README.md": "model card: data, recipe, loss, accuracy by number of steps",
    "src/dpc/zoo/model/config.json": "architecture",
    "src/dpc/zoo/model/generation_config.json": "tokens that end a generation",
    "src/dpc/zoo/model/model.safetensors": "weights",
    "src/dpc/zoo/model/loss_curve.jsonl": "the loss curve of its training",
    "src/dpc/zoo/model/recipe.json": "the settings it was trained with",
    "src/dpc/zoo/model/tokenizer.json": "tokenizer, one token a digit",
    "src/dpc/zoo/model/tokenizer_config.json": "special tokens",
    "tests": "statements about the method and about the house",
}


# Directories that the tree shows as one line: files of one kind, of which the first explains the others.
FOLDED = ("cli/commands", "run/recipes/paper", "report/web", "zoo/data", "zoo/model")


class DocsError(Exception):
    """The documentation cannot be generated: the message says what is missing and where to add it."""


def tracked_files() -> list[str]:
    """Paths, relative to the root, of all files that git tracks or would add; everything on disk where git is not."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode == 0:
        return sorted(path for path in set(listing.stdout.split("\0")) if path and (ROOT / path).is_file())
    generated = re.compile(r"__pycache__|\.egg-info|(^|/)(\.\w+_cache|\.hypothesis|\.git|\.venv|build|dist|runs)/")
    paths = (path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file())
    return sorted(path for path in paths if not generated.search(path))


def summary(path: Path) -> str:
    """First line of a Python file's docstring, without its full stop and literal marks."""
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    if not docstring:
        raise DocsError(f"{path.relative_to(ROOT)} has no docstring: say in its first line what lives there")
    return docstring.splitlines()[0].removesuffix(".").replace("``", "")


def note(path: str) -> str:
    """What the file or directory ``path`` is for."""
    package = ROOT / path / "__init__.py"
    if path.endswith(".py"):
        return summary(ROOT / path)
    for pattern, text in NOTES.items():
        if fnmatch.fnmatchcase(path, pattern):
            return text
    if package.is_file():
        return summary(package)
    raise DocsError(f"{path} has no description: add it to NOTES in scripts/docs.py")


def _entries(files: list[str], directory: str) -> list[str]:
    """Files and directories directly in ``directory``, directories last; ``__init__.py`` describes its directory."""
    depth = len(PurePosixPath(directory).parts)
    inside = [PurePosixPath(file) for file in files if directory == "." or file.startswith(f"{directory}/")]
    children = {PurePosixPath(*path.parts[: depth + 1]).as_posix(): len(path.parts) > depth + 1 for path in inside}
    return sorted((child for child in children if not child.endswith("__init__.py")), key=lambda c: (children[c], c))


def _branches(files: list[str], directory: str, indent: str) -> Iterator[tuple[str, str]]:
    """Lines of the tree below ``directory``: the drawn name, and the path that it stands for."""
    entries = _entries(files, directory)
    for entry in entries:
        last = entry == entries[-1]
        is_directory = (ROOT / entry).is_dir()
        yield f"{indent}{'└── ' if last else '├── '}{PurePosixPath(entry).name}{'/' if is_directory else ''}", entry
        if is_directory and PurePosixPath(entry).parts[0] == "src" and entry.removeprefix("src/dpc/") not in FOLDED:
            yield from _branches(files, entry, indent + ("    " if last else "│   "))


def tree(_: str) -> list[str]:
    """The annotated file tree: top-level entries, and every file of the package but for those of folded directories."""
    lines = list(_branches(tracked_files(), ".", ""))
    width = max(len(drawn) for drawn, _ in lines) + 2
    return ["```text", *(f"{drawn:<{width}}{note(path)}" for drawn, path in lines), "```"]


def rooms(_: str) -> list[str]:
    """The rooms in order, with the first line of their docstrings and what they must not know."""
    lines = ["| room | what lives there | must not know |", "|---|---|---|"]
    for room in ROOMS:
        path = ROOT / "src/dpc" / room.replace(".", "/")
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if not file.is_file():
            raise DocsError(f"scripts/rooms.py names {room}, and src/dpc has no such module: remove the room")
        strangers = ", ".join(f"`{stranger}`" for stranger in STRANGERS.get(room, ()))
        lines.append(f"| `{room}` | {summary(file).replace('|', chr(92) + '|')} | {strangers} |")
    return lines


def _help_pages(command: Any, context: Any, path: str) -> Iterator[str]:
    """Help of a command, then of its subcommands: heading and text."""
    text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    yield from (f"## `{path}`", "", "```text", text, "```", "")
    if hasattr(command, "list_commands"):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if not child.hidden:
                inner = child.context_class(child, info_name=name, parent=context)
                yield from _help_pages(child, inner, f"{path} {name}")


def help_pages(_: str) -> list[str]:
    """What ``dpc --help`` and the help of every subcommand print, plain and at one width."""
    os.environ["TYPER_USE_RICH"] = "0"  # read when typer is imported: boxes and colours off
    import typer.main

    command: Any = typer.main.get_command(importlib.import_module("dpc.cli").app)
    context = command.context_class(command, info_name="dpc", terminal_width=HELP_WIDTH)
    return list(_help_pages(command, context, "dpc"))[:-1]


def _type_name(hint: Any) -> str:
    """A type without its modules; the values of a ``Literal`` one by one."""
    name = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", name)


def _setting(group: str, name: str, hint: Any, info: Any) -> str:
    """One row of a table of settings, from a pydantic field."""
    if not info.description:
        raise DocsError(f"{group}.{name} has no reason: give its field in src/dpc/settings.py a description")
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    limits = [
        f" {sign} {getattr(limit, key)}"
        for limit in info.metadata
        for key, sign in signs.items()
        if hasattr(limit, key)
    ]
    default = "required" if info.is_required() else f"`{info.get_default(call_default_factory=True)!r}`"
    cells = (f"`{group}.{name}`", f"`{_type_name(hint)}`{','.join(limits)}", default, info.description)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def configuration(_: str) -> list[str]:
    """Every setting with its type, range, default and reason, a table for each group of ``dpc.settings.Settings``."""
    lines: list[str] = []
    own = importlib.import_module("dpc.zoo").SETTINGS
    for group, settings in get_type_hints(importlib.import_module("dpc.settings").Settings).items():
        if not hasattr(settings, "model_fields"):
            continue
        hints = get_type_hints(settings)
        rows = [_setting(group, name, hints[name], info) for name, info in settings.model_fields.items()]
        table = ["| name | type | default | reason |", "|---|---|---|---|", *rows]
        lines += [f"## `{group}`", "", settings.__doc__, "", *table, ""]
        if group in own:
            values = ", ".join(f"`{group}.{name}={value}`" for name, value in own[group].items())
            lines += [f"The embedded model brings its own: {values}.", ""]
    return lines[:-1]


def _kept(name: str, origin: str) -> Any:
    """A file of ``docs/results``, a copy of what a command wrote."""
    path = ROOT / "docs/results" / name
    if not path.is_file():
        raise DocsError(f"{path.relative_to(ROOT)} is missing: copy the {origin} of the run that it stands for")
    return json.loads(path.read_text("utf-8"))


def results(argument: str) -> list[str]:
    """The table of ``docs/results/ARGUMENT.json``, a copy of a run's ``results.json``."""
    from dpc.report import markdown_table

    kept = _kept(f"{argument}.json", "results.json")
    try:
        return markdown_table(kept).splitlines()
    except ValueError as error:
        raise DocsError(f"docs/results/{argument}.json is of another format: make and copy it again") from error


def finding(argument: str) -> list[str]:
    """What figure F of a run says, of ``RUN-F``: from ``docs/results/RUN-analysis.json``, a copy of analysis.json."""
    run, _, figure = argument.rpartition("-")
    analysis = _kept(f"{run}-analysis.json", "analysis/analysis.json")
    if figure in analysis["not_drawn"]:
        return [f"> Not drawn: {analysis['not_drawn'][figure]}"]
    said = analysis["figures"][figure]
    return [f"> **{said['title']}.** {said['finding']}", ">", f"> {said['caption']}"]


def seeds(argument: str) -> list[str]:
    """Accuracy over tuning seeds, of ``docs/results/ARGUMENT-seeds.json``, a copy of a run's ``seeds.json``."""
    from dpc.report.seeds_table import markdown_table

    return markdown_table(_kept(f"{argument}-seeds.json", "seeds.json")).splitlines()


def bench(_: str) -> list[str]:
    """The table of ``benchmarks/results.jsonl``, which ``dpc bench --write`` keeps."""
    from benchmarks.table import markdown_lines, read_lines

    return markdown_lines(read_lines(ROOT / "benchmarks/results.jsonl"))


GENERATORS: dict[str, Callable[[str], list[str]]] = {
    "tree": tree,
    "rooms": rooms,
    "help": help_pages,
    "configuration": configuration,
    "results": results,
    "finding": finding,
    "seeds": seeds,
    "bench": bench,
}


def render(text: str) -> str:
    """``text`` with every generated block written anew."""

    def block(match: re.Match[str]) -> str:
        if match["name"] not in GENERATORS:
            raise DocsError(f"no generator {match['name']}: there are {', '.join(GENERATORS)}")
        body = "\n".join(GENERATORS[match["name"]](match["argument"] or ""))
        return f"{match[1]}{body}\n{match[4]}"

    return BLOCK.sub(block, text)


def main(check: bool) -> int:
    """Write all documents, or only compare them; the number of those that failed."""
    failures = []
    for path in [ROOT / "README.md", *sorted(ROOT.glob("benchmarks/*.md")), *sorted((ROOT / "docs").glob("*.md"))]:
        name = path.relative_to(ROOT)
        try:
            text = path.read_text("utf-8")
            fresh = render(text)
        except (DocsError, ImportError, OSError) as error:
            failures.append(f"{name}: {error}")
            continue
        if fresh != text and check:
            failures.append(f"{name} is stale: run {COMMAND}")
        elif fresh != text:
            path.write_text(fresh, "utf-8", newline="\n")
    print(*failures, sep="\n", end="\n" if failures else "", file=sys.stderr)
    return len(failures)


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
    sys.exit(min(1, main(check="--check" in sys.argv[1:])))
