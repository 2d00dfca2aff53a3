"""The tutorial notebook runs from top to bottom, and its kept outputs are those of such a run."""

from __future__ import annotations

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook

import tutorial
from tests.test_docs_commands import commands_in, parse
from tests.test_house import MACHINE_PATH

KEPT = nbformat.read(tutorial.NOTEBOOK, as_version=4)
CODE = [cell for cell in KEPT.cells if cell.cell_type == "code"]
LARGEST = 1_500_000


def kinds(cells: list[nbformat.NotebookNode]) -> list[list[list[str]]]:
    """For each cell, the kinds of its outputs: the stream's name, or the formats of a value."""
    return [[sorted(output.get("data", [output.get("name")])) for output in cell.outputs] for cell in cells]


@pytest.mark.slow
def test_every_cell_runs_and_gives_outputs_of_the_kinds_that_are_kept() -> None:
    executed = tutorial.execute(nbformat.read(tutorial.NOTEBOOK, as_version=4))
    assert kinds([cell for cell in executed.cells if cell.cell_type == "code"]) == kinds(CODE)


def test_a_cell_that_raises_is_an_error() -> None:
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        tutorial.execute(new_notebook(cells=[new_code_cell("1 / 0")]))


def test_progress_bars_and_times_are_not_kept() -> None:
    cell = new_code_cell("import sys\nprint('kept')\nprint('bar', file=sys.stderr)")
    executed = tutorial.execute(new_notebook(cells=[cell]))
    assert [(output.name, output.text) for output in executed.cells[0].outputs] == [("stdout", "kept\n")]
    assert "execution" not in executed.cells[0].metadata


def test_the_kept_outputs_are_of_one_run_from_top_to_bottom() -> None:
    assert [cell.execution_count for cell in CODE] == list(range(1, len(CODE) + 1))
    assert not [output for cell in CODE for output in cell.outputs if output.output_type == "error"]


def test_the_kept_outputs_name_no_path_of_a_machine() -> None:
    shown = [str(data) for cell in CODE for output in cell.outputs for data in (output.get("text"), output.get("data"))]
    assert not [found[0] for text in shown if (found := MACHINE_PATH.search(text))]


def test_the_notebook_is_small_enough_for_a_browser() -> None:
    assert tutorial.NOTEBOOK.stat().st_size < LARGEST


def test_the_commands_in_the_text_exist() -> None:
    commands = [found for cell in KEPT.cells if cell.cell_type == "markdown" for found in commands_in(cell.source)]
    assert len(commands) > 5
    for command in commands:
        parse(command)
