"""Progress and messages: bars on a terminal, lines in a log."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from dpc.cli.log_lines import LogLines, every, write_line
from dpc.cli.signals import after_step
from dpc.run.reporter import Progress

screen = Console(stderr=True)
table = Console()
# How often a log is looked at; a line is written every half minute.
_TICK_SECONDS = 1.0


def command_line() -> str:
    """What the user typed."""
    return " ".join(["dpc", *sys.argv[1:]])


def is_log() -> bool:
    """Whether standard error is a file, a pipe or a terminal that cannot move its cursor."""
    return not sys.stderr.isatty() or screen.is_dumb_terminal


class Terminal:
    """Shows progress and messages on standard error, and ends the command after a step if a signal asked for it."""

    def __init__(self, show: Callable[[Progress], None], say: Callable[[str], None]) -> None:
        self._show, self._say = show, say

    def progress(self, progress: Progress) -> None:
        """Show how far a stage is. Raises ``KeyboardInterrupt`` if a signal has come."""
        self._show(progress)
        after_step(progress.done < progress.total)

    def say(self, text: str) -> None:
        """Print a line."""
        self._say(text)


@contextmanager
def terminal() -> Iterator[Terminal]:
    """A reporter. Its bars disappear from the terminal's control when the block ends."""
    if is_log():
        lines = LogLines()
        with every(_TICK_SECONDS, lines.tick):
            yield Terminal(lines.show, write_line)
        return
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    bars = Bars(*columns, console=screen)
    rows: dict[str, int] = {}

    def show(progress: Progress) -> None:
        # The first step starts the bars, so that an error before it is the only line.
        bars.start()
        if progress.stage not in rows:
            rows[progress.stage] = bars.add_task(progress.stage, total=progress.total, note="")
        bars.update(rows[progress.stage], completed=progress.done, total=progress.total, note=progress.note)  # type: ignore[arg-type]

    try:
        yield Terminal(show, lambda text: screen.print(text, highlight=False, markup=False))
    finally:
        if bars.live.is_started:
            bars.stop()
