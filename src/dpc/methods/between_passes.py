"""Between the two passes: first answers are judged, and those that trigger are traced, in batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from dpc.engine import Decoded, Decoder, Request
from dpc.flow.local_check import local_is_exact
from dpc.flow.local_influence import Influence, local_influence
from dpc.flow.measures import accumulation_profile, has_accumulated, rationale_influence
from dpc.flow.saliency import SaliencyWay, prompt_saliency
from dpc.flow.shallow import shallow_layers
from dpc.flow.trigger import SHORTEST_RATIONALE, too_short
from dpc.methods.corruptions import Corruption, Traced
from dpc.methods.one_pass import cost_of
from dpc.methods.triggers import FirstAnswer, Trigger, four_digits, with_evidence
from dpc.model.eager_check import keeps_only_keys, softmax_layers
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.settings import MethodSettings
from dpc.types import Answer, Cost, Decision, Saliency

# Judging keeps one block of activations where tracing keeps all: a batch may be this many times as large.
_JUDGED_TOGETHER = 4
# Batches that are collected before they are judged, so that rows of one batch have similar lengths.
_COLLECTED = 4
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Procedure:
    """A two-pass method, bound to a prompt, a threshold and the settings of a run."""

    soft_prompt: SoftPrompt
    run_settings: MethodSettings
    trigger: Trigger
    threshold: float
    corruption: Corruption

    @property
    def settings(self) -> MethodSettings:
        """The run's settings with what the corruption overrides."""
        return self.corruption.settings(self.run_settings)


@dataclass(slots=True, eq=False)
class Instance:
    """One question after its first pass. cost: of all that was computed for it so far."""

    decoded: Decoded
    first: FirstAnswer
    decision: Decision
    cost: Cost

    def answer(self, second: Decoded | None = None) -> Answer:
        """The answer, with the cost of all passes."""
        if second is None:
            return Answer(self.decoded.generation, self.decision, None, self.cost)
        return Answer(self.decoded.generation, self.decision, second.generation, self.cost + cost_of(second))


class BetweenPasses:
    """Collects first answers and triggered instances until a batch of them can be judged or traced.

    second: instances whose second pass was requested, by tag.
    """

    def __init__(self, procedure: Procedure, decoder: Decoder) -> None:
        self.second: dict[int, Instance] = {}
        self._procedure, self._decoder = procedure, decoder
        self._size = decoder.settings.saliency_batch_size
        self._unjudged: list[Decoded] = []
        self._triggered: list[Instance] = []
        self._corrupted: dict[int, SoftPrompt] = {}

    @property
    def local(self) -> bool:
        """Whether decoding keeps the trail from which the last block alone is run again."""
        settings, asks = self._decoder.settings, self._procedure.trigger.asks
        # The trail ends before the last token, whose row is needed where the end token is in the loss.
        needs_all = self._procedure.settings.loss_end_token
        wanted = "influence" in asks and settings.slots and settings.local_trigger and not needs_all
        return wanted and local_is_exact(self._decoder.lm)

    def first_request(self, question: Sequence[int], tag: int) -> Request:
        """The request for a first answer."""
        likelihood = "likelihood" in self._procedure.trigger.asks
        return Request(question, self._procedure.soft_prompt, trail=self.local, tag=tag, likelihood=likelihood)

    def judge(self, decoded: Sequence[Decoded], at_once: bool = False) -> Iterator[tuple[int, Answer]]:
        """Decide, once a batch is full or ``at_once``; yields the instances that keep their first answer."""
        self._unjudged += decoded
        if not self._unjudged or (len(self._unjudged) < _COLLECTED * _JUDGED_TOGETHER * self._size and not at_once):
            return
        began, group = time.perf_counter(), self._unjudged
        self._unjudged = []
        instances = self.decide(group)
        seconds = (time.perf_counter() - began) / len(group)
        for instance in instances:
            instance.cost += Cost(0, 0, 0, seconds)
            if instance.decision.triggered:
                self._triggered.append(instance)
            else:
                yield instance.decoded.request.tag, instance.answer()

    def corrupt(self, at_once: bool = False) -> list[Request]:
        """Requests for second answers, once a batch is full or ``at_once``; the first answer is the draft."""
        if not self._triggered or (len(self._triggered) < _COLLECTED * self._size and not at_once):
            return []
        began, group = time.perf_counter(), self._triggered
        self._triggered = []
        requests = [self.second_request(each, traced) for each, traced in zip(group, self.trace(group), strict=True)]
        seconds = (time.perf_counter() - began) / len(group)
        for instance in group:
            instance.cost += Cost(0, 0, 0, seconds)
            self.second[instance.decoded.request.tag] = instance
        return requests

    def decide(self, group: Sequence[Decoded]) -> list[Instance]:
        """Judge first answers; those under four tokens are not judged."""
        trigger, threshold = self._procedure.trigger, self._procedure.threshold
        seed = self._procedure.run_settings.seed
        long = [each for each in group if len(each.generation.ids) >= SHORTEST_RATIONALE]
        seen = {each.request.tag: known for each, known in zip(long, self._look(long), strict=True)}
        instances = []
        for each in group:
            known = seen.get(each.request.tag)
            first = FirstAnswer(each.request.question, each.generation, seed, **(known or {}))
            decision = decision_about(first, trigger, threshold, self._procedure.settings.corrupt_short)
            cost = cost_of(each) if known is None else cost_of(each) + self._judging_cost(each)
            instances.append(Instance(each, first, decision, cost))
        return instances

    def trace(self, group: Sequence[Instance]) -> list[Traced]:
        """What the corruption sees of triggered instances: ``S_acc`` over the shallow layers, where it asks for it."""
        settings, length = self._procedure.settings, len(self._procedure.soft_prompt.vectors)
        if not self._procedure.corruption.needs_trace(settings):
            return [Traced(instance.first, settings, length) for instance in group]
        shallow = shallow_layers(softmax_layers(self._decoder.lm), settings.shallow_start, settings.shallow_stop)
        traced = []
        for instance, saliency in zip(group, self._saliency([i.decoded for i in group], shallow), strict=True):
            instance.cost += self._tracing_cost(instance.decoded, shallow[0])
            profile = accumulation_profile(saliency, shallow, settings.shallow_aggregation)
            traced.append(Traced(instance.first, settings, length, profile))
        return traced

    def second_request(self, instance: Instance, traced: Traced) -> Request:
        """The request for a second answer; records in ``instance`` how its prompt was corrupted."""
        corruption = self._procedure.corruption
        token = None if corruption.token is None else corruption.token(traced)
        evidence: dict[str, Any] = {"corruption": describe(corruption, traced.settings)}
        if traced.profile is not None:
            accumulated = has_accumulated(traced.profile, traced.settings.accumulation_k)
            evidence |= {"accumulated": accumulated, "profile": four_digits(traced.profile)}
        instance.decision = replace(with_evidence(instance.decision, **evidence), key_token=token)
        first = instance.decoded.request
        draft = instance.decoded.generation.ids if self._decoder.settings.drafts else ()
        return Request(first.question, self._apply(token, traced), draft, tag=first.tag)

    def _apply(self, token: int | None, traced: Traced) -> SoftPrompt:
        corruption = self._procedure.corruption
        if token is None or not corruption.by_token:
            return corruption.checked(self._procedure.soft_prompt, traced)
        if token not in self._corrupted:
            self._corrupted[token] = corruption.apply(self._procedure.soft_prompt, traced)
        return self._corrupted[token]

    def _judging_cost(self, decoded: Decoded) -> Cost:
        """Influence takes a forward and a backward pass. The likelihood is there after decoding."""
        lm, passes = self._decoder.lm, int("influence" in self._procedure.trigger.asks)
        blocks = lm.layers
        if decoded.trail is not None:
            tokens = len(decoded.generation.ids) / blocks
            return Cost(passes, passes, 0, 0.0, passes * tokens, passes * tokens)
        tokens = float(len(decoded.request.question) + len(decoded.generation.ids))
        behind = blocks - softmax_layers(lm)[-1] if passes else 0
        return Cost(passes, passes, 0, 0.0, passes * tokens, tokens * behind / blocks)

    def _tracing_cost(self, decoded: Decoded, first_block: int) -> Cost:
        """All blocks forward, and those from ``first_block`` on backward."""
        tokens, blocks = float(len(decoded.request.question) + len(decoded.generation.ids)), self._decoder.lm.layers
        return Cost(1, 1, 0, 0.0, tokens, tokens * (blocks - first_block) / blocks)

    def _look(self, group: Sequence[Decoded]) -> list[dict[str, Any]]:
        """Of each answer, what the trigger asks for: fields of ``FirstAnswer``."""
        asks = self._procedure.trigger.asks
        found: list[dict[str, Any]] = [{} for _ in group]
        if "influence" in asks:
            row = self._procedure.settings.row
            for fields, influence in zip(found, self._influence(group), strict=True):
                fields |= {"influence": influence.values(row), "both_rows": influence, "loss": influence.loss}
        if "likelihood" in asks:
            for fields, each in zip(found, group, strict=True):
                assert each.likelihood is not None
                loss = -float(each.likelihood.log_probs[: len(each.generation.ids)].mean())
                fields |= {"likelihood": each.likelihood, "loss": fields.get("loss", loss)}
        return found

    def _influence(self, group: Sequence[Decoded]) -> list[Influence]:
        lm, reduction = self._decoder.lm, self._procedure.settings.head_reduction
        # Plain batches keep no trail, which some models are decoded in whatever the settings say.
        if any(decoded.trail is None for decoded in group):
            found = self._saliency(group, softmax_layers(lm)[-1:])
            return [Influence(rationale_influence(s), rationale_influence(s, "before"), s.loss) for s in found]
        size = _JUDGED_TOGETHER * self._size
        return _in_batches(group, size, lambda batch: local_influence(lm, batch, reduction))

    def _saliency(self, group: Sequence[Decoded], layers: Sequence[int]) -> list[Saliency]:
        lm, prompt, reduction = self._decoder.lm, self._procedure.soft_prompt, self._procedure.settings.head_reduction
        way: SaliencyWay = "auto" if self._decoder.settings.saliency_by_block else "whole"
        shared = way == "auto" and keeps_only_keys(lm)
        [prefix] = self._decoder.prefixes.get([prompt]) if shared else [None]
        with_end = self._procedure.settings.loss_end_token

        def trace(batch: Sequence[Decoded]) -> list[Saliency]:
            questions, rationales = [d.request.question for d in batch], [d.generation.ids for d in batch]
            ends = [d.generation.end_id for d in batch] if with_end else None
            return prompt_saliency(
                *(lm, prompt.vectors, questions, rationales, layers, reduction), prefix=prefix, way=way, end_ids=ends
            )

        return _in_batches(group, self._size, trace)


def decision_about(first: FirstAnswer, trigger: Trigger, threshold: float, corrupt_short: bool = False) -> Decision:
    """What ``trigger`` decides; an answer under four tokens is not judged and does not trigger.

    corrupt_short: a trigger without a threshold decides about short answers as well, unless they are empty.
    """
    tokens = len(first.generation.ids)
    decides = corrupt_short and trigger.threshold_from == "none" and tokens > 0
    if tokens < SHORTEST_RATIONALE and not decides:
        return replace(too_short(tokens, threshold), trigger=trigger.name)
    return trigger.decide(first, threshold)


def describe(corruption: Corruption, settings: MethodSettings) -> str:
    """What a corruption did, in words; for the paper's kind with its settings."""
    if not corruption.by_token:
        return corruption.rule
    masked = "masked" if settings.mask_key else "kept"
    return f"{corruption.rule}: {masked}, gamma {settings.gamma:g} percent per {settings.prune_scope}"


def _in_batches(group: Sequence[Decoded], size: int, compute: Callable[[Sequence[Decoded]], list[T]]) -> list[T]:
    """``compute`` over batches of similar length, which saves padding; results in the order of ``group``."""
    order = sorted(range(len(group)), key=lambda i: len(group[i].request) + len(group[i].generation.ids))
    found: dict[int, T] = {}
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        found.update(zip(batch, compute([group[i] for i in batch]), strict=True))
    return [found[i] for i in range(len(group))]
