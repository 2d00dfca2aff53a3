"""``dpc calibrate``: what a method chooses on the dev split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dpc.cli.options import (
    Device,
    Dtype,
    Limit,
    Model,
    Revision,
    Set,
    Source,
    TaskName,
    load_data,
    load_model,
    settings_for,
)
from dpc.errors import UserError


def calibrate(
    prompt: Annotated[Path, typer.Option(help="Folder of the soft prompt, a PEFT adapter.")],
    model: Model = "zoo",
    revision: Revision = None,
    task: TaskName = "zoo",
    data: Source = None,
    split: Annotated[str, typer.Option(help="Split to choose on.")] = "dev",
    method: Annotated[
        Literal["dpc", "act"], typer.Option(help="dpc: the trigger's threshold; act: the heads to calibrate.")
    ] = "dpc",
    limit: Limit = None,
    settings: Set = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Choose the trigger's threshold, or ACT's heads, on the dev split, and store it beside the adapter."""
    from dpc.cli.act import calibrate_act_with_progress
    from dpc.cli.stages import calibrate_with_progress

    if split == "test":
        raise UserError(f"--split test: what {method} chooses on test rows spoils the test; expected dev or train")
    chosen = settings_for(model, settings)
    rows = load_data(task, split, data, chosen, limit)
    run = {"dpc": calibrate_with_progress, "act": calibrate_act_with_progress}[method]
    run(load_model(model, dtype, device, revision), prompt, rows, chosen, prompt)
