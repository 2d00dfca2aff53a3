"""Task x method -> records: grading, resuming, and the choice of tau on a dev split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dpc.engine import Request, by_length, check_fits
from dpc.errors import UserError
from dpc.lm import FrozenLM
from dpc.methods import build_method
from dpc.methods.base import Setup
from dpc.runs import RecordFile
from dpc.settings import DecodingSettings
from dpc.tasks import Task
from dpc.trigger import Calibration, calibrate
from dpc.types import Answer, Example, Record


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
    lm: FrozenLM,
    task: Task,
    examples: Sequence[Example],
    method: str,
    setup: Setup,
    file: RecordFile,
    decoding: DecodingSettings,
    progress: Callable[[Progress], None] | None = None,
) -> list[Record]:
    """Answer and grade every example that ``file`` does not hold yet; returns all records in the examples' order.

    Batches are made from all examples, so that an interrupted run goes on with the batches it would have had.
    Raises ``UserError`` naming the first question that does not fit the context, before anything is computed.
    """
    runner = build_method(method, setup)
    prompt = None if method == "pretrained" or setup.soft_prompt is None else setup.soft_prompt.vectors
    questions = [lm.encode(task.prompt(example)) for example in examples]
    requests = [Request(question, prompt) for question in questions]
    for example, request in zip(examples, requests, strict=True):
        check_fits(lm, request, example.id)
    made = {record.example_id: record for record in file.read()}
    if stray := made.keys() - {example.id for example in examples}:
        raise UserError(
            f"{file.path}: holds {min(stray)}, which is not among the rows asked for; choose another --output"
        )
    correct = sum(record.score_final.correct for record in made.values())
    for group in by_length(requests, decoding.batch_size):
        left = [i for i in group if examples[i].id not in made]
        if left:
            answers = runner.answer(lm, [questions[i] for i in left], decoding.max_new_tokens or task.max_new_tokens)
            new = [grade(task, examples[i], method, answer) for i, answer in zip(left, answers, strict=True)]
            file.append(new)
            made |= {record.example_id: record for record in new}
            correct += sum(record.score_final.correct for record in new)
        if progress:
            progress(Progress(len(made), len(examples), correct))
    return [made[example.id] for example in examples]


def calibrate_records(records: Sequence[Record]) -> Calibration:
    """Choose tau from records in which every instance was answered twice (DPC with a threshold that always fires)."""
    decisions = [record.answer.decision for record in records]
    return calibrate(
        [None if decision is None else decision.ratio for decision in decisions],
        [record.score_first.correct for record in records],
        [record.score_final.correct for record in records],
    )
