"""Your own questions: answered as JSON lines, or one of them traced on the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dpc.engine import Decoder, Request, check_fits
from dpc.errors import UserError
from dpc.lm import FrozenLM
from dpc.methods import build_method
from dpc.methods.base import Setup
from dpc.pipeline import load_calibration, load_prompt
from dpc.settings import Settings
from dpc.soft_prompt import SoftPrompt
from dpc.tasks import Task
from dpc.trace import Trace, save_npz, trace_question
from dpc.types import Answer, Example

SHADES = " .:-=+*#%@"


def read_questions(source: str) -> list[Example]:
    """Questions of a file of JSON lines, or of standard input for ``-``. Raises ``UserError`` naming file and line."""
    name = "standard input" if source == "-" else source
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise UserError(f"{name}: can't be read ({error.strerror}); expected a file of JSON lines, or -") from error
    examples = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f'{name}:{number}: is not JSON; expected a line like {{"question": "..."}}') from error
        question = row.get("question") if isinstance(row, dict) else None
        if not isinstance(question, str) or not question.strip():
            raise UserError(f'{name}:{number}: has no text under "question"; expected {{"question": "..."}}')
        check_text(question, f"{name}:{number}")
        examples.append(Example(str(row.get("id", number)), question, ""))
    if not examples:
        raise UserError(f'{name}: holds no questions; expected a line like {{"question": "..."}}')
    return examples


def check_text(question: str, where: str) -> None:
    """Raise ``UserError`` for half of a surrogate pair, which no tokenizer reads."""
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: character {error.start + 1} is no whole character; write the text as UTF-8"
        ) from error


def threshold_for(
    directory: Path | None, prompt: SoftPrompt | None, tau: float | None, settings: Settings
) -> float | None:
    """``tau`` where given, else the calibrated one beside the adapter, else None."""
    if tau is not None or directory is None or prompt is None:
        return tau
    calibration = load_calibration(directory, prompt, settings)
    return None if calibration is None else float(calibration["tau"])


def generate_lines(
    lm: FrozenLM,
    task: Task,
    examples: list[Example],
    method: str,
    prompt_directory: Path | None,
    tau: float | None,
    settings: Settings,
) -> Iterator[str]:
    """One JSON line a question, in the order in which they are done; a line names the question by its id."""
    prompt = load_prompt(lm, prompt_directory, [method])
    threshold = threshold_for(prompt_directory, prompt, tau, settings)
    runner = build_method(method, Setup(prompt, threshold, settings.method))
    questions = [lm.encode(task.prompt(example)) for example in examples]
    for example, question in zip(examples, questions, strict=True):
        check_fits(lm, Request(question, prompt), f"question {example.id}")
    room = settings.decoding.max_new_tokens or task.max_new_tokens
    for index, answer in runner.answer(Decoder(lm, settings.decoding), questions, room):
        yield json.dumps(_line(task, examples[index], answer), ensure_ascii=False)


def _line(task: Task, example: Example, answer: Answer) -> dict[str, Any]:
    return {
        "id": example.id,
        "question": example.question,
        "answer": task.score(example, answer.final.text).extracted,
        "text": answer.final.text,
        "decision": None if answer.decision is None else asdict(answer.decision),
        "first": asdict(answer.first),
        "second": None if answer.second is None else asdict(answer.second),
        "cost": asdict(answer.cost),
    }


def show_trace(
    lm: FrozenLM,
    task: Task,
    question: str,
    prompt_directory: Path,
    tau: float | None,
    settings: Settings,
    npz: Path | None,
) -> None:
    """Trace one question, print what happened, and write the numbers where asked."""
    if not question.strip():
        raise UserError("the question is empty; expected some text")
    check_text(question, "question")
    prompt = load_prompt(lm, prompt_directory)
    assert prompt is not None
    threshold = threshold_for(prompt_directory, prompt, tau, settings)
    if threshold is None:
        raise UserError(
            f"--prompt {prompt_directory}: no threshold beside it; run `dpc calibrate` first, or pass --tau"
        )
    ids = lm.encode(task.prompt(Example("question", question, "")))
    check_fits(lm, Request(ids, prompt), "question")
    room = settings.decoding.max_new_tokens or task.max_new_tokens
    traced = trace_question(Decoder(lm, settings.decoding), prompt, threshold, settings.method, ids, room)
    if npz is not None:
        save_npz(traced, npz)
    _print_trace(lm, question, traced)
    if npz is not None:
        print(f"numbers: {npz}")


def _print_trace(lm: FrozenLM, question: str, traced: Trace) -> None:
    console, decision = Console(), traced.decision
    console.print(Text(question, style="bold"))
    grid = Table(show_edge=False, pad_edge=False)
    title = "second answer" if decision.triggered else "second answer, had it triggered"
    grid.add_column("first answer", overflow="fold")
    grid.add_column(title, overflow="fold")
    grid.add_row(Text(traced.first.text.strip()), Text(traced.second.text.strip()))
    console.print(grid)
    fired = "triggered" if decision.triggered else "not triggered"
    console.print(Text(f"R = {decision.ratio:.3f}, tau = {decision.threshold:.3f}: {fired}"))
    console.print(Text(f"beta = {traced.beta:.3g}; s_i along the rationale, darkest is largest:"))
    console.print(_strip([lm.decode([i]) for i in traced.first.ids], traced.influence.tolist()))
    spread = "gathers" if traced.accumulated else "does not gather"
    console.print(Text(f"soft token {decision.key_token} receives most; information {spread}; S_acc(j) by soft token:"))
    profile = traced.profile.tolist()
    console.print(Text("".join(_shade(value, max(profile)) for value in profile), style="reverse"))


def _shade(value: float, largest: float) -> str:
    return SHADES[min(len(SHADES) - 1, int(value / largest * len(SHADES)))] if largest > 0 else SHADES[0]


def _strip(tokens: list[str], values: list[float]) -> Text:
    """The rationale, each token on a background as dark as its value."""
    largest = max(values) or 1.0
    text = Text()
    for token, value in zip(tokens, values, strict=True):
        level = 255 - round(19 * value / largest)
        text.append(token, style=f"{'white' if level < 244 else 'black'} on color({level})")
    return text
