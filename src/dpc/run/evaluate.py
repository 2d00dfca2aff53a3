"""Task x method -> records: grading, resuming, and the choice of tau on a dev split."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dpc.engine import Decoder, Request, check_fits
from dpc.errors import UserError
from dpc.flow.trigger import Calibration, calibrate
from dpc.methods import build_method
from dpc.methods.base import Setup
from dpc.records.directory import RecordFile
from dpc.tasks import Task
from dpc.types import Answer, Example, Record

# Seconds of work that a kill can cost.
_MOMENT = 0.5


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an evaluation is: instances answered of ``total``, and how many of them are right."""

    done: int
    total: int
    correct: int


def grade(task: Task, example: Example, method: str, answer: Answer) -> Record:
    """Score both passes of an answer."""
    first = task.score(example, answer.first.text)
    final = first if answer.second is None else task.score(example, answer.second.text)
    return Record(example.id, method, answer, first, final)


def evaluate(
    decoder: Decoder,
    task: Task,
    examples: Sequence[Example],
    method: str,
    setup: Setup,
    file: RecordFile,
    progress: Callable[[Progress], None] | None = None,
) -> list[Record]:
    """Answer and grade every example that ``file`` does not hold yet; returns all records in the examples' order.

    Records are kept as instances are done, a few at a time, so that a kill costs seconds.
    Raises ``UserError`` naming the first question that does not fit the context, before anything is computed.
    """
    runner, lm = build_method(method, setup), decoder.lm
    prompt = None if method == "pretrained" else setup.soft_prompt
    made = {record.example_id: record for record in file.read()}
    if stray := made.keys() - {example.id for example in examples}:
        raise UserError(
            f"{file.path}: holds {min(stray)}, which is not among the rows asked for; choose another --output"
        )
    questions = [lm.encode(task.prompt(example)) for example in examples]
    for example, question in zip(examples, questions, strict=True):
        check_fits(lm, Request(question, prompt), example.id)
    correct = sum(record.score_final.correct for record in made.values())
    left = [index for index, example in enumerate(examples) if example.id not in made]
    room = decoder.settings.max_new_tokens or task.max_new_tokens
    for answers in _few_at_a_time(runner.answer(decoder, [questions[i] for i in left], room)):
        new = [grade(task, examples[left[index]], method, answer) for index, answer in answers]
        file.append(new)
        made |= {record.example_id: record for record in new}
        correct += sum(record.score_final.correct for record in new)
        if progress:
            progress(Progress(len(made), len(examples), correct))
    return [made[example.id] for example in examples]


def _few_at_a_time(answers: Iterator[tuple[int, Answer]]) -> Iterator[list[tuple[int, Answer]]]:
    """What comes within a moment, together: writing every record to disk by itself would take longer than making it."""
    few, began = [], time.monotonic()
    for answer in answers:
        few.append(answer)
        if time.monotonic() - began >= _MOMENT:
            yield few
            few, began = [], time.monotonic()
    if few:
        yield few


def calibrate_records(records: Sequence[Record]) -> Calibration:
    """Choose tau from records in which every instance was answered twice (DPC with a threshold that always fires)."""
    decisions = [record.answer.decision for record in records]
    return calibrate(
        [None if decision is None else decision.ratio for decision in decisions],
        [record.score_first.correct for record in records],
        [record.score_final.correct for record in records],
    )
