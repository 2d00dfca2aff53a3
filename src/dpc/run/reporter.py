"""Progress of a stage, and the protocol of what shows it: a terminal, a notebook, nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stage is, before its first step and after each.

    stage: ``tune``, ``calibrate``, ``act``, ``analyze``, or the method that answers. done of total: updates, rows,
    heads or instances, as the stage counts. note: its figures so far, in words.
    """

    stage: str
    done: int
    total: int
    note: str = ""


@runtime_checkable
class Reporter(Protocol):
    """Shows progress and messages: a terminal, a notebook, or nothing."""

    def progress(self, progress: Progress) -> None:
        """Called before the first step of a stage and after each, which is kept by then, if this raises."""
        ...

    def say(self, text: str) -> None:
        """A line for the user, such as a chosen threshold."""
        ...


class Silent:
    """Shows nothing."""

    def progress(self, progress: Progress) -> None:
        """Ignored."""

    def say(self, text: str) -> None:
        """Ignored."""


SILENT = Silent()
