"""``dpc tune``: a soft prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpc.cli.options import Device, Dtype, Model, Revision, Set, Source, TaskName, load_data, load_model, settings_for


def tune(
    output: Annotated[Path, typer.Option(help="Folder for the adapter.")],
    model: Model = "zoo",
    revision: Revision = None,
    task: TaskName = "zoo",
    data: Source = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a tuning that was interrupted.")] = False,
    settings: Set = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Tune a soft prompt on the train split; the best on the dev split is kept as a PEFT adapter."""
    from dpc.cli.stages import tune_with_progress

    chosen = settings_for(model, settings)
    train, dev = load_data(task, "train", data, chosen), load_data(task, "dev", data, chosen)
    tune_with_progress(load_model(model, dtype, device, revision), train, dev, chosen, output, resume)
