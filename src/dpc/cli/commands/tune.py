"""``dpc tune``: a soft prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpc.cli.options import (
    Adapter,
    Device,
    Dtype,
    Model,
    Quantize,
    Revision,
    Set,
    Source,
    TaskName,
    Threads,
    TrustRemoteCode,
    check_model,
    load_data,
    load_model,
    settings_for,
)


def tune(
    output: Annotated[Path, typer.Option(help="Folder for the adapter; the same command goes on where it stopped.")],
    model: Model = "zoo",
    revision: Revision = None,
    adapter: Adapter = None,
    task: TaskName = "zoo",
    data: Source = None,
    settings: Set = None,
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    device: Device = "auto",
    threads: Threads = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Tune a soft prompt on the train split; the best on the dev split is kept as a PEFT adapter."""
    check_model(model, revision, adapter)
    chosen = settings_for(model, settings)
    train, dev = load_data(task, "train", data, chosen), load_data(task, "dev", data, chosen)
    from dpc.cli.progress import terminal
    from dpc.records.directory import RunDirectory
    from dpc.run.stages import tune_prompt

    with RunDirectory(output).lock(), terminal() as report:
        for rows in (train, dev):
            if (left_out := rows.left_out()) is not None:
                report.say(f"note: {left_out}")
        lm = load_model(model, dtype, device, revision, trust_remote_code, threads, quantize, adapter)
        tune_prompt(lm, train, dev, chosen, output, resume=True, report=report)
