"""``dpc trace``: one question, its flow of information and its decision."""

from __future__ import annotations

from pathlib import Path
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


def trace(
    question: Annotated[str, typer.Argument(help="One question.")],
    prompt: NeededPrompt,
    method: OneMethod = "dpc",
    html: Annotated[Path | None, typer.Option(help="Write a page with all of it to this file.")] = None,
    npz: Annotated[Path | None, typer.Option(help="Write the arrays to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON, and nothing else.")] = False,
    token: Annotated[
        int | None, typer.Option(help="Virtual token to mask; none: the one that the method chooses.")
    ] = None,
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
    """Show what happens to one question: both answers, the decision, and where the prompt's influence goes."""
    from dpc.files import check_output
    from dpc.methods import check_methods, get_method
    from dpc.tasks import get_task

    check_methods([method])
    check_model(model, revision, adapter)
    for path, option in ((html, "--html"), (npz, "--npz")):
        if path is not None:
            check_output(path, option)
    chosen, known = settings_for(model, settings), get_task(task)
    folder = prompt_folder(prompt)
    from dpc.cli.show_trace import show_trace
    from dpc.run.session import Session

    lm = load_model(model, dtype, device, revision, trust_remote_code, threads, quantize, adapter)
    session = Session(lm, known, folder, chosen, get_method(method), tau)
    tell(session.format_note)
    show_trace(session.trace(question, token=token), as_json=as_json, npz=npz, html=html)
