"""``dpc eval``: every method on a split."""

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
    Prompt,
    Revision,
    Set,
    Source,
    TaskName,
    Tau,
    load_data,
    load_model,
    method_names,
    settings_for,
)


def evaluate(
    output: Output,
    prompt: Prompt = None,
    model: Model = "zoo",
    revision: Revision = None,
    task: TaskName = "zoo",
    data: Source = None,
    split: Annotated[str, typer.Option(help="train, dev or test.")] = "test",
    methods: Annotated[str, typer.Option(help="Comma-separated.")] = METHOD_NAMES,
    limit: Limit = None,
    tau: Tau = None,
    settings: Set = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Answer and grade a split with every method; print the table, write records, results and page."""
    from dpc.cli.stages import evaluate_with_progress
    from dpc.methods import check_methods

    names = method_names(methods)
    check_methods(names)
    chosen = settings_for(model, settings)
    rows = load_data(task, split, data, chosen, limit)
    evaluate_with_progress(load_model(model, dtype, device, revision), prompt, rows, names, chosen, output, tau)
