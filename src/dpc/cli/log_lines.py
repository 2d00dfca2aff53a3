"""Progress as lines of a log: at most one every half minute for a stage, and a sign of life where nothing ends."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from dpc.run.reporter import Progress

EVERY_SECONDS = 30.0


def write_line(text: str) -> None:
    """A line on standard error, at once."""
    print(text, file=sys.stderr, flush=True)


class LogLines:
    """Writes how far a stage is after its first step, then every half minute, and at its end.

    write: writes a line. clock: seconds. Both are others in tests.
    """

    def __init__(self, write: Callable[[str], None] = write_line, clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock, self._lock = write, clock, threading.Lock()
        self._now: Progress | None = None
        self._first, self._began, self._written = 0, 0.0, 0.0
        self._silent = True

    def show(self, progress: Progress) -> None:
        """Take note of a step, and write a line if it is time for one."""
        with self._lock:
            before, self._now = self._now, progress
            if before is None or before.stage != progress.stage or progress.done < before.done:
                self._first, self._began, self._silent = progress.done, self._clock(), True
                self._written = self._began
            ended = progress.done >= progress.total
            stepped = progress.done > self._first or (before is None and ended)
            if ended or (stepped and self._silent) or self._clock() - self._written >= EVERY_SECONDS:
                self._line(progress)

    def tick(self) -> None:
        """Write how far the stage was, if its steps take so long that half a minute went by without a line."""
        with self._lock:
            under_way = self._now is not None and self._now.done < self._now.total
            if self._now is not None and under_way and self._clock() - self._written >= EVERY_SECONDS:
                self._line(self._now)

    def _line(self, progress: Progress) -> None:
        self._written, self._silent = self._clock(), False
        seconds, steps = self._written - self._began, progress.done - self._first
        parts = [f"{progress.stage} {progress.done}/{progress.total}", *filter(None, [progress.note])]
        if steps and seconds > 0 and progress.done < progress.total:
            parts += [_rate(steps / seconds), f"{_clock_time((progress.total - progress.done) * seconds / steps)} left"]
        elif seconds >= 1:
            parts.append(f"after {_clock_time(seconds)}")
        self._write(", ".join(parts))


def _rate(per_second: float) -> str:
    for unit, seconds in (("second", 1), ("minute", 60)):
        if per_second * seconds >= 1:
            return f"{per_second * seconds:.3g} a {unit}"
    return f"{per_second * 3600:.3g} an hour"


def _clock_time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


@contextmanager
def every(seconds: float, call: Callable[[], None]) -> Iterator[None]:
    """Inside, a thread calls ``call`` every so many seconds."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds):
            call()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def told_while_slow(
    what: str, write: Callable[[str], None] = write_line, seconds: float = EVERY_SECONDS
) -> Iterator[None]:
    """Inside, a line says every half minute that ``what`` goes on; nothing where it is done before."""
    began = time.monotonic()
    with every(seconds, lambda: write(f"{what}: {_clock_time(time.monotonic() - began)} so far")):
        yield
