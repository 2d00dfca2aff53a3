"""The bare model: no soft prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dpc.engine import Decoder
from dpc.methods.base import Setup
from dpc.methods.prompt_tuning import single_pass
from dpc.types import Answer


@dataclass(frozen=True, slots=True)
class Pretrained:
    """Answers with the model alone."""

    def answer(
        self, decoder: Decoder, questions: Sequence[Sequence[int]], max_new_tokens: int
    ) -> Iterator[tuple[int, Answer]]:
        """One greedy pass."""
        return single_pass(decoder, questions, None, max_new_tokens)


def build(setup: Setup) -> Pretrained:
    """Needs nothing."""
    return Pretrained()
