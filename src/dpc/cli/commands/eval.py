"""``dpc eval``: every method on a split."""

from __future__ import annotations

from typing import Annotated

import typer

from dpc.cli.options import (
    METHOD_NAMES,
    METHODS_HELP,
    Adapter,
    Device,
    Dtype,
    Limit,
    Model,
    OtherPrompts,
    Output,
    Prompt,
    Quantize,
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
    adapter: Adapter = None,
    task: TaskName = "zoo",
    data: Source = None,
    split: Annotated[str, typer.Option(help="train, dev or test.")] = "test",
    methods: Annotated[str, typer.Option(help=METHODS_HELP)] = METHOD_NAMES,
    limit: Limit = None,
    tau: Tau = None,
    settings: Set = None,
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    device: Device = "auto",
    threads: Threads = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Answer and grade a split with every method; print the table, write records, results and page.

    Instruct models are asked in their chat template: --set task.chat=off gives them the task's text alone. --set
    task.shots=3 puts three worked examples before the questions of methods without a soft prompt.
    """
    from dpc.methods import check_methods, get_methods
    from dpc.run.data import load_shots

    names = method_names(methods)
    check_methods(names)
    check_model(model, revision, adapter)
    chosen = settings_for(model, settings)
    folder = None if prompt is None else prompt_folder(prompt)
    others = [prompt_folder(each) for each in other_prompts or ()]
    rows = load_data(task, split, data, chosen, limit)
    shots = load_shots(rows.task, data, chosen.task, rows)
    from dpc.cli.progress import command_line, terminal
    from dpc.cli.show_results import show_results
    from dpc.records.directory import RunDirectory
    from dpc.run.setup import load_setup
    from dpc.run.stages import evaluate_methods

    run, values = RunDirectory(output, command_line()), get_methods(names)
    with run.lock(), terminal() as report:
        lm = load_model(model, dtype, device, revision, trust_remote_code, threads, quantize, adapter)
        setup = load_setup(lm, folder, values, chosen, task=rows.task.name, tau=tau, shots=shots, others=others)
        results = evaluate_methods(lm, setup, rows, values, chosen, run, report)
    show_results(results, output)
