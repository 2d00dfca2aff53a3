"""The bare model: no soft prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dpc.engine import Request
from dpc.lm import FrozenLM
from dpc.methods.base import Setup
from dpc.methods.prompt_tuning import single_pass
from dpc.types import Answer


@dataclass(frozen=True, slots=True)
class Pretrained:
    """Answers with the model alone."""

    @classmethod
    def build(cls, setup: Setup) -> Pretrained:
        """Needs nothing."""
        return cls()

    def answer(self, lm: FrozenLM, questions: Sequence[Sequence[int]], max_new_tokens: int) -> list[Answer]:
        """One greedy pass."""
        return single_pass(lm, [Request(question) for question in questions], max_new_tokens)
