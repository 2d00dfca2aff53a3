"""Prompt tuning: the soft prompt before every question, as it was tuned."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from dpc.engine import Request, greedy
from dpc.lm import FrozenLM
from dpc.methods.base import Setup
from dpc.soft_prompt import SoftPrompt
from dpc.types import Answer, Cost, Generation


def passes(generation: Generation) -> int:
    """Forward passes that a generation took part in: one for each token, the end token included."""
    return len(generation.ids) + (generation.finish == "eos")


def single_pass(lm: FrozenLM, requests: Sequence[Request], max_new_tokens: int) -> list[Answer]:
    """Answer every request with one greedy generation; the batch's seconds are shared evenly."""
    began = time.perf_counter()
    generations = greedy(lm, requests, max_new_tokens)
    seconds = (time.perf_counter() - began) / max(1, len(requests))
    return [Answer(g, None, None, Cost(passes(g), 0, len(g.ids), seconds)) for g in generations]


@dataclass(frozen=True, slots=True)
class PromptTuning:
    """Answers with the soft prompt before the question (Eq 10)."""

    soft_prompt: SoftPrompt

    @classmethod
    def build(cls, setup: Setup) -> PromptTuning:
        """Needs a soft prompt."""
        return cls(setup.need_prompt("prompt_tuning"))

    def answer(self, lm: FrozenLM, questions: Sequence[Sequence[int]], max_new_tokens: int) -> list[Answer]:
        """One greedy pass."""
        return single_pass(lm, [Request(q, self.soft_prompt.vectors) for q in questions], max_new_tokens)
