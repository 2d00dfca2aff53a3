"""The instances that a run answered, and which of them are analysed: drawn by a hash of their ids, never chosen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from dpc.errors import UserError
from dpc.records.directory import RunDirectory
from dpc.settings import MethodSettings
from dpc.types import Example


@dataclass(frozen=True, slots=True)
class Instance:
    """One question as prompt tuning answered it, which is DPC's first pass.

    rationale: token ids. late_flow: ``S_late`` (Eqs 8 and 9) as the evaluation recorded it.
    """

    example: Example
    rationale: tuple[int, ...]
    correct: bool
    late_flow: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What ``run.json`` says of an evaluation, and the instances that its trigger could judge.

    unjudged: how many were too short for that. described: model, prompt, data and settings, as they were stamped.
    """

    described: dict[str, Any]
    settings: MethodSettings
    instances: tuple[Instance, ...]
    unjudged: int

    @property
    def tau(self) -> float:
        """The trigger's threshold."""
        return float(self.described["tau"])


@dataclass(frozen=True, slots=True)
class Sample:
    """Instances drawn for the analyses: some of all, and as many right as wrong ones."""

    drawn: tuple[Instance, ...]
    right: tuple[Instance, ...]
    wrong: tuple[Instance, ...]

    def each(self) -> tuple[Instance, ...]:
        """All of them, each once."""
        return tuple({i.example.id: i for i in (*self.drawn, *self.right, *self.wrong)}.values())


def read_evaluation(run: RunDirectory) -> Evaluation:
    """What a run answered and decided with DPC.

    Raises ``UserError`` where the run has no evaluation, no records of DPC, or rows that its records don't fit.
    """
    again = f"make them with `dpc eval --methods dpc --output {run.path}`"
    stage = run.manifest()["stages"].get("eval")
    if stage is None:
        raise UserError(f"{run.path}: holds no evaluation; expected a run directory with records; {again}")
    records = run.records("dpc").read()
    if not records:
        raise UserError(f"{run.path}: holds no records of the method dpc, which the analyses look into; {again}")
    described = stage["from"]
    try:
        settings = MethodSettings.model_validate(described["method"])
        complete = None not in (described[key] for key in ("model", "data", "tau", "prompt_sha256", "decoding"))
    except (KeyError, ValidationError) as error:
        raise UserError(f"{run.path / 'run.json'}: does not say how DPC was evaluated; {again}") from error
    examples = {example.id: example for example in run.read_examples()}
    strange = [record.example_id for record in records if record.example_id not in examples]
    if strange or not complete:
        raise UserError(f"{run.path}: its records, rows and description don't belong together; {again}")
    judged = []
    for record in records:
        late_flow = record.answer.decision.evidence.get("late_flow") if record.answer.decision else None
        if late_flow is not None:
            first = record.answer.first
            judged.append(Instance(examples[record.example_id], first.ids, record.score_first.correct, late_flow))
    if not judged:
        raise UserError(f"{run.path}: every rationale is too short to be judged; evaluate on questions that need steps")
    return Evaluation(described, settings, tuple(judged), len(records) - len(judged))


def draw(instances: Sequence[Instance], count: int, seed: int) -> Sample:
    """``count`` of all instances, and up to half as many of the right and of the wrong ones.

    All are taken from the front of one order, by a hash of seed and id: more instances are a superset of fewer, and
    the order of the records does not matter.
    """
    order = sorted(instances, key=lambda i: hashlib.sha256(f"{seed} {i.example.id}".encode()).digest())
    right, wrong = [i for i in order if i.correct], [i for i in order if not i.correct]
    half = count // 2
    return Sample(tuple(order[:count]), tuple(right[:half]), tuple(wrong[:half]))
