"""What figures are made from: instances measured in the model, or measurements kept from before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dpc.analysis.figures import Material, Measured
from dpc.analysis.instances import Evaluation, Instance, Sample
from dpc.analysis.measure import measure_flows, measure_map
from dpc.analysis.store import InstanceFlow, InstanceMap, Store
from dpc.errors import UserError
from dpc.flow.shallow import shallow_layers
from dpc.model.lm import FrozenLM, model_title
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.tasks import Task

Load = Callable[[], tuple[FrozenLM, SoftPrompt]]
"""Loads model and prompt. Called once, and only if something has to be measured."""


@dataclass(frozen=True)
class Collector:
    """Measures instances of one evaluation, or loads kept measurements. dtype: the type that the model computes in."""

    evaluation: Evaluation
    task: Task
    dtype: str
    store: Store
    load: Load

    @cached_property
    def _loaded(self) -> tuple[FrozenLM, SoftPrompt]:
        """Model and prompt. Raises ``UserError`` where these are not those of the run."""
        lm, prompt = self.load()
        described = self.evaluation.described
        if lm.revision != described["model"]["revision"]:
            wanted = model_title(described["model"]["name"], described["model"].get("adapter"))
            raise UserError(
                f"--model {lm.title}: its weights are not those of the run's model, {wanted}; "
                "pass the model that the run was evaluated with"
            )
        if prompt.sha256 != described["prompt_sha256"]:
            raise UserError("--prompt: is not the prompt that the run was evaluated with; pass that one's folder")
        return lm, prompt

    def made_from(self, instance: Instance) -> dict[str, Any]:
        """Everything that a measurement of an instance depends on."""
        described, settings = self.evaluation.described, self.evaluation.settings
        return {
            "model": described["model"]["revision"],
            "dtype": self.dtype,
            "prompt_sha256": described["prompt_sha256"],
            "head_reduction": settings.head_reduction,
            "shallow": [settings.shallow_start, settings.shallow_stop, settings.shallow_aggregation],
            "row": settings.row,
            "asked": described.get("asked_with_prompt"),
            "question": self.task.prompt(instance.example),
            "rationale": list(instance.rationale),
        }

    def flows(
        self, instances: Sequence[Instance], progress: Callable[[int, int], None] | None = None
    ) -> list[InstanceFlow]:
        """The flow of each instance. progress: called with the number of measured instances and of all."""
        known = {i.example.id: self.store.load(InstanceFlow, self.made_from(i)) for i in instances}
        found = {name: flow for name, flow in known.items() if flow is not None}
        # Instances of similar length together, which saves padding.
        left = sorted((i for i in instances if i.example.id not in found), key=lambda i: len(i.rationale))
        size = self.evaluation.saliency_batch_size
        if progress and left:
            progress(len(found), len(instances))
        for start in range(0, len(left), size):
            batch = left[start : start + size]
            lm, prompt = self._loaded
            questions = [lm.encode(self.task.prompt(i.example)) for i in batch]
            measured = measure_flows(lm, prompt, questions, [i.rationale for i in batch], self.evaluation.settings)
            for instance, flow in zip(batch, measured, strict=True):
                self.store.save(flow, self.made_from(instance))
                found[instance.example.id] = flow
            if progress:
                progress(len(found), len(instances))
        return [found[i.example.id] for i in instances]

    def map_of(self, instance: Instance) -> InstanceMap:
        """The whole heat maps of one instance."""
        found = self.store.load(InstanceMap, self.made_from(instance))
        if found is None:
            lm, prompt = self._loaded
            question = lm.encode(self.task.prompt(instance.example))
            found = measure_map(lm, prompt, question, instance.rationale, self.evaluation.settings)
            self.store.save(found, self.made_from(instance))
        return found

    def material(self, sample: Sample, progress: Callable[[int, int], None] | None = None) -> Material:
        """What figures are made from. Raises ``UserError`` where the model can't be loaded or is another one."""
        every = sample.each()
        flows = dict(zip((i.example.id for i in every), self.flows(every, progress), strict=True))
        drawn, right, wrong = (_measured(group, flows) for group in (sample.drawn, sample.right, sample.wrong))
        layers, settings = tuple(drawn[0][1].layers.tolist()), self.evaluation.settings
        return Material(
            drawn=drawn,
            right=right,
            wrong=wrong,
            recorded=[(i.late_flow, i.correct) for i in self.evaluation.instances],
            map_of=self.map_of,
            shallow=shallow_layers(layers, settings.shallow_start, settings.shallow_stop),
            layers=layers,
            k=settings.accumulation_k,
            tau=self.evaluation.tau,
        )


def _measured(group: Sequence[Instance], flows: dict[str, InstanceFlow]) -> list[Measured]:
    return [(instance, flows[instance.example.id]) for instance in group]


def recorded_difference(material: Material) -> float:
    """How far measured ``S_late`` are from the recorded ones: sum of absolute differences over sum of values.

    They are equal up to rounding. A larger difference means that the questions are formatted in another way now.
    """
    pairs = {
        i.example.id: (i.late_flow, float(f.late_flow)) for i, f in (*material.drawn, *material.right, *material.wrong)
    }
    total = sum(recorded for recorded, _ in pairs.values())
    return sum(abs(a - b) for a, b in pairs.values()) / total if total > 0 else 0.0
