"""``dpc trace``: one question, seen from inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpc.cli.options import Device, Dtype, Model, Revision, Set, TaskName, Tau, load_model, settings_for


def trace(
    question: Annotated[str, typer.Argument(help="One question.")],
    prompt: Annotated[Path, typer.Option(help="Folder of the soft prompt, a PEFT adapter.")],
    html: Annotated[Path | None, typer.Option(help="Write a page with all of it to this file.")] = None,
    npz: Annotated[Path | None, typer.Option(help="Write the arrays to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON, and nothing else.")] = False,
    token: Annotated[int | None, typer.Option(help="Soft token to mask; none: the one that gathers most.")] = None,
    model: Model = "zoo",
    revision: Revision = None,
    task: TaskName = "zoo",
    tau: Tau = None,
    settings: Set = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Show what happens to one question: both answers, the decision, and where the prompt's influence goes."""
    from dpc.cli.session import Session
    from dpc.cli.trace import show_trace
    from dpc.tasks import get_task

    chosen, known = settings_for(model, settings), get_task(task)
    session = Session(load_model(model, dtype, device, revision), known, prompt, tau, chosen)
    show_trace(session, question, token, as_json=as_json, npz=npz, html=html)
