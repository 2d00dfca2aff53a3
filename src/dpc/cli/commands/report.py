"""``dpc report``: the page of a run, written again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(run: Annotated[Path, typer.Argument(help="Folder of an evaluated run.")]) -> None:
    """Write RUN/report.html, a self-contained page, and print the verdict.

    The numbers are computed from the records. Where results.json differs, a note is printed.
    """
    from dpc.report import read_run, verdict, write_run_page

    found = read_run(run)
    page = write_run_page(found)
    for note in found.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(verdict(found.results))
    typer.echo(f"page: {page.resolve().as_uri()}")
