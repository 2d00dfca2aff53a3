"""``dpc lab``: a page to ask questions on, and to move what the method leaves open."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpc.cli.options import Device, Dtype, Model, Revision, Set, TaskName, Tau, load_model, settings_for


def lab(
    prompt: Annotated[Path, typer.Option(help="Folder of the soft prompt, a PEFT adapter.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of this machine alone; 0: any that is free.")] = 8000,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    model: Model = "zoo",
    revision: Revision = None,
    task: TaskName = "zoo",
    tau: Tau = None,
    settings: Set = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Serve a page on this machine: type a question, move tau and gamma, choose the token to mask, see what changes."""
    from dpc.cli.lab import run_lab
    from dpc.cli.session import Session
    from dpc.tasks import get_task

    chosen, known = settings_for(model, settings), get_task(task)
    run_lab(Session(load_model(model, dtype, device, revision), known, prompt, tau, chosen), port, open_browser)
