"""Dynamic Prompt Corruption: answer, look at the flow of information, and where it went astray answer again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from dpc.corruption import corrupt
from dpc.engine import Request, greedy
from dpc.flow import accumulation_profile, has_accumulated, key_token, late_flow, rationale_influence, shallow_layers
from dpc.lm import FrozenLM
from dpc.methods.base import Setup
from dpc.methods.prompt_tuning import passes
from dpc.saliency import prompt_saliency
from dpc.settings import MethodSettings
from dpc.soft_prompt import SoftPrompt
from dpc.trigger import SHORTEST_RATIONALE, decide, too_short
from dpc.types import Answer, Cost, Decision, Generation, Saliency


@dataclass(frozen=True, slots=True)
class DynamicPromptCorruption:
    """The paper's method (section 3): dynamic trigger, then dynamic corruption."""

    soft_prompt: SoftPrompt
    tau: float
    settings: MethodSettings
    saliency_batch_size: int

    @classmethod
    def build(cls, setup: Setup) -> DynamicPromptCorruption:
        """Needs a soft prompt and a threshold."""
        return cls(setup.need_prompt("dpc"), setup.need_tau("dpc"), setup.settings, setup.saliency_batch_size)

    def answer(self, lm: FrozenLM, questions: Sequence[Sequence[int]], max_new_tokens: int) -> list[Answer]:
        """The whole method: generate, trace, decide, corrupt, generate again where triggered."""
        began = time.perf_counter()
        prompt = self.soft_prompt.vectors
        first = greedy(lm, [Request(q, prompt) for q in questions], max_new_tokens)
        decisions = self.decide(lm, questions, first)
        triggered = [i for i, decision in enumerate(decisions) if decision.triggered]
        again = [Request(questions[i], self.corrupted(decisions[i])) for i in triggered]
        second = dict(zip(triggered, greedy(lm, again, max_new_tokens), strict=True))
        seconds = (time.perf_counter() - began) / max(1, len(questions))
        return [
            Answer(first[i], decisions[i], second.get(i), _cost(first[i], decisions[i], second.get(i), seconds))
            for i in range(len(questions))
        ]

    def corrupted(self, decision: Decision) -> Float[Tensor, "prompt d"]:
        """The corrupted soft prompt for an instance with a key token."""
        assert decision.key_token is not None
        s = self.settings
        return corrupt(self.soft_prompt.vectors, decision.key_token, s.gamma, s.prune_scope, s.mask_key)

    def decide(
        self, lm: FrozenLM, questions: Sequence[Sequence[int]], rationales: Sequence[Generation]
    ) -> list[Decision]:
        """Trigger and key token of each instance, from one saliency pass over the shallow layers and the last."""
        shallow = shallow_layers(lm.layers, self.settings.shallow_start, self.settings.shallow_stop)
        layers, reduction = sorted({*shallow, lm.layers - 1}), self.settings.head_reduction
        decisions = [too_short(len(rationale.ids), self.tau) for rationale in rationales]
        judged = [i for i, rationale in enumerate(rationales) if len(rationale.ids) >= SHORTEST_RATIONALE]
        saliencies: list[Saliency] = []
        for start in range(0, len(judged), self.saliency_batch_size):
            group = judged[start : start + self.saliency_batch_size]
            rows, written = [questions[i] for i in group], [rationales[i].ids for i in group]
            saliencies += prompt_saliency(lm, self.soft_prompt.vectors, rows, written, layers, reduction)
        for i, saliency in zip(judged, saliencies, strict=True):
            influence, profile = rationale_influence(saliency), accumulation_profile(saliency, shallow)
            decision = decide(influence, self.tau)
            evidence = {
                **decision.evidence,
                "late_flow": late_flow(influence),
                "accumulated": has_accumulated(profile, self.settings.accumulation_k),
                "rationale_loss": saliency.loss,
            }
            decisions[i] = replace(decision, key_token=key_token(profile), evidence=evidence)
        return decisions


def _cost(first: Generation, decision: Decision, second: Generation | None, seconds: float) -> Cost:
    """Both generations, and one forward and one backward pass where the instance was traced."""
    traced = decision.ratio is not None
    generations = [first] if second is None else [first, second]
    return Cost(sum(map(passes, generations)) + traced, int(traced), sum(len(g.ids) for g in generations), seconds)
