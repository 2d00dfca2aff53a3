"""``dpc generate``: your own questions, as JSON lines."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from dpc.cli.options import (
    METHODS_HELP,
    Device,
    Dtype,
    Limit,
    Model,
    Prompt,
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
)


def generate(
    source: Annotated[
        str,
        typer.Argument(
            help="File of JSON lines with `question`, and `choices` (texts) where there are options; `-`: standard "
            "input."
        ),
    ],
    prompt: Prompt = None,
    model: Model = "zoo",
    revision: Revision = None,
    task: TaskName = "zoo",
    method: Annotated[str, typer.Option(help=f"One method. {METHODS_HELP}")] = "dpc",
    limit: Limit = None,
    output: Annotated[Path | None, typer.Option(help="File for the answers; none: standard output.")] = None,
    unordered: Annotated[
        bool, typer.Option("--unordered", help="Write each answer as soon as it is there; else in the order asked.")
    ] = False,
    tau: Tau = None,
    settings: Set = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    threads: Threads = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Answer your own questions: JSON lines in, JSON lines out, with the decision and both passes."""
    from dpc.files import check_output
    from dpc.methods import check_methods, get_method
    from dpc.run.questions import read_questions
    from dpc.tasks import get_task

    check_methods([method])
    check_model(model, revision)
    chosen, known = settings_for(model, settings), get_task(task)
    folder = None if prompt is None else prompt_folder(prompt)
    questions = read_questions(source, limit)
    if output is not None:
        check_output(output, "--output", [None if source == "-" else Path(source)])
    from dpc.run.generate import answer_line, answer_questions, in_order
    from dpc.run.setup import load_setup

    value = get_method(method)
    lm = load_model(model, dtype, device, revision, trust_remote_code, threads)
    setup = load_setup(lm, folder, [value], chosen, task=known.name, tau=tau)
    answers = answer_questions(lm, known, questions, value, setup, chosen)
    with ExitStack() as stack:
        file = sys.stdout if output is None else stack.enter_context(output.open("w", encoding="utf-8"))
        for index, answer in answers if unordered else in_order(answers):
            file.write(answer_line(known, questions[index], answer) + "\n")
            file.flush()
