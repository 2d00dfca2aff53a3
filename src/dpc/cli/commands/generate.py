"""``dpc generate``: your own questions, as JSON lines."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from dpc.cli.options import Device, Dtype, Model, Prompt, Revision, Set, TaskName, Tau, load_model, settings_for


def generate(
    source: Annotated[
        str, typer.Argument(help="File of JSON lines with a field `question`; `-` reads standard input.")
    ],
    prompt: Prompt = None,
    model: Model = "zoo",
    revision: Revision = None,
    task: TaskName = "zoo",
    method: Annotated[str, typer.Option(help="One method.")] = "dpc",
    tau: Tau = None,
    settings: Set = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Answer your own questions: JSON lines in, JSON lines out, with the decision and both passes."""
    from dpc.cli.questions import generate_lines, read_questions
    from dpc.tasks import get_task

    chosen, known = settings_for(model, settings), get_task(task)
    questions = read_questions(source)
    for line in generate_lines(
        load_model(model, dtype, device, revision), known, questions, method, prompt, tau, chosen
    ):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
