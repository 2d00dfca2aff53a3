"""``dpc score``: texts that were generated elsewhere, graded without a model."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from dpc.cli.options import Set, Source, TaskName


def score(
    predictions: Annotated[
        Path,
        typer.Option(
            help="JSON lines with `text`, and `id` unless they are in the order of the rows; or a samples file of "
            "lm-evaluation-harness."
        ),
    ],
    task: TaskName = "zoo",
    data: Source = None,
    split: Annotated[str, typer.Option(help="Split that the texts answer.")] = "test",
    partial: Annotated[bool, typer.Option("--partial", help="Grade only the rows that have a text.")] = False,
    settings: Set = None,
    output: Annotated[Path | None, typer.Option(help="File for the grade of every row, as JSON lines.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Grade texts that were generated elsewhere: no model is loaded."""
    from dpc.cli.progress import terminal
    from dpc.cli.show_grades import print_grades
    from dpc.files import check_output
    from dpc.run.reporter import SILENT
    from dpc.run.score import grade_file, write_grades
    from dpc.settings import parse_settings
    from dpc.tasks import get_task

    chosen = parse_settings(settings or [], {}).task
    if output is not None:
        rows = Path(data or "").expanduser()
        check_output(output, "--output", [predictions, Path(task), rows, *(rows.glob("*") if data else ())])
    with terminal() if sys.stderr.isatty() else nullcontext(SILENT) as reporter:
        grades = grade_file(get_task(task), split, data, predictions, chosen, partial=partial, reporter=reporter)
    if as_json:
        typer.echo(grades.as_json())
    else:
        print_grades(grades)
    if output is not None:
        write_grades(grades, output)
