"""Requests to the decoder, and its answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dpc.errors import UserError
from dpc.model.lm import FrozenLM
from dpc.prompt.prefix import PromptPrefix
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.types import Generation


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One instance to decode.

    question: token ids. soft_prompt: the virtual tokens before it, None for the bare model. draft: token ids that the
    answer is likely to begin with; they change the cost of decoding, never the answer. begin: token ids that the answer
    does begin with, whatever the model would write. trail: whether to return the state that the trigger needs.
    likelihood: whether to return how likely each token was. keep: whether to return keys and values of all layers.
    known: keys and values of the first positions, of ``keep`` of another request with the same soft prompt.
    tag: any number by which the caller recognizes the instance.

    Raises ``ValueError`` for a trail of positions that are known already, whose hidden states are not computed.
    """

    question: Sequence[int]
    soft_prompt: SoftPrompt | None = None
    draft: Sequence[int] = ()
    trail: bool = False
    tag: int = 0
    begin: Sequence[int] = ()
    likelihood: bool = False
    keep: bool = False
    known: PromptPrefix | None = None

    def __post_init__(self) -> None:
        if self.trail and self.known is not None:
            raise ValueError("trail and known: hidden states of known positions are not computed; leave one out")

    @property
    def prompt_length(self) -> int:
        """Number of virtual tokens."""
        return 0 if self.soft_prompt is None else len(self.soft_prompt.vectors)

    def __len__(self) -> int:
        return self.prompt_length + len(self.question)

    def embedded(self, lm: FrozenLM) -> Float[Tensor, "time d"]:
        """The virtual tokens, the question and the beginning of the answer as input embeddings of ``lm``."""
        question = lm.embed(torch.tensor([*self.question, *self.begin], device=lm.device))
        prompt = self.soft_prompt
        return question if prompt is None else torch.cat([prompt.vectors.to(question), question])


@dataclass(frozen=True, slots=True, eq=False)
class Trail:
    """The state of the last block that the trigger needs.

    hidden: inputs of the block at the positions that predict the rationale, from the question's last token on.
    keys, values: of all positions up to the last of these, as attention uses them (rotated).
    """

    hidden: Float[Tensor, "rationale d"]
    keys: Float[Tensor, "kv_head position head_d"]
    values: Float[Tensor, "kv_head position head_v"]


@dataclass(frozen=True, slots=True, eq=False)
class Likelihood:
    """How likely each token of a greedy answer was, given all before it; the end token included, where there is one.

    log_probs: of the token itself, in nats. entropies: of the distribution that it was taken from, in nats.
    runners_up: ids of the second likeliest tokens; runner_up_log_probs: their log-probabilities.
    """

    log_probs: Float[Tensor, " token"]
    entropies: Float[Tensor, " token"]
    runners_up: Int[Tensor, " token"]
    runner_up_log_probs: Float[Tensor, " token"]


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """The answer to a request.

    forward_passes: those that it took part in. seconds: its share of their duration. trail: if it was requested.
    forward_tokens: tokens that were run through the model for it, rejected draft tokens included; a prompt prefix that
    is shared is not counted. likelihood: if it was requested; of the tokens after ``begin``. kept: if it was requested,
    keys and values of all positions that were read: up to the last token, which was read only if an end token follows.
    """

    request: Request
    generation: Generation
    forward_passes: int
    seconds: float
    forward_tokens: int
    trail: Trail | None = None
    likelihood: Likelihood | None = None
    kept: PromptPrefix | None = None


def check_fits(lm: FrozenLM, request: Request, name: str) -> None:
    """Raise ``UserError``, with ``name`` in the message, unless the context has space for an answer to ``request``."""
    if not request.question:
        raise UserError(f"{name}: the question has no tokens; expected some text")
    if len(request) >= lm.context and (shots := len(lm.asking.shots.rows)):
        raise UserError(
            f"{name}: {len(request)} tokens with {shots} worked examples, but the context of {lm.name} holds "
            f"{lm.context} and an answer must fit as well; set task.shots lower"
        )
    if len(request) >= lm.context:
        raise UserError(
            f"{name}: {len(request)} tokens with the soft prompt, but the context of {lm.name} holds "
            f"{lm.context_limit} and an answer must fit as well; shorten the question or leave the row out"
        )


def by_length(requests: Sequence[Request], size: int) -> Iterator[list[int]]:
    """Indices of ``requests`` in groups of at most ``size``, of similar length so that there is little padding."""
    order = sorted(range(len(requests)), key=lambda i: len(requests[i]))
    for start in range(0, len(order), size):
        yield order[start : start + size]
