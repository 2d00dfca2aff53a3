"""One question, seen from inside: both answers, the flow of every layer, the decision, the corruption."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from jaxtyping import Float
from torch import Tensor

from dpc.engine import Decoded, Decoder, Request
from dpc.errors import UserError
from dpc.flow.flow_map import FlowMap, fits_a_map, flow_map
from dpc.flow.measures import accumulation_profile, has_accumulated, key_token, rationale_influence, shallow_layers
from dpc.flow.saliency import prompt_saliency
from dpc.methods.policy import KEY_TOKEN, FlowTrigger, four_digits
from dpc.model.lm import FrozenLM
from dpc.prompt.corruption import corrupt
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.settings import Settings
from dpc.types import Decision, Saliency

# Questions, and second answers, that are kept for the next look at them.
_LOOKS, _SECONDS = 8, 64
BY_HAND = "chosen by hand"


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """A first answer and how it came about: what neither tau nor any corruption changes.

    influence: ``s_i`` for each rationale token. profile: ``S_acc(j)`` for each soft token, over the shallow layers.
    flow: maps of every layer, None where they would be too large. seconds: what the saliency took.
    """

    question: tuple[int, ...]
    first: Decoded
    saliency: Saliency
    flow: FlowMap | None
    influence: Float[Tensor, " rationale"]
    profile: Float[Tensor, " prompt"]
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Again:
    """An answer with the corrupted prompt: ``token`` masked, ``gamma`` percent of the other values pruned."""

    token: int
    gamma: float
    corrupted: SoftPrompt
    second: Decoded


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """One question, traced. ``again`` is what the corrupted prompt answers, whether the trigger fired or not.

    decision: as the method records it; its key token is ``again.token``, and its evidence says who chose that.
    """

    look: Look
    decision: Decision
    again: Again


class Tracer:
    """Traces one question after the other; what was computed for the last ones is kept.

    Another tau computes nothing; another gamma or token only a second answer, which has the first one as its draft.
    """

    def __init__(self, lm: FrozenLM, prompt: SoftPrompt, settings: Settings, max_new_tokens: int) -> None:
        self.lm, self.prompt, self.settings = lm, prompt, settings
        self._room = max_new_tokens
        self._decoder = Decoder(lm, settings.decoding.model_copy(update={"batch_size": 1}))
        self._look = lru_cache(_LOOKS)(self._look_at)
        self._again = lru_cache(_SECONDS)(self._answer_again)

    def trace(self, question: Sequence[int], tau: float, gamma: float | None = None, token: int | None = None) -> Trace:
        """Answer, compute the saliency of every layer, decide (Eqs 11 to 13), corrupt, and answer again.

        question: token ids. gamma: percent to prune, None for the setting. token: the soft token to mask, None for the
        key token. Raises ``UserError`` for a question without room, an empty answer, or a token or gamma out of range.
        """
        look = self._look(tuple(question))
        if token is not None and not 0 <= token < len(self.prompt.vectors):
            raise UserError(f"soft token {token}: expected one of the prompt's, 0 to {len(self.prompt.vectors) - 1}")
        rule, chosen = (KEY_TOKEN.rule, key_token(look.profile)) if token is None else (BY_HAND, token)
        again = self._again(look.question, chosen, self.settings.method.gamma if gamma is None else gamma)
        return Trace(look, self._decide(look, tau, again, rule), again)

    def _decide(self, look: Look, tau: float, again: Again, rule: str) -> Decision:
        decision = FlowTrigger(tau).decide(look.question, look.influence)
        evidence = {
            "rationale_loss": look.saliency.loss,
            "accumulated": has_accumulated(look.profile, self.settings.method.accumulation_k),
            "profile": four_digits(look.profile),
            "token_rule": rule,
            "gamma": again.gamma,
            "masked": self.settings.method.mask_key,
        }
        return replace(decision, key_token=again.token, evidence=decision.evidence | evidence)

    def _look_at(self, question: tuple[int, ...]) -> Look:
        lm, prompt, method = self.lm, self.prompt, self.settings.method
        [first] = self._decoder.stream([Request(question, prompt)], self._room)
        rationale = first.generation.ids
        if not rationale:
            raise UserError("the model answered nothing, so there is nothing to trace; ask another question")
        began = time.perf_counter()
        [prefix] = self._decoder.prefixes.get([prompt])
        flow = None
        if fits_a_map(lm, len(prompt.vectors), len(question), len(rationale)):
            made = flow_map(lm, prompt.vectors, question, rationale, None, method.head_reduction, prefix=prefix)
            flow = replace(made, saliency=made.saliency.cpu(), attention=made.attention.cpu())
            saliency = flow.prompt_columns()
        else:
            [saliency] = prompt_saliency(
                lm, prompt.vectors, [question], [rationale], None, method.head_reduction, prefix=prefix
            )
        shallow = shallow_layers(lm.layers, method.shallow_start, method.shallow_stop)
        profile = accumulation_profile(saliency, shallow)
        seconds = time.perf_counter() - began
        return Look(question, first, saliency, flow, rationale_influence(saliency), profile, seconds)

    def _answer_again(self, question: tuple[int, ...], token: int, gamma: float) -> Again:
        method = self.settings.method
        vectors = corrupt(self.prompt.vectors, token, gamma, method.prune_scope, method.mask_key)
        corrupted = SoftPrompt.of(vectors, self.prompt.base_model)
        draft = self._look(question).first.generation.ids
        [second] = self._decoder.stream([Request(question, corrupted, draft)], self._room)
        return Again(token, gamma, corrupted, second)
