"""Answers to questions of one's own, with their decisions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from dpc.engine import Decoder, Request, check_fits
from dpc.methods import build_method
from dpc.methods.method import Method, Setup
from dpc.model.lm import FrozenLM
from dpc.run.evaluate import until_next_question
from dpc.settings import Settings
from dpc.tasks import Task
from dpc.types import Answer, Example


def answer_questions(
    lm: FrozenLM, task: Task, examples: Sequence[Example], method: Method, setup: Setup, settings: Settings
) -> Iterator[tuple[int, Answer]]:
    """Each question's index and answer, in the order in which they are done. lm: as the method asks it.

    Raises ``UserError`` where the method lacks what it needs, or a question does not fit the context.
    """
    runner = build_method(method, setup)
    questions = [lm.encode(task.prompt(example)) for example in examples]
    prompt = setup.soft_prompt if "prompt" in method.requires else None
    for example, question in zip(examples, questions, strict=True):
        check_fits(lm, Request(question, prompt), f"question {example.id}")
    max_new_tokens = settings.decoding.max_new_tokens or task.max_new_tokens
    for index, answer in runner.answer(Decoder(lm, settings.decoding), questions, max_new_tokens):
        yield index, until_next_question(lm, answer)


def answer_line(task: Task, example: Example, answer: Answer, asked: str) -> str:
    """One answer as a JSON line, without a line end. asked: how the question was put."""
    value: dict[str, Any] = {
        "id": example.id,
        "question": example.question,
        "asked": asked,
        "answer": task.score(example, answer.final.text).extracted,
        "text": answer.final.text,
        "decision": None if answer.decision is None else asdict(answer.decision),
        "first": asdict(answer.first),
        "second": None if answer.second is None else asdict(answer.second),
        "cost": asdict(answer.cost),
    }
    return json.dumps(value, ensure_ascii=False)


def in_order(answers: Iterator[tuple[int, Answer]]) -> Iterator[tuple[int, Answer]]:
    """``answers`` by their index from 0: each is given as soon as all before it are there."""
    waiting: dict[int, Answer] = {}
    following = 0
    for index, answer in answers:
        waiting[index] = answer
        while following in waiting:
            yield following, waiting.pop(following)
            following += 1
