"""``dpc compare``: a paired comparison of two runs."""

from __future__ import annotations

from typing import Annotated

import typer


def compare(
    a: Annotated[str, typer.Argument(help="Folder of a run; RUN:METHOD for one method of it.", metavar="A")],
    b: Annotated[str, typer.Argument(help="The run, or method, that is compared with it.", metavar="B")],
    method: Annotated[
        str | None,
        typer.Option(help="Method of both runs, where A and B name none; none: every method that both have."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every row fixed or broken.")] = False,
) -> None:
    """Compare two runs, or two methods, on the rows that both answered: difference, intervals, test, settings."""
    from dpc.cli.show_comparison import print_comparison
    from dpc.records.compare import Side, compare_runs

    compared = compare_runs(Side.parse(a), Side.parse(b), method)
    if as_json:
        typer.echo(compared.as_json())
    else:
        print_comparison(compared)
