"""One method on rows: answers, grades, records. Resumable."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from dpc.engine import Decoder, Request, check_fits
from dpc.errors import UserError
from dpc.methods import build_method
from dpc.methods.method import Method, Setup
from dpc.records.directory import RecordFile
from dpc.run.reporter import SILENT, Progress, Reporter
from dpc.tasks import Task
from dpc.types import Answer, Example, Record, Score

# Seconds of work that a kill can cost.
_MOMENT = 0.5


def grade(task: Task, example: Example, method: str, answer: Answer) -> Record:
    """Score the first answer, and the one that counts."""
    first = _score(task, example, answer.first.text)
    final = first if answer.final is answer.first else _score(task, example, answer.text)
    return Record(example.id, method, answer, first, final)


def _score(task: Task, example: Example, text: str) -> Score:
    """``task.score``. Raises ``UserError`` where the function of a task fails or gives something else than a score."""
    try:
        score = task.score(example, text)
    except UserError:
        raise
    # Whatever a task's function raises is a mistake in that function.
    except Exception as error:
        raise UserError(
            f"task {task.name}: score fails for {example.id} ({type(error).__name__}: {error}); mend the task"
        ) from error
    if not isinstance(score, Score):
        raise UserError(f"task {task.name}: score gives {type(score).__name__} for {example.id}, expected a Score")
    return score


def evaluate_method(
    decoder: Decoder,
    task: Task,
    examples: Sequence[Example],
    method: Method,
    setup: Setup,
    file: RecordFile,
    report: Reporter = SILENT,
    stage: str | None = None,
) -> list[Record]:
    """Answer and grade every example that ``file`` does not hold yet; returns all records in the examples' order.

    Records are kept as instances are done, a few at a time, so that a kill costs seconds. stage: what progress is
    reported for, None for the method's name.
    Raises ``UserError`` naming the first question that does not fit the context, before anything is computed.
    """
    runner, lm = build_method(method, setup), decoder.lm
    prompt = setup.soft_prompt if "prompt" in method.requires else None
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
    max_new_tokens = decoder.settings.max_new_tokens or task.max_new_tokens
    if left:
        report.progress(Progress(stage or method.name, len(made), len(examples)))
    for answers in _few_at_a_time(runner.answer(decoder, [questions[i] for i in left], max_new_tokens)):
        new = [grade(task, examples[left[index]], method.name, answer) for index, answer in answers]
        file.append(new)
        made |= {record.example_id: record for record in new}
        correct += sum(record.score_final.correct for record in new)
        share = correct / max(1, len(made))
        report.progress(Progress(stage or method.name, len(made), len(examples), f"{share:.1%} right"))
    return [made[example.id] for example in examples]


def _few_at_a_time(answers: Iterator[tuple[int, Answer]]) -> Iterator[list[tuple[int, Answer]]]:
    """Answers of half a second together: writing each record by itself would take longer than making it.

    What was answered before an interrupt or an error is given before that is raised.
    """
    few, began = [], time.monotonic()
    try:
        for answer in answers:
            few.append(answer)
            if time.monotonic() - began >= _MOMENT:
                yield few
                few, began = [], time.monotonic()
    except (KeyboardInterrupt, MemoryError, RuntimeError):
        if few:
            yield few
        raise
    if few:
        yield few
