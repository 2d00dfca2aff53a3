"""Accuracy over tuning seeds as a table, for a terminal and for a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich import box
from rich.table import Table

from dpc.report.formats import UNDEFINED, percent, points
from dpc.report.table import label

COLUMNS = ("method", "accuracy %", "vs prompt tuning, points", "each seed %")


def seeds_rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row a method in the order of ``COLUMNS``: means with their 95% intervals between seeds (Student's t).

    summary: of ``dpc.records.seeds.summarize_seeds``. What is not defined is a dash.
    """
    return [
        (
            label(name),
            _spread(method["accuracy"], percent),
            UNDEFINED if method["difference"] is None else _spread(method["difference"], points),
            " ".join(percent(value) for value in method["accuracy"]["values"]),
        )
        for name, method in summary["methods"].items()
    ]


def rich_table(summary: Mapping[str, Any]) -> Table:
    """The table for a terminal."""
    drawn = Table(box=box.SIMPLE, title=f"{len(summary['seeds'])} tuning seeds: mean (95% between seeds)")
    for index, heading in enumerate(COLUMNS):
        drawn.add_column(heading, justify="right" if index else "left")
    for row in seeds_rows(summary):
        drawn.add_row(*row)
    return drawn


def markdown_table(summary: Mapping[str, Any]) -> str:
    """The table for a text, without a line end."""
    rows = [COLUMNS, ("---", *["---:"] * (len(COLUMNS) - 1)), *seeds_rows(summary)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _spread(found: Mapping[str, Any], write: Callable[[float], str]) -> str:
    interval = found["interval"]
    return write(found["mean"]) + (f" ({write(interval[0])} to {write(interval[1])})" if interval else "")
