"""SIGINT, SIGTERM and SIGUSR1 end a command after the update or batch under way; what it computed is kept."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# A step that takes longer is given up: SLURM kills 30 seconds after SIGTERM.
PATIENCE_SECONDS = 20.0
# Ctrl-C reaches a process twice where a launcher forwards it. Signals this close together are one.
_SAME_SECONDS = 0.5


class Stop:
    """Ends the command that runs in the main thread by ``KeyboardInterrupt``, between two steps of a stage.

    received: the first signal, None before. Where no stage is under way, the interrupt is raised at once; so it is for
    a second signal, and for a step that goes on for ``PATIENCE_SECONDS``. A third signal acts as if nothing handled it.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._at = 0.0
        self._in_stage = False

    @property
    def code(self) -> int:
        """Exit code, as a shell gives it: 130 for SIGINT, 143 for SIGTERM, 138 for SIGUSR1."""
        return 128 + (self.received or signal.SIGINT)

    def after_step(self, more: bool) -> None:
        """Raise ``KeyboardInterrupt`` if a signal came. more: whether another step of the stage follows."""
        self._in_stage = more
        if self.received is not None:
            self._raise()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler of all ``SIGNALS``, and of the alarm that ends the patience."""
        if self.received is not None:
            if number == signal.SIGALRM or time.monotonic() - self._at > _SAME_SECONDS:
                self._raise()
            return
        self.received, self._at = signal.Signals(number), time.monotonic()
        if not self._in_stage:
            self._raise()
        signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS)
        if os.isatty(2):
            # Not print: the signal may have come in the middle of one.
            os.write(2, f"\n{self.received.name}: ends after this step; again to end at once\n".encode())

    def _raise(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in SIGNALS:
            if signal.getsignal(number) == self.handle:
                signal.signal(number, self._last)
        raise KeyboardInterrupt

    def _last(self, number: int, frame: FrameType | None) -> None:
        """While the command ends: a signal that is no repetition acts as if nothing handled it."""
        if time.monotonic() - self._at > _SAME_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


_CURRENT: ContextVar[Stop | None] = ContextVar("stop", default=None)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Inside, signals end the command as ``Stop`` says. A signal that was ignored, as under nohup, stays ignored.

    Outside of the main thread no handler is installed, because Python allows none there.
    """
    stop, before = Stop(), {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                before[number] = signal.signal(number, stop.handle)
        before[signal.SIGALRM] = signal.signal(signal.SIGALRM, stop.handle)
    token = _CURRENT.set(stop)
    try:
        yield stop
    finally:
        if before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
        _CURRENT.reset(token)


def after_step(more: bool) -> None:
    """``Stop.after_step`` of the command that runs; nothing outside of one."""
    stop = _CURRENT.get()
    if stop is not None:
        stop.after_step(more)
