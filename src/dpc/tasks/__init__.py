"""Benchmarks by name. A new one is a new file with a ``TASK`` and one line in ``TASKS``."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from traceback import extract_tb

from dpc.errors import UserError
from dpc.tasks.base import Task, data_sha256, graded, read_jsonl
from dpc.tasks.sources import jsonl_loader

__all__ = ["TASKS", "Task", "data_sha256", "get_task", "graded", "jsonl_loader", "read_jsonl", "task_of_run"]

TASKS = {
    "zoo": "dpc.tasks.zoo:TASK",
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
        UserError: with the known names for an unknown one; naming a file that has no ``TASK`` or does not run.
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
    name = f"dpc_task_{path.stem}"
    spec = spec_from_file_location(name, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise UserError(
            f"--task {path}: no such file; expected one of {', '.join(TASKS)}, or a Python file with a TASK"
        )
    module = module_from_spec(spec)
    sys.modules[name] = module  # as import does it: dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    # Whatever a user's file raises is a mistake in that file.
    except Exception as error:
        line = next((f.lineno for f in reversed(extract_tb(error.__traceback__)) if f.filename == str(path)), None)
        at = getattr(error, "lineno", None) or line or 1
        raise UserError(f"{path}:{at}: does not run ({type(error).__name__}: {error}); mend the file") from error
    task = getattr(module, "TASK", None)
    if not isinstance(task, Task):
        raise UserError(f"{path}: has no TASK; end the file with TASK = Task(...), as docs/new-task.md shows")
    return task


def task_of_run(known: str, given: str | None, run: object) -> Task:
    """The task of the run directory ``run``, which calls it ``known``; ``given`` is needed for one that is a file.

    Raises ``UserError`` for another task, or where a file is needed and not given.
    """
    if given is None and known not in TASKS:
        raise UserError(f"{run}: its task, {known}, does not come with dpc; pass --task, the task's file")
    task = get_task(given or known)
    if task.name != known:
        raise UserError(f"--task {given}: is {task.name}, but {run} is a run of {known}")
    return task
