"""The instances that a run answered, and the sample of them that is analysed, drawn by a hash of their ids."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from dpc.errors import UserError
from dpc.records.directory import RunDirectory
from dpc.settings import DecodingSettings, MethodSettings
from dpc.types import Example


@dataclass(frozen=True, slots=True)
class Instance:
    """One question with the answer of DPC's first pass, which is that of prompt tuning.

    rationale: token ids. late_flow: ``S_late`` (Eqs 8 and 9) as the evaluation recorded it.
    """

    example: Example
    rationale: tuple[int, ...]
    correct: bool
    late_flow: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An evaluation: what ``run.json`` says of it, and the instances that its trigger judged.

    unjudged: number of answers that were too short. described: model, prompt, data and settings of the stage.
    saliency_batch_size: instances that are traced together.
    """

    described: dict[str, Any]
    settings: MethodSettings
    saliency_batch_size: int
    instances: tuple[Instance, ...]
    unjudged: int

    @property
    def tau(self) -> float:
        """The trigger's threshold."""
        return float(self.described["tau"])


@dataclass(frozen=True, slots=True)
class Sample:
    """Instances drawn for the analyses: some of all, some of the right ones, some of the wrong ones."""

    drawn: tuple[Instance, ...]
    right: tuple[Instance, ...]
    wrong: tuple[Instance, ...]

    def each(self) -> tuple[Instance, ...]:
        """All of them, each once."""
        return tuple({i.example.id: i for i in (*self.drawn, *self.right, *self.wrong)}.values())


def read_evaluation(run: RunDirectory) -> Evaluation:
    """What a run answered and decided with DPC.

    Raises ``UserError`` where the run has no evaluation, no records of DPC, or records that do not fit its rows.
    """
    again = f"make them with `dpc eval --methods dpc --output {run.path}`"
    stage = run.manifest()["stages"].get("eval")
    if stage is None:
        raise UserError(f"{run.path}: has no evaluation; expected a run directory with records; {again}")
    records = run.records("dpc").read()
    if not records:
        raise UserError(f"{run.path}: has no records of the method dpc, from which the figures are drawn; {again}")
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
        decision, first = record.answer.decision, record.answer.first
        late_flow = None if decision is None or not decision.judged else decision.evidence.late_flow
        if late_flow is not None:
            judged.append(Instance(examples[record.example_id], first.ids, record.score_first.correct, late_flow))
    if not judged:
        raise UserError(f"{run.path}: every rationale is too short to be judged; evaluate on questions that need steps")
    size = _saliency_batch_size(stage)
    return Evaluation(described, settings, size, tuple(judged), len(records) - len(judged))


def _saliency_batch_size(stage: Mapping[str, Any]) -> int:
    """That of the evaluation where ``run.json`` records it, else the default."""
    try:
        return DecodingSettings.model_validate(stage["recorded"]["decoding"]).saliency_batch_size
    except (KeyError, TypeError, ValidationError):
        return DecodingSettings().saliency_batch_size


def draw(instances: Sequence[Instance], count: int, seed: int) -> Sample:
    """``count`` of all instances, and up to half as many of the right and of the wrong ones.

    All are the first ones by a hash of seed and id. A larger sample contains the smaller one, and the order of the
    records does not matter.
    """
    order = sorted(instances, key=lambda i: hashlib.sha256(f"{seed} {i.example.id}".encode()).digest())
    right, wrong = [i for i in order if i.correct], [i for i in order if not i.correct]
    half = count // 2
    return Sample(tuple(order[:count]), tuple(right[:half]), tuple(wrong[:half]))
