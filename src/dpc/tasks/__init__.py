"""Benchmarks by name. A new one is a new file with a ``TASK`` and one line in ``TASKS``."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module

from dpc.errors import UserError
from dpc.tasks.base import Task, data_sha256, read_jsonl

__all__ = ["TASKS", "Task", "data_sha256", "get_task", "read_jsonl"]

TASKS = {
    "zoo": "dpc.tasks.zoo:TASK",
    "gsm8k": "dpc.tasks.gsm8k:TASK",
}


def get_task(name: str) -> Task:
    """The task of that name; ``UserError`` with the known names where there is none."""
    if name not in TASKS:
        near = get_close_matches(name.lower(), TASKS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"unknown task {name!r}: known are {', '.join(TASKS)}{hint}")
    module, attribute = TASKS[name].split(":")
    task: Task = getattr(import_module(module), attribute)
    return task
