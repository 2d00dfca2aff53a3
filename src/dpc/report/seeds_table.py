"""The table of several tuning seeds, for a terminal and for a text."""

from __future__ import annotations

from collections.abc import Callable

from rich import box
from rich.table import Table

from dpc.records.seeds import FEWEST_SEEDS, SeedsResult, Spread
from dpc.report.formats import UNDEFINED, method_label, percent, points

COLUMNS = ("method", "accuracy %", "vs prompt tuning, points", "each seed %")


def seeds_rows(found: SeedsResult) -> list[tuple[str, ...]]:
    """A row per method in the order of ``COLUMNS``: means with their 95% intervals between seeds (Student's t).

    There is no interval for fewer than three seeds. What is not defined is a dash.
    """
    return [
        (
            method_label(name),
            _spread(method.accuracy, percent),
            UNDEFINED if method.difference is None else _spread(method.difference, points),
            " ".join(percent(value) for value in method.accuracy.values),
        )
        for name, method in found.methods.items()
    ]


def rich_table(found: SeedsResult) -> Table:
    """The table for a terminal."""
    count = len(found.seeds)
    enough = count >= FEWEST_SEEDS
    title = f"{count} tuning seeds: mean{' (95% CI between seeds)' if enough else ''}"
    drawn = Table(box=box.SIMPLE, title=title, caption=None if enough else too_few(found))
    for index, heading in enumerate(COLUMNS):
        drawn.add_column(heading, justify="right" if index else "left")
    for row in seeds_rows(found):
        drawn.add_row(*row)
    return drawn


def markdown_table(found: SeedsResult) -> str:
    """The table for a text, without a line end; below it a line where there are too few seeds for an interval."""
    rows = [COLUMNS, ("---", *["---:"] * (len(COLUMNS) - 1)), *seeds_rows(found)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines if len(found.seeds) >= FEWEST_SEEDS else [*lines, "", f"{too_few(found)}."])


def too_few(found: SeedsResult) -> str:
    """Why there is no interval."""
    count = len(found.seeds)
    seeds = "1 seed is" if count == 1 else f"{count} seeds are"
    return f"{seeds} too few for an interval between seeds: use {FEWEST_SEEDS} or more"


def _spread(spread: Spread, write: Callable[[float], str]) -> str:
    interval = spread.interval
    return write(spread.mean) + (f" ({write(interval[0])} to {write(interval[1])})" if interval else "")
