"""``dpc generate``: your own questions, as JSON lines."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from dpc.cli.options import (
    METHODS_HELP,
    Adapter,
    Device,
    Dtype,
    Limit,
    Model,
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
    load_model,
    prompt_folder,
    settings_for,
    tell,
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
    adapter: Adapter = None,
    task: TaskName = "zoo",
    data: Source = None,
    method: Annotated[str, typer.Option(help=f"One method. {METHODS_HELP}")] = "dpc",
    limit: Limit = None,
    output: Annotated[Path | None, typer.Option(help="File for the answers; none: standard output.")] = None,
    unordered: Annotated[
        bool, typer.Option("--unordered", help="Write each answer as soon as it is there; else in the order asked.")
    ] = False,
    tau: Tau = None,
    settings: Set = None,
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    device: Device = "auto",
    threads: Threads = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Answer your own questions: JSON lines in, JSON lines out, with the decision and both passes.

    Instruct models are asked in their chat template: --set task.chat=off gives them the task's text alone. --set
    task.shots=3 takes three worked examples from the task's train split (--data), for methods without a soft prompt.
    """
    from dpc.files import check_output
    from dpc.methods import check_methods, get_method
    from dpc.run.data import load_shots
    from dpc.run.questions import read_questions
    from dpc.tasks import get_task

    check_methods([method])
    check_model(model, revision, adapter)
    chosen, known = settings_for(model, settings), get_task(task)
    folder, questions = None if prompt is None else prompt_folder(prompt), read_questions(source, limit)
    if output is not None:
        check_output(output, "--output", [None if source == "-" else Path(source)])
    shots = load_shots(known, data, chosen.task)
    from dpc.prompt.asked import unrecorded_note
    from dpc.run.generate import answer_line, answer_questions, in_order
    from dpc.run.setup import load_setup
    from dpc.run.ways import asked_by, how_asked

    value = get_method(method)
    lm = load_model(model, dtype, device, revision, trust_remote_code, threads, quantize, adapter)
    setup = load_setup(lm, folder, [value], chosen, task=known.name, tau=tau, shots=shots)
    if setup.soft_prompt is not None:
        tell(unrecorded_note(lm, setup.soft_prompt, chosen.task.chat))
    lm = asked_by(lm, setup, [value], chosen.task)[how_asked(value)]
    answers = answer_questions(lm, known, questions, value, setup, chosen)
    made = answers if unordered else in_order(answers)
    _write((answer_line(known, questions[index], answer, str(lm.asking)) for index, answer in made), output)


def _write(lines: Iterable[str], output: Path | None) -> None:
    """Write each line as soon as it is there."""
    with ExitStack() as stack:
        file = sys.stdout if output is None else stack.enter_context(output.open("w", encoding="utf-8"))
        for line in lines:
            file.write(line + "\n")
            file.flush()
