"""Your own questions, answered as JSON lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dpc.engine import Decoder, Request, check_fits
from dpc.errors import UserError
from dpc.methods import build_method, use_calibration
from dpc.model.lm import FrozenLM
from dpc.run.act_search import load_act
from dpc.run.stages import load_calibration, load_prompt, method_setup
from dpc.settings import Settings
from dpc.tasks import Task
from dpc.types import Answer, Example


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
    calibration = act = None
    if prompt is not None and prompt_directory is not None:
        known = tau is None and use_calibration([method])
        calibration = load_calibration(prompt_directory, prompt, settings) if known else None
        act = load_act(prompt_directory, lm, prompt, task.name, settings) if method == "act" else None
    runner = build_method(method, method_setup(prompt, calibration, act, settings, tau))
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
