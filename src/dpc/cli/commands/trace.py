"""``dpc trace``: one question, seen from inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpc.cli.options import Device, Dtype, Model, Set, TaskName, Tau, load_model, settings_for


def trace(
    question: Annotated[str, typer.Argument(help="One question.")],
    prompt: Annotated[Path, typer.Option(help="Folder of the soft prompt, a PEFT adapter.")],
    npz: Annotated[Path | None, typer.Option(help="Write the numbers to this file.")] = None,
    model: Model = "zoo",
    task: TaskName = "zoo",
    tau: Tau = None,
    settings: Set = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Show what happens to one question: both answers, the decision, and where the prompt's influence goes."""
    from dpc.cli.questions import show_trace
    from dpc.tasks import get_task

    chosen, known = settings_for(model, settings), get_task(task)
    show_trace(load_model(model, dtype, device), known, question, prompt, tau, chosen, npz)
