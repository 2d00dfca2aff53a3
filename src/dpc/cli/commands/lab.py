"""``dpc lab``: a page to ask questions on, and to move what the method leaves open."""

from __future__ import annotations

from typing import Annotated

import typer

from dpc.cli.options import (
    Adapter,
    Device,
    Dtype,
    Model,
    NeededPrompt,
    OneMethod,
    Quantize,
    Revision,
    Set,
    TaskName,
    Tau,
    Threads,
    TrustRemoteCode,
    check_model,
    load_model,
    prompt_folder,
    settings_for,
    tell,
)


def lab(
    prompt: NeededPrompt,
    method: OneMethod = "dpc",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of this machine alone; 0: any that is free.")] = 8000,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    model: Model = "zoo",
    revision: Revision = None,
    adapter: Adapter = None,
    task: TaskName = "zoo",
    tau: Tau = None,
    settings: Set = None,
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    device: Device = "auto",
    threads: Threads = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Serve a page on this machine: type a question, move tau and gamma, choose the token to mask, see what changes."""
    from dpc.methods import check_methods, get_method
    from dpc.tasks import get_task

    check_methods([method])
    check_model(model, revision, adapter)
    chosen, known = settings_for(model, settings), get_task(task)
    folder = prompt_folder(prompt)
    from dpc.cli.lab import run_lab
    from dpc.run.session import Session

    lm = load_model(model, dtype, device, revision, trust_remote_code, threads, quantize, adapter)
    session = Session(lm, known, folder, chosen, get_method(method), tau)
    tell(session.format_note)
    run_lab(session, port, open_browser)
