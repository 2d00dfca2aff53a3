"""One question, traced through a two-pass method: both answers, the flow of every layer, decision and corruption."""

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
from dpc.flow.measures import accumulation_profile, rationale_influence
from dpc.flow.saliency import prompt_saliency
from dpc.flow.shallow import shallow_layers
from dpc.methods.between_passes import BetweenPasses, Instance, Procedure, decision_about
from dpc.methods.corruptions import Corruption, Traced, mask_token
from dpc.methods.method import Method, Setup
from dpc.methods.two_passes import TwoPasses
from dpc.model.lm import FrozenLM
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.settings import DecodingSettings
from dpc.types import Decision, Saliency

# Questions, and second answers, that are kept for the next trace.
_LOOKS, _SECONDS = 8, 64
BY_HAND = "chosen by hand"


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """A first answer and how it came about: what neither the threshold nor the corruption changes.

    instance, traced: the first answer as the method judges and traces it. saliency, flow: of every layer, for display;
    flow is None where the maps would be too large. influence: ``s_i`` of each rationale token. profile: ``S_acc`` of
    each virtual token over the shallow layers. seconds: time of judging, tracing and maps.
    """

    question: tuple[int, ...]
    instance: Instance
    traced: Traced
    saliency: Saliency
    flow: FlowMap | None
    influence: Float[Tensor, " rationale"]
    profile: Float[Tensor, " prompt"]
    seconds: float

    @property
    def first(self) -> Decoded:
        """The first answer."""
        return self.instance.decoded


@dataclass(frozen=True, slots=True, eq=False)
class Again:
    """An answer with the corrupted prompt. token: the virtual token that the corruption is about, None without one.

    gamma: percent of the other values that were pruned, as the settings of this corruption say.
    """

    token: int | None
    gamma: float
    corrupted: SoftPrompt
    second: Decoded
    decision: Decision


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """One question, traced. ``again`` is the second answer, whether the method triggered or not.

    decision: as the method records it, with what the corruption was computed from.
    """

    look: Look
    decision: Decision
    again: Again


class Tracer:
    """Traces one question after the other through one method, and keeps what was computed for the last ones.

    Another threshold computes nothing; another gamma or token computes one second answer, with the first as its draft.
    Raises ``UserError`` for a method of one pass, or where the setup lacks what the method needs, its threshold aside.
    """

    def __init__(
        self, lm: FrozenLM, method: Method, setup: Setup, decoding: DecodingSettings, max_new_tokens: int
    ) -> None:
        if method.corruption is None:
            raise UserError(
                f"--method {method.name}: does not corrupt the prompt, so there is no decision to trace; "
                "expected a method with trigger and corruption, such as dpc"
            )
        self.lm, self.method, self.setup = lm, method, setup
        # The threshold is given with every question.
        bound = replace(setup, tau=0.0, trigger_rate=1.0 if setup.trigger_rate is None else setup.trigger_rate)
        self._procedure: Procedure = TwoPasses.of(method, bound).procedure
        self._max_new_tokens = max_new_tokens
        self._decoder = Decoder(lm, decoding.model_copy(update={"batch_size": 1}))
        self._look = lru_cache(_LOOKS)(self._look_at)
        self._again = lru_cache(_SECONDS)(self._answer_again)
        # Two ways to the same corrupted prompt, such as the key token chosen by hand, have the same answer.
        self._second = lru_cache(_SECONDS)(self._answer_with)

    def trace(
        self, question: Sequence[int], threshold: float, gamma: float | None = None, token: int | None = None
    ) -> Trace:
        """Answer, judge, corrupt, answer again, and compute the saliency of every layer.

        question: token ids. gamma: percent to prune, None for the setting. token: the virtual token to mask, None for
        the method's own choice. Raises ``UserError`` for a question that leaves no space for an answer, an empty
        answer, a token or gamma out of range, or either for a corruption that has none.
        """
        length = len(self._procedure.soft_prompt.vectors)
        if token is not None and not 0 <= token < length:
            raise UserError(f"virtual token {token}: expected one of the prompt's, 0 to {length - 1}")
        look = self._look(tuple(question))
        again = self._again(look.question, gamma, token)
        decided = decision_about(look.instance.first, self._procedure.trigger, threshold)
        known = again.decision.evidence
        evidence = replace(
            decided.evidence,
            rationale_loss=look.saliency.loss if decided.evidence.rationale_loss is None else known.rationale_loss,
            accumulated=known.accumulated,
            profile=known.profile,
            corruption=known.corruption,
        )
        return Trace(look, replace(decided, key_token=again.token, evidence=evidence), again)

    def _look_at(self, question: tuple[int, ...]) -> Look:
        lm, procedure = self.lm, self._procedure
        between = BetweenPasses(procedure, self._decoder)
        first = self._decode(between.first_request(question, 0))
        rationale = first.generation.ids
        if not rationale:
            raise UserError("the model answered nothing, so there is nothing to trace; ask another question")
        began = time.perf_counter()
        [instance] = between.decide([first])
        [traced] = between.trace([instance])
        saliency, flow = self._whole_saliency(question, rationale)
        settings = procedure.settings
        profile = traced.profile
        if profile is None:
            shallow = shallow_layers(lm.layers, settings.shallow_start, settings.shallow_stop)
            profile = accumulation_profile(saliency, shallow, settings.shallow_aggregation)
        influence = instance.first.influence
        influence = rationale_influence(saliency, settings.row) if influence is None else influence
        seconds = time.perf_counter() - began
        return Look(question, instance, traced, saliency, flow, influence, profile, seconds)

    def _whole_saliency(self, question: Sequence[int], rationale: Sequence[int]) -> tuple[Saliency, FlowMap | None]:
        lm, prompt, reduction = self.lm, self._procedure.soft_prompt, self._procedure.settings.head_reduction
        [prefix] = self._decoder.prefixes.get([prompt])
        if fits_a_map(lm, len(prompt.vectors), len(question), len(rationale)):
            made = flow_map(lm, prompt.vectors, question, rationale, None, reduction, prefix=prefix)
            flow = replace(made, saliency=made.saliency.cpu(), attention=made.attention.cpu())
            return flow.prompt_columns(), flow
        [saliency] = prompt_saliency(lm, prompt.vectors, [question], [rationale], None, reduction, prefix=prefix)
        return saliency, None

    def _answer_again(self, question: tuple[int, ...], gamma: float | None, token: int | None) -> Again:
        look = self._look(question)
        procedure = replace(self._procedure, corruption=self._changed(gamma, token))
        instance = replace(look.instance)
        traced = replace(look.traced, settings=procedure.settings)
        request = BetweenPasses(procedure, self._decoder).second_request(instance, traced)
        assert request.soft_prompt is not None
        second = self._second(question, request.soft_prompt, tuple(request.draft))
        key = instance.decision.key_token
        return Again(key, procedure.settings.gamma, request.soft_prompt, second, instance.decision)

    def _answer_with(self, question: tuple[int, ...], corrupted: SoftPrompt, draft: tuple[int, ...]) -> Decoded:
        return self._decode(Request(question, corrupted, draft))

    def _changed(self, gamma: float | None, token: int | None) -> Corruption:
        own = self._procedure.corruption
        if (gamma, token) == (None, None):
            return own
        if not own.by_token:
            raise UserError(f"method {self.method.name}: its corruption ({own.rule}) takes neither a token nor gamma")
        overrides = {**own.overrides} if gamma is None else {**own.overrides, "gamma": gamma}
        if token is None:
            return replace(own, overrides=overrides)
        return replace(mask_token(BY_HAND, lambda _: token), traces=own.traces, overrides=overrides)

    def _decode(self, request: Request) -> Decoded:
        self._decoder.submit([request])
        [decoded] = self._decoder.drain(self._max_new_tokens)
        return decoded
