"""What the engine is asked for, and what it gives back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from dpc.errors import UserError
from dpc.model.lm import FrozenLM
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.types import Generation


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One instance to decode.

    question: token ids. soft_prompt: what stands before it, None for the bare model. draft: token ids that the answer
    may well begin with; they change what decoding costs, never what it writes. trail: whether the state that the
    trigger needs is kept. tag: whatever tells the asker which instance this is.
    """

    question: Sequence[int]
    soft_prompt: SoftPrompt | None = None
    draft: Sequence[int] = ()
    trail: bool = False
    tag: int = 0

    @property
    def prompt_length(self) -> int:
        """Soft tokens in front."""
        return 0 if self.soft_prompt is None else len(self.soft_prompt.vectors)

    def __len__(self) -> int:
        return self.prompt_length + len(self.question)


@dataclass(frozen=True, slots=True, eq=False)
class Trail:
    """What decoding leaves behind in the last block, where the trigger looks (one entry a position).

    hidden: what entered the block at the positions that wrote the rationale, the question's last being the first of
    them. keys, values: of all positions up to the last of these, as attention reads them.
    """

    hidden: Float[Tensor, "rationale d"]
    keys: Float[Tensor, "kv_head position head_d"]
    values: Float[Tensor, "kv_head position head_v"]


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """A request, answered: the passes it took part in, its share of their seconds, and the trail if asked for."""

    request: Request
    generation: Generation
    forward_passes: int
    seconds: float
    trail: Trail | None = None


def check_fits(lm: FrozenLM, request: Request, name: str) -> None:
    """Raise ``UserError`` unless ``request``, called ``name`` in the message, leaves room for an answer."""
    if not request.question:
        raise UserError(f"{name}: the question has no tokens; expected some text")
    if len(request) >= lm.context:
        raise UserError(
            f"{name}: {len(request)} tokens with the soft prompt, but the context of {lm.name} holds {lm.context} "
            "and an answer must fit as well; shorten the question or leave the row out"
        )


def by_length(requests: Sequence[Request], size: int) -> Iterator[list[int]]:
    """Indices of ``requests`` in groups of at most ``size`` of similar length, so that little is padding."""
    order = sorted(range(len(requests)), key=lambda i: len(requests[i]))
    for start in range(0, len(order), size):
        yield order[start : start + size]
