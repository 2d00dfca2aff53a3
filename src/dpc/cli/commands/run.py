"""``dpc run``: everything in a row."""

from __future__ import annotations

from typing import Annotated

import typer

from dpc.cli.options import (
    METHOD_NAMES,
    Device,
    Dtype,
    Limit,
    Model,
    Output,
    Set,
    Source,
    TaskName,
    load_data,
    load_model,
    method_names,
    settings_for,
)


def run(
    output: Output,
    model: Model = "zoo",
    task: TaskName = "zoo",
    data: Source = None,
    methods: Annotated[str, typer.Option(help="Comma-separated.")] = METHOD_NAMES,
    limit: Limit = None,
    settings: Set = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Do everything: tune a prompt, choose the threshold, evaluate every method, write table and page."""
    from dpc.cli.stages import run_everything
    from dpc.pipeline import refuse_shared_rows, row_keys

    chosen = settings_for(model, settings)
    splits = {
        split: load_data(task, split, data, limit if split == "test" else None) for split in ("train", "dev", "test")
    }
    for split in ("train", "dev"):
        refuse_shared_rows(splits["test"], row_keys(splits[split]).keys(), f"tune or choose ({split} split)")
    run_everything(load_model(model, dtype, device), splits, method_names(methods), chosen, output)
