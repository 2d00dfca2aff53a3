"""Dynamic Prompt Corruption: answer, look at the flow of information, and where it went astray answer again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from dpc.corruption import corrupt
from dpc.engine import Decoded, Decoder, Request
from dpc.flow import accumulation_profile, has_accumulated, key_token, late_flow, rationale_influence, shallow_layers
from dpc.local_influence import Influence, local_influence
from dpc.methods.base import Setup
from dpc.saliency import one_graph_is_small, prompt_saliency
from dpc.settings import MethodSettings
from dpc.soft_prompt import SoftPrompt
from dpc.trigger import SHORTEST_RATIONALE, decide, too_short
from dpc.types import Answer, Cost, Decision, Saliency

# Judging keeps one block where tracing keeps all: that many times as many instances take part in a pass.
_JUDGED_TOGETHER = 4
# Batches that are gathered before they are judged: answers that stand side by side should be of like length.
_GATHERED = 4
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DynamicPromptCorruption:
    """The paper's method (section 3): dynamic trigger, then dynamic corruption."""

    soft_prompt: SoftPrompt
    tau: float
    settings: MethodSettings

    @classmethod
    def build(cls, setup: Setup) -> DynamicPromptCorruption:
        """Needs a soft prompt and a threshold."""
        return cls(setup.need_prompt("dpc"), setup.need_tau("dpc"), setup.settings)

    def answer(
        self, decoder: Decoder, questions: Sequence[Sequence[int]], max_new_tokens: int
    ) -> Iterator[tuple[int, Answer]]:
        """The whole method: generate, judge, and where it triggers trace, corrupt and generate again."""
        between = _BetweenPasses(self, decoder)
        queue = [Request(q, self.soft_prompt, trail=between.local, tag=index) for index, q in enumerate(questions)]
        while queue:
            for decoded in decoder.stream(queue, max_new_tokens):
                if decoded.request.tag in between.second:
                    yield decoded.request.tag, between.second[decoded.request.tag].answer(decoded)
                else:
                    yield from between.judge([decoded])
                # A second pass enters the stream that the first one left, and fills a place that would stand empty.
                queue += between.corrupt()
            yield from between.judge([], at_once=True)
            queue += between.corrupt(at_once=True)

    def corrupted(self, token: int) -> SoftPrompt:
        """The soft prompt with ``token`` masked and the rest pruned."""
        s = self.settings
        vectors = corrupt(self.soft_prompt.vectors, token, s.gamma, s.prune_scope, s.mask_key)
        return SoftPrompt.of(vectors, self.soft_prompt.base_model)


@dataclass(slots=True, eq=False)
class _Instance:
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


class _BetweenPasses:
    """Instances that wait until there are enough of them to be judged, or traced, in one pass."""

    def __init__(self, method: DynamicPromptCorruption, decoder: Decoder) -> None:
        self.second: dict[int, _Instance] = {}
        self._method, self._decoder, self._size = method, decoder, decoder.settings.saliency_batch_size
        self._unjudged: list[Decoded] = []
        self._triggered: list[_Instance] = []
        self._corrupted: dict[int, SoftPrompt] = {}

    @property
    def local(self) -> bool:
        """Whether decoding is to leave a trail for the trigger."""
        return self._decoder.settings.slots and self._decoder.settings.local_trigger

    def judge(self, decoded: Sequence[Decoded], at_once: bool = False) -> Iterator[tuple[int, Answer]]:
        """Eqs 11 to 13, once enough wait for it or ``at_once``; yields the instances that keep their first answer."""
        self._unjudged += decoded
        if not self._unjudged or (len(self._unjudged) < _GATHERED * _JUDGED_TOGETHER * self._size and not at_once):
            return
        began, group = time.perf_counter(), self._unjudged
        self._unjudged = []
        decisions = self._decide(group)
        seconds = (time.perf_counter() - began) / len(group)
        for each, decision in zip(group, decisions, strict=True):
            instance = _Instance(each, decision, int(decision.ratio is not None), seconds)
            if decision.triggered:
                self._triggered.append(instance)
            else:
                yield each.request.tag, instance.answer()

    def corrupt(self, at_once: bool = False) -> list[Request]:
        """Find the key token of what triggered (Eq 6), and ask again with it masked, the first answer as a draft."""
        if not self._triggered or (len(self._triggered) < _GATHERED * self._size and not at_once):
            return []
        began, group, method = time.perf_counter(), self._triggered, self._method
        self._triggered = []
        shallow = shallow_layers(self._decoder.lm.layers, method.settings.shallow_start, method.settings.shallow_stop)
        requests = []
        for instance, saliency in zip(group, self._saliency([i.first for i in group], shallow), strict=True):
            profile = accumulation_profile(saliency, shallow)
            token = key_token(profile)
            accumulated = {"accumulated": has_accumulated(profile, method.settings.accumulation_k)}
            evidence = instance.decision.evidence | accumulated
            instance.decision = replace(instance.decision, key_token=token, evidence=evidence)
            instance.looks += 1
            prompt = self._corrupted.setdefault(token, method.corrupted(token))
            draft = self._draft(instance.first)
            requests.append(Request(instance.first.request.question, prompt, draft, tag=instance.first.request.tag))
            self.second[instance.first.request.tag] = instance
        seconds = (time.perf_counter() - began) / len(group)
        for instance in group:
            instance.seconds += seconds
        return requests

    def _draft(self, first: Decoded) -> tuple[int, ...]:
        return first.generation.ids if self._decoder.settings.drafts else ()

    def _decide(self, group: Sequence[Decoded]) -> list[Decision]:
        tau = self._method.tau
        long = [each for each in group if len(each.generation.ids) >= SHORTEST_RATIONALE]
        found = dict(zip([each.request.tag for each in long], self._influence(long), strict=True))
        decisions = []
        for each in group:
            influence = found.get(each.request.tag)
            if influence is None:
                decisions.append(too_short(len(each.generation.ids), tau))
                continue
            decision = decide(influence.values, tau)
            more = {"late_flow": late_flow(influence.values), "rationale_loss": influence.loss}
            decisions.append(replace(decision, evidence=decision.evidence | more))
        return decisions

    def _influence(self, group: Sequence[Decoded]) -> list[Influence]:
        lm, reduction = self._decoder.lm, self._method.settings.head_reduction
        if not self.local:
            return [Influence(rationale_influence(s), s.loss) for s in self._saliency(group, [lm.layers - 1])]
        size = _JUDGED_TOGETHER * self._size
        return _in_batches(group, size, lambda batch: local_influence(lm, batch, reduction))

    def _saliency(self, group: Sequence[Decoded], layers: Sequence[int]) -> list[Saliency]:
        lm, prompt, reduction = self._decoder.lm, self._method.soft_prompt, self._method.settings.head_reduction
        by_block = self._decoder.settings.saliency_by_block
        [prefix] = self._decoder.prefixes.get([prompt]) if by_block else [None]

        def trace(batch: Sequence[Decoded]) -> list[Saliency]:
            questions, rationales = [d.request.question for d in batch], [d.generation.ids for d in batch]
            longest = max(len(d.request) + len(d.generation.ids) for d in batch)
            plain = not by_block or one_graph_is_small(lm, len(batch) * longest)
            return prompt_saliency(
                lm, prompt.vectors, questions, rationales, layers, reduction, prefix=prefix, plain=plain
            )

        return _in_batches(group, self._size, trace)


def _in_batches(group: Sequence[Decoded], size: int, compute: Callable[[Sequence[Decoded]], list[T]]) -> list[T]:
    """``compute`` over batches of similar length, so that little is padding; results in the order of ``group``."""
    order = sorted(range(len(group)), key=lambda i: len(group[i].request) + len(group[i].generation.ids))
    found: dict[int, T] = {}
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        found.update(zip(batch, compute([group[i] for i in batch]), strict=True))
    return [found[i] for i in range(len(group))]
