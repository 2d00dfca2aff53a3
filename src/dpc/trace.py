"""Everything that the method computes for one question: both answers, all saliency, the decision, the corruption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from dpc.corruption import corrupt
from dpc.engine import Decoder, Request
from dpc.errors import UserError
from dpc.files import write_atomically
from dpc.flow import (
    accumulation_profile,
    has_accumulated,
    key_token,
    prompt_to_question,
    prompt_to_rationale,
    rationale_influence,
    shallow_layers,
)
from dpc.lm import FrozenLM
from dpc.saliency import prompt_saliency
from dpc.settings import MethodSettings
from dpc.soft_prompt import SoftPrompt
from dpc.trigger import SHORTEST_RATIONALE, affected_share, decide
from dpc.types import Decision, Generation, Saliency


class TooShortError(UserError):
    """A rationale in which early and late can't be told apart."""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """One question, traced. ``second`` is what the corrupted prompt answers, whether the trigger fired or not.

    influence: ``s_i`` for each rationale token. profile: ``S_acc(j)`` for each soft token, over the shallow layers.
    """

    question: tuple[int, ...]
    first: Generation
    second: Generation
    saliency: Saliency
    decision: Decision
    beta: float
    influence: Float[Tensor, " rationale"]
    profile: Float[Tensor, " prompt"]
    accumulated: bool
    corrupted: Float[Tensor, "prompt d"]


def trace_question(
    decoder: Decoder,
    prompt: SoftPrompt,
    tau: float,
    settings: MethodSettings,
    question: Sequence[int],
    max_new_tokens: int,
) -> Trace:
    """Answer one question, compute the saliency of every layer, decide, corrupt, and answer again.

    Raises ``TooShortError`` where the rationale is too short to be traced (under four tokens).
    """
    lm = decoder.lm
    [first] = decoder.all([Request(question, prompt)], max_new_tokens)
    if len(first.ids) < SHORTEST_RATIONALE:
        raise TooShortError(
            f"the model answered {first.text!r}, {len(first.ids)} tokens; early and late reasoning need at least "
            f"{SHORTEST_RATIONALE}: ask a question that is reasoned about"
        )
    saliency = prompt_saliency(lm, prompt.vectors, [question], [first.ids], None, settings.head_reduction)[0]
    influence = rationale_influence(saliency)
    shallow = shallow_layers(lm.layers, settings.shallow_start, settings.shallow_stop)
    profile = accumulation_profile(saliency, shallow)
    decision = decide(influence, tau)
    token = key_token(profile)
    corrupted = corrupt(prompt.vectors, token, settings.gamma, settings.prune_scope, settings.mask_key)
    again = Request(question, SoftPrompt.of(corrupted, prompt.base_model), first.ids)
    [second] = decoder.all([again], max_new_tokens)
    return Trace(
        question=tuple(question),
        first=first,
        second=second,
        saliency=saliency,
        decision=Decision(decision.triggered, decision.ratio, tau, token, decision.evidence),
        beta=affected_share(influence).beta,
        influence=influence,
        profile=profile,
        accumulated=has_accumulated(profile, settings.accumulation_k),
        corrupted=corrupted,
    )


def save_npz(trace: Trace, path: Path) -> None:
    """Write the arrays of a trace. ``spans`` is ``[[start, stop], ...]`` of prompt, question and rationale."""
    spans = trace.saliency.spans
    arrays: dict[str, Any] = {
        "question_ids": np.array(trace.question),
        "rationale_ids": np.array(trace.first.ids),
        "spans": np.array([[s.start, s.stop] for s in (spans.prompt, spans.question, spans.rationale)]),
        "layers": np.array(trace.saliency.layers),
        "scores": trace.saliency.scores.cpu().numpy(),
        "loss": np.array(trace.saliency.loss),
        "s": trace.influence.cpu().numpy(),
        "beta": np.array(trace.beta),
        "R": np.array(trace.decision.ratio),
        "tau": np.array(trace.decision.threshold),
        "triggered": np.array(trace.decision.triggered),
        "S_acc": trace.profile.cpu().numpy(),
        "key_token": np.array(trace.decision.key_token),
        "corrupted": trace.corrupted.cpu().numpy(),
        "second_rationale_ids": np.array(trace.second.ids),
    }
    content = BytesIO()
    np.savez_compressed(content, **arrays)
    write_atomically(path, content.getvalue())


def summarize_trace(lm: FrozenLM, trace: Trace) -> dict[str, Any]:
    """What the page shows of a trace, as JSON."""
    return {
        "first": trace.first.text,
        "second": trace.second.text,
        "triggered": trace.decision.triggered,
        "ratio": trace.decision.ratio,
        "tau": trace.decision.threshold,
        "beta": trace.beta,
        "key_token": trace.decision.key_token,
        "accumulated": trace.accumulated,
        "tokens": [lm.decode([token]) for token in trace.first.ids],
        "influence": trace.influence.tolist(),
        "profile": trace.profile.tolist(),
        "prompt_to_question": prompt_to_question(trace.saliency).tolist(),
        "prompt_to_rationale": prompt_to_rationale(trace.saliency).tolist(),
    }
