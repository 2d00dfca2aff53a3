"""Progress and messages on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from dpc.run.reporter import Progress

screen = Console(stderr=True)
table = Console()


def command_line() -> str:
    """What the user typed."""
    return " ".join(["dpc", *sys.argv[1:]])


class Terminal:
    """A bar for every stage, on standard error, and messages above the bars."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._rows: dict[str, int] = {}

    def progress(self, progress: Progress) -> None:
        """Show how far a stage is. The first call starts the bars, so that an error before it is the only line."""
        self._bars.start()
        if progress.stage not in self._rows:
            self._rows[progress.stage] = self._bars.add_task(progress.stage, total=progress.total, note="")
        row = self._rows[progress.stage]
        self._bars.update(row, completed=progress.done, total=progress.total, note=progress.note)  # type: ignore[arg-type]

    def say(self, text: str) -> None:
        """Print a line."""
        screen.print(text, highlight=False, markup=False)


@contextmanager
def terminal() -> Iterator[Terminal]:
    """A reporter whose bars disappear from the terminal's control when the block ends."""
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    bars = Bars(*columns, console=screen)
    try:
        yield Terminal(bars)
    finally:
        if bars.live.is_started:
            bars.stop()
