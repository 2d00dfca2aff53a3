"""``dpc calibrate``: the threshold of the trigger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpc.cli.options import Device, Dtype, Limit, Model, Set, Source, TaskName, load_data, load_model, settings_for
from dpc.errors import UserError


def calibrate(
    prompt: Annotated[Path, typer.Option(help="Folder of the soft prompt, a PEFT adapter.")],
    model: Model = "zoo",
    task: TaskName = "zoo",
    data: Source = None,
    split: Annotated[str, typer.Option(help="Split to choose the threshold on.")] = "dev",
    limit: Limit = None,
    settings: Set = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Choose the trigger's threshold on the dev split, and store it beside the adapter."""
    from dpc.cli.stages import calibrate_with_progress

    if split == "test":
        raise UserError("--split test: a threshold chosen on test rows spoils the test; expected dev or train")
    chosen, rows = settings_for(model, settings), load_data(task, split, data, limit)
    calibrate_with_progress(load_model(model, dtype, device), prompt, rows, chosen, prompt)
