"""The commands in the documents exist, with their arguments and options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from dpc.cli import app
from tests.paths import ROOT
from tracked import tracked_files

# The command line's reference is generated from the program, and the changelog names commands of older versions.
DOCUMENTS = [
    ROOT / name
    for name in tracked_files()
    if name.endswith(".md") and not name.startswith("src/") and name not in ("docs/cli.md", "CHANGELOG.md")
]
FENCE = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(dpc [^`]*)`")


def commands_in(text: str) -> Iterator[str]:
    """Lines of code blocks that begin with ``dpc``, with continued lines joined, and commands within a sentence."""
    for fence in FENCE.findall(text):
        lines = fence.replace("\\\n", "").splitlines()  # as a shell joins them
        stripped = (line.strip().removeprefix("srun ") for line in lines)
        yield from (line for line in stripped if line.startswith("dpc "))
    yield from re.findall(r"^ {4}(dpc .*)$", text, re.MULTILINE)
    # A command's name alone, as in "`dpc bench` measures", has no arguments to check.
    yield from (found for found in INLINE.findall(FENCE.sub("", text)) if len(found.split()) > 2)


def parse(command: str) -> None:
    """Parse a command line as the shell and the program would, without running the command."""
    arguments = shlex.split(command, comments=True)[1:]
    group = typer.main.get_command(app)
    context = group.make_context("dpc", arguments[:1], resilient_parsing=True)
    while hasattr(group, "commands"):
        name, *arguments = arguments
        assert name in group.commands, f"no command {name}"
        group = group.commands[name]
    group.make_context(name, [argument for argument in arguments if argument != "…"], parent=context)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_in_documents_are_valid(document: Path) -> None:
    for command in commands_in(document.read_text("utf-8")):
        try:
            parse(command)
        except Exception as error:
            raise AssertionError(f"{document.relative_to(ROOT)}: {command!r}: {error}") from error


def test_commands_after_srun_are_checked() -> None:
    assert list(commands_in("```sh\nsrun dpc run --output X\nhf download a/b\n```")) == ["dpc run --output X"]


def test_an_unknown_command_or_option_is_reported() -> None:
    [wrong] = commands_in("Say `dpc evaluate --output X` now, or `dpc`.")
    with pytest.raises(AssertionError, match="no command evaluate"):
        parse(wrong)
    with pytest.raises(Exception, match="--outputs"):
        parse("dpc eval --outputs X")
