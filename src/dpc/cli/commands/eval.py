"""``dpc eval``: every method on a split."""

from __future__ import annotations

from typing import Annotated

import typer

from dpc.cli.options import (
    METHOD_NAMES,
    METHODS_HELP,
    Device,
    Dtype,
    Limit,
    Model,
    OtherPrompts,
    Output,
    Prompt,
    Revision,
    Set,
    Source,
    TaskName,
    Tau,
    Threads,
    TrustRemoteCode,
    check_model,
    load_data,
    load_model,
    method_names,
    prompt_folder,
    settings_for,
)


def evaluate(
    output: Output,
    prompt: Prompt = None,
    other_prompts: OtherPrompts = None,
    model: Model = "zoo",
    revision: Revision = None,
    task: TaskName = "zoo",
    data: Source = None,
    split: Annotated[str, typer.Option(help="train, dev or test.")] = "test",
    methods: Annotated[str, typer.Option(help=METHODS_HELP)] = METHOD_NAMES,
    limit: Limit = None,
    tau: Tau = None,
    settings: Set = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    threads: Threads = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Answer and grade a split with every method; print the table, write records, results and page."""
    from dpc.methods import check_methods, get_methods

    names = method_names(methods)
    check_methods(names)
    check_model(model, revision)
    chosen = settings_for(model, settings)
    folder = None if prompt is None else prompt_folder(prompt)
    others = [prompt_folder(each) for each in other_prompts or ()]
    rows = load_data(task, split, data, chosen, limit)
    from dpc.cli.progress import command_line, terminal
    from dpc.cli.show_results import show_results
    from dpc.records.directory import RunDirectory
    from dpc.run.setup import load_setup
    from dpc.run.stages import evaluate_methods

    run, values = RunDirectory(output, command_line()), get_methods(names)
    with run.lock(), terminal() as report:
        lm = load_model(model, dtype, device, revision, trust_remote_code, threads)
        setup = load_setup(lm, folder, values, chosen, task=rows.task.name, tau=tau, others=others)
        results = evaluate_methods(lm, setup, rows, values, chosen, run, report)
    show_results(results, output)
