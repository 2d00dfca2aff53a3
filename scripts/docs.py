"""Write the generated blocks of README.md, docs/ and benchmarks/, or report the stale ones with ``--check``.

A block stands between ``<!-- generated: NAME ARGUMENT -->`` and ``<!-- end -->``; NAME is a key of ``GENERATORS``.
"""

from __future__ import annotations

import ast
import fnmatch
import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, get_args, get_type_hints

from models_table import TABLES
from rooms import FORBIDDEN, ROOMS
from tracked import tracked_files

ROOT = Path(__file__).resolve().parent.parent
COMMAND = "make docs"
FOLDERS = ("benchmarks", "docs")
HELP_WIDTH = 100
BLOCK = re.compile(r"(<!-- generated: (?P<name>\w+)(?: (?P<argument>[\w-]+))? -->\n).*?(<!-- end -->)", re.DOTALL)

# Descriptions of files without a docstring, by path or pattern. Other directories: their ``__init__.py``.
NOTES = {
    ".ci": "the script of continuous integration: checks, tests and the demo in a fresh clone and environment",
    ".gitattributes": "line ends and binary files",
    ".gitignore": "what runs and tools write into a checkout",
    "CHANGELOG.md": "changes by version",
    "CONTRIBUTING.md": "how to change the code",
    "LICENSE": "Apache-2.0",
    "Makefile": "demo, test, check, docs; sets up its environment",
    "README.md": "overview, first steps, results in brief",
    "benchmarks": "speed and memory compared with a plain implementation with PEFT and transformers",
    "constraints.txt": "the exact versions that the tests ran on",
    "docs": "guides, reference, architecture, results",
    "mkdocs.yml": "the documentation as a site",
    "pyproject.toml": "metadata, dependencies with reasons, settings of the tools",
    "scripts": "generators of documentation, the order of the rooms, the list of checked files",
    "src": "the package",
    "src/dpc/py.typed": "marks the package as typed",
    "src/dpc/run/recipes/paper": "recipes of the paper's tables, one for each model and task",
    "src/dpc/report/web": "the pages: templates, one style sheet, scripts; no library",
    "src/dpc/zoo/data": "the benchmark: train, dev and test rows in GSM8K's format",
    "src/dpc/zoo/model": "the embedded model in Hugging Face format, with its model card and loss curve",
    "tests": "the tests, in folders named after the rooms",
}


# Directories below ``src/dpc`` that the tree shows as one line.
FOLDED = ("cli/commands", "run/recipes/paper", "report/web", "zoo/data", "zoo/model")


class DocsError(Exception):
    """The documentation cannot be generated; the message names what is missing and where to add it."""


def summary(path: Path) -> str:
    """First line of a Python file's docstring, without its full stop and literal marks."""
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    if not docstring:
        raise DocsError(f"{path.relative_to(ROOT)} has no docstring: describe the module in its first line")
    return docstring.splitlines()[0].removesuffix(".").replace("``", "")


def note(path: str) -> str:
    """The description of the file or directory ``path``."""
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
    lines = list(_branches(tracked_files(ROOT), ".", ""))
    width = max(len(drawn) for drawn, _ in lines) + 2
    return ["```text", *(f"{drawn:<{width}}{note(path)}" for drawn, path in lines), "```"]


def rooms(_: str) -> list[str]:
    """The rooms in order, with the first line of their docstrings and what they must not import."""
    lines = ["| room | content | must not import |", "|---|---|---|"]
    for room in ROOMS:
        path = ROOT / "src/dpc" / room.replace(".", "/")
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if not file.is_file():
            raise DocsError(f"scripts/rooms.py names {room}, and src/dpc has no such module: remove the room")
        forbidden = ", ".join(f"`{other}`" for other in FORBIDDEN.get(room, ()))
        lines.append(f"| `{room}` | {summary(file).replace('|', chr(92) + '|')} | {forbidden} |")
    return lines


def _help_pages(command: Any, context: Any, path: str) -> Iterator[str]:
    """Help of a command and of its subcommands: heading and text."""
    text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    yield from (f"## `{path}`", "", "```text", text, "```", "")
    if hasattr(command, "list_commands"):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if not child.hidden:
                inner = child.context_class(child, info_name=name, parent=context)
                yield from _help_pages(child, inner, f"{path} {name}")


def help_pages(_: str) -> list[str]:
    """The output of ``dpc --help`` and of every subcommand's help, without colours, at a fixed width."""
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
    """The JSON in a file of ``docs/results``, a copy of the ``origin`` that a command wrote."""
    path = ROOT / "docs/results" / name
    if not path.is_file():
        raise DocsError(f"{path.relative_to(ROOT)} is missing: copy the {origin} of the run that it stands for")
    return json.loads(path.read_text("utf-8"))


def results(argument: str) -> list[str]:
    """The table of ``docs/results/ARGUMENT.json``, a copy of a run's ``results.json``."""
    from dpc.records.results import parse_results
    from dpc.report import markdown_table

    kept = _kept(f"{argument}.json", "results.json")
    try:
        return markdown_table(parse_results(kept)).splitlines()
    except ValueError as error:
        raise DocsError(f"docs/results/{argument}.json is of another format: make and copy it again") from error


def finding(argument: str) -> list[str]:
    """The finding of figure F for the argument ``RUN-F``, from ``docs/results/RUN-analysis.json``."""
    run, _, figure = argument.rpartition("-")
    analysis = _kept(f"{run}-analysis.json", "analysis/analysis.json")
    if figure in analysis["not_drawn"]:
        return [f"> Not drawn: {analysis['not_drawn'][figure]}"]
    said = analysis["figures"][figure]
    return [f"> **{said['title']}.** {said['finding']}", ">", f"> {said['caption']}"]


def seeds(argument: str) -> list[str]:
    """Accuracy over tuning seeds, from ``docs/results/ARGUMENT-seeds.json``, a copy of a run's ``seeds.json``."""
    from dpc.records.seeds import parse_seeds
    from dpc.report.seeds_table import markdown_table

    return markdown_table(parse_seeds(_kept(f"{argument}-seeds.json", "seeds.json"))).splitlines()


def bench(_: str) -> list[str]:
    """The table of ``benchmarks/results.jsonl``, which ``dpc bench --write`` writes."""
    from benchmarks.table import markdown_lines, read_lines

    return markdown_lines(read_lines(ROOT / "benchmarks/results.jsonl"))


def models(argument: str) -> list[str]:
    """The table ARGUMENT of ``docs/results/models.json``, which ``make models`` writes."""
    return TABLES[argument](_kept("models.json", "results of make models"))


GENERATORS: dict[str, Callable[[str], list[str]]] = {
    "tree": tree,
    "rooms": rooms,
    "help": help_pages,
    "configuration": configuration,
    "results": results,
    "finding": finding,
    "seeds": seeds,
    "bench": bench,
    "models": models,
}


def render(text: str) -> str:
    """``text`` with every generated block replaced."""

    def block(match: re.Match[str]) -> str:
        if match["name"] not in GENERATORS:
            raise DocsError(f"no generator {match['name']}: there are {', '.join(GENERATORS)}")
        body = "\n".join(GENERATORS[match["name"]](match["argument"] or ""))
        return f"{match[1]}{body}\n{match[4]}"

    return BLOCK.sub(block, text)


def documents(check: bool) -> list[Path]:
    """README and the documents in ``docs/`` and ``benchmarks/``: the tracked ones to check, new ones too to write."""
    if check:
        names = [name for name in tracked_files(ROOT) if name.endswith(".md")]
    else:
        names = [path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*.md")]
    chosen = sorted(name for name in names if name.startswith(tuple(f"{folder}/" for folder in FOLDERS)))
    return [ROOT / name for name in ("README.md", *chosen)]


def main(check: bool) -> int:
    """Write all documents, or only compare them; returns the number of documents that failed."""
    failures = []
    for path in documents(check):
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
