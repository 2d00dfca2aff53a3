"""``dpc report``: the page of a run, made again from what the run left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(run: Annotated[Path, typer.Argument(help="Folder of a run that was evaluated.")]) -> None:
    """Write RUN/report.html, one page that holds everything it shows, and say what the run found."""
    from dpc.report import verdict, write_page
    from dpc.report.schema import read_results

    page = write_page(run)
    typer.echo(verdict(read_results(run / "results.json")))
    typer.echo(f"page: {page.resolve().as_uri()}")
