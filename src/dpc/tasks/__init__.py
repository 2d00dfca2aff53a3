"""Benchmarks by name. A benchmark is one module with a ``TASK`` and one line in ``TASKS``."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

from dpc.errors import UserError
from dpc.files import load_from_file
from dpc.tasks.base import Task, data_sha256, graded, read_jsonl
from dpc.tasks.sources import jsonl_loader

__all__ = ["TASKS", "Task", "data_sha256", "get_task", "graded", "jsonl_loader", "read_jsonl", "task_of_run"]

TASKS = {
    "zoo": "dpc.tasks.word_problems:TASK",
    "gsm8k": "dpc.tasks.gsm8k:TASK",
    "math": "dpc.tasks.math:TASK",
    "aqua": "dpc.tasks.aqua:TASK",
    "prontoqa": "dpc.tasks.prontoqa:TASK",
    "arc_challenge": "dpc.tasks.arc_challenge:TASK",
    "worldtree": "dpc.tasks.worldtree:TASK",
}


def get_task(name: str) -> Task:
    """The task of that name, or the ``TASK`` of a Python file where the name ends in ``.py``.

    Raises:
        UserError: with the known names for an unknown one, or naming a file that has no ``TASK`` or does not run.
    """
    if name.endswith(".py"):
        return _task_of_file(Path(name).expanduser())
    if name not in TASKS:
        near = get_close_matches(name.lower(), TASKS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"unknown task {name!r}: known are {', '.join(TASKS)}, and files that end in .py{hint}")
    module, attribute = TASKS[name].split(":")
    task: Task = getattr(import_module(module), attribute)
    return task


def _task_of_file(path: Path) -> Task:
    task = load_from_file(path, "TASK", "--task", "docs/new-task.md")
    if not isinstance(task, Task):
        raise UserError(f"{path}: its TASK is no Task; end the file with TASK = Task(...), as docs/new-task.md shows")
    return task


def task_of_run(known: str, given: str | None, run: object) -> Task:
    """The task of a run directory.

    known: the task's name in the run. given: the value of ``--task``, needed for a task that is a file. run: the
    directory, for messages. Raises ``UserError`` for another task, or where a file is needed and not given.
    """
    if given is None and known not in TASKS:
        raise UserError(f"{run}: its task, {known}, does not come with dpc; pass --task, the task's file")
    task = get_task(given or known)
    if task.name != known:
        raise UserError(f"--task {given}: is the task {task.name!r}, but {run} is a run of {known!r}; pass that task")
    return task
