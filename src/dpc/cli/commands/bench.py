"""``dpc bench``: figures of speed and memory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

import dpc
from dpc.errors import UserError


def bench(
    points: Annotated[
        list[str] | None, typer.Argument(help="What to measure; none: everything, which takes over half an hour.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each thing, in turn; the median counts.")] = 5,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer instances and shorter ones: a try, not a result.")
    ] = False,
    prompt: Annotated[
        Path | None, typer.Option(help="Folder of a soft prompt for `zoo`; none: one is tuned and kept in the cache.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a figure, with raw numbers.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Keep the figures in benchmarks/results.jsonl.")] = False,
) -> None:
    """Measure dpc against what a careful user of PEFT and transformers would write (benchmarks/naive.py)."""
    _find_benchmarks()
    from benchmarks.points import check_points

    check_points(points or [])
    from benchmarks.command import run_bench

    run_bench(points or [], repeats, quick, prompt, as_json, write)


def _find_benchmarks() -> None:
    """Make ``benchmarks/`` importable: it is part of the checkout, not of the package.

    Raises ``UserError`` where dpc runs from no checkout.
    """
    checkout = Path(dpc.__file__).resolve().parents[2]
    if not (checkout / "benchmarks" / "naive.py").is_file():
        raise UserError("dpc bench: no benchmarks/ beside this package; run it in a checkout, installed with pip -e")
    if str(checkout) not in sys.path:
        sys.path.append(str(checkout))
