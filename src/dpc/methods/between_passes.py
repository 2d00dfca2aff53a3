"""What happens between two passes: instances are judged and traced, many in one pass through the network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from dpc.engine import Decoded, Decoder, Request
from dpc.flow.local_influence import Influence, local_influence
from dpc.flow.measures import accumulation_profile, has_accumulated, rationale_influence, shallow_layers
from dpc.flow.saliency import SaliencyWay, prompt_saliency
from dpc.flow.trigger import SHORTEST_RATIONALE, too_short
from dpc.methods.policy import Policy, TracedToken, four_digits
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.types import Answer, Cost, Decision, Saliency

# Judging keeps one block where tracing keeps all: that many times as many instances take part in a pass.
_JUDGED_TOGETHER = 4
# Batches that are gathered before they are judged: answers that stand side by side should be of like length.
_GATHERED = 4
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Instance:
    """One instance after its first pass. A look is a pass forward and backward: of the last block, or of all."""

    first: Decoded
    decision: Decision
    looks: int
    seconds: float

    def answer(self, second: Decoded | None = None) -> Answer:
        """The answer, with what all passes cost."""
        passes = [self.first] if second is None else [self.first, second]
        cost = Cost(
            forward_passes=sum(each.forward_passes for each in passes) + self.looks,
            backward_passes=self.looks,
            generated_tokens=sum(len(each.generation.ids) for each in passes),
            seconds=sum(each.seconds for each in passes) + self.seconds,
        )
        return Answer(self.first.generation, self.decision, None if second is None else second.generation, cost)


class BetweenPasses:
    """Instances that wait until there are enough of them to be judged, or traced, in one pass."""

    def __init__(self, policy: Policy, decoder: Decoder) -> None:
        self.second: dict[int, Instance] = {}
        self._policy, self._decoder, self._size = policy, decoder, decoder.settings.saliency_batch_size
        self._unjudged: list[Decoded] = []
        self._triggered: list[Instance] = []
        self._corrupted: dict[int, SoftPrompt] = {}

    @property
    def local(self) -> bool:
        """Whether decoding is to leave a trail for the trigger."""
        return self._policy.trigger.judges and self._decoder.settings.slots and self._decoder.settings.local_trigger

    def judge(self, decoded: Sequence[Decoded], at_once: bool = False) -> Iterator[tuple[int, Answer]]:
        """Decide, once enough wait for it or ``at_once``; yields the instances that keep their first answer."""
        self._unjudged += decoded
        if not self._unjudged or (len(self._unjudged) < _GATHERED * _JUDGED_TOGETHER * self._size and not at_once):
            return
        began, group = time.perf_counter(), self._unjudged
        self._unjudged = []
        decisions = self._decide(group)
        seconds = (time.perf_counter() - began) / len(group)
        for each, decision in zip(group, decisions, strict=True):
            instance = Instance(each, decision, int(decision.ratio is not None), seconds)
            if decision.triggered:
                self._triggered.append(instance)
            else:
                yield each.request.tag, instance.answer()

    def corrupt(self, at_once: bool = False) -> list[Request]:
        """Ask what triggered again, with the chosen token masked and the first answer as a draft."""
        if not self._triggered or (len(self._triggered) < _GATHERED * self._size and not at_once):
            return []
        began, group, policy = time.perf_counter(), self._triggered, self._policy
        self._triggered = []
        requests = []
        for instance, (token, evidence) in zip(group, self._choose(group), strict=True):
            how = {"token_rule": policy.token.rule, "gamma": policy.settings.gamma, "masked": policy.settings.mask_key}
            known = instance.decision.evidence | evidence | how
            instance.decision = replace(instance.decision, key_token=token, evidence=known)
            if token not in self._corrupted:
                self._corrupted[token] = policy.corrupted(token)
            first = instance.first.request
            draft = instance.first.generation.ids if self._decoder.settings.drafts else ()
            requests.append(Request(first.question, self._corrupted[token], draft, tag=first.tag))
            self.second[first.tag] = instance
        seconds = (time.perf_counter() - began) / len(group)
        for instance in group:
            instance.seconds += seconds
        return requests

    def _choose(self, group: Sequence[Instance]) -> list[tuple[int, dict[str, Any]]]:
        """The token to corrupt in each instance, with the evidence for it; traced (Eq 6) where the choice needs it."""
        rule, settings = self._policy.token, self._policy.settings
        if not isinstance(rule, TracedToken):
            length = len(self._policy.soft_prompt.vectors)
            return [(rule.pick(each.first.request.question, length), {}) for each in group]
        shallow = shallow_layers(self._decoder.lm.layers, settings.shallow_start, settings.shallow_stop)
        chosen = []
        for instance, saliency in zip(group, self._saliency([i.first for i in group], shallow), strict=True):
            instance.looks += 1
            profile = accumulation_profile(saliency, shallow)
            accumulated = has_accumulated(profile, settings.accumulation_k)
            chosen.append((rule.pick(profile), {"accumulated": accumulated, "profile": four_digits(profile)}))
        return chosen

    def _decide(self, group: Sequence[Decoded]) -> list[Decision]:
        trigger = self._policy.trigger
        long = [each for each in group if len(each.generation.ids) >= SHORTEST_RATIONALE]
        judged = self._influence(long) if trigger.judges else [None] * len(long)
        found = dict(zip([each.request.tag for each in long], judged, strict=True))
        decisions = []
        for each in group:
            if each.request.tag not in found:
                decisions.append(too_short(len(each.generation.ids), trigger.threshold))
                continue
            influence = found[each.request.tag]
            decision = trigger.decide(each.request.question, None if influence is None else influence.values)
            loss = {} if influence is None else {"rationale_loss": influence.loss}
            decisions.append(replace(decision, evidence=decision.evidence | loss))
        return decisions

    def _influence(self, group: Sequence[Decoded]) -> list[Influence]:
        lm, reduction = self._decoder.lm, self._policy.settings.head_reduction
        if not self.local:
            return [Influence(rationale_influence(s), s.loss) for s in self._saliency(group, [lm.layers - 1])]
        size = _JUDGED_TOGETHER * self._size
        return _in_batches(group, size, lambda batch: local_influence(lm, batch, reduction))

    def _saliency(self, group: Sequence[Decoded], layers: Sequence[int]) -> list[Saliency]:
        lm, prompt, reduction = self._decoder.lm, self._policy.soft_prompt, self._policy.settings.head_reduction
        way: SaliencyWay = "auto" if self._decoder.settings.saliency_by_block else "whole"
        [prefix] = self._decoder.prefixes.get([prompt]) if way == "auto" else [None]

        def trace(batch: Sequence[Decoded]) -> list[Saliency]:
            questions, rationales = [d.request.question for d in batch], [d.generation.ids for d in batch]
            return prompt_saliency(lm, prompt.vectors, questions, rationales, layers, reduction, prefix=prefix, way=way)

        return _in_batches(group, self._size, trace)


def _in_batches(group: Sequence[Decoded], size: int, compute: Callable[[Sequence[Decoded]], list[T]]) -> list[T]:
    """``compute`` over batches of similar length, so that little is padding; results in the order of ``group``."""
    order = sorted(range(len(group)), key=lambda i: len(group[i].request) + len(group[i].generation.ids))
    found: dict[int, T] = {}
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        found.update(zip(batch, compute([group[i] for i in batch]), strict=True))
    return [found[i] for i in range(len(group))]
