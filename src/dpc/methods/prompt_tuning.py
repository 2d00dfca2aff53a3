"""Prompt tuning: the soft prompt before every question, as it was tuned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dpc.engine import Decoder, Request
from dpc.methods.base import Setup
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.types import Answer, Cost


def single_pass(
    decoder: Decoder, questions: Sequence[Sequence[int]], soft_prompt: SoftPrompt | None, max_new_tokens: int
) -> Iterator[tuple[int, Answer]]:
    """Answer every question with one greedy generation."""
    queue = [Request(question, soft_prompt, tag=index) for index, question in enumerate(questions)]
    for decoded in decoder.stream(queue, max_new_tokens):
        cost = Cost(decoded.forward_passes, 0, len(decoded.generation.ids), decoded.seconds)
        yield decoded.request.tag, Answer(decoded.generation, None, None, cost)


@dataclass(frozen=True, slots=True)
class PromptTuning:
    """Answers with the soft prompt before the question (Eq 10)."""

    soft_prompt: SoftPrompt

    def answer(
        self, decoder: Decoder, questions: Sequence[Sequence[int]], max_new_tokens: int
    ) -> Iterator[tuple[int, Answer]]:
        """One greedy pass."""
        return single_pass(decoder, questions, self.soft_prompt, max_new_tokens)


def build(setup: Setup) -> PromptTuning:
    """Needs a soft prompt. Raises ``UserError`` where there is none."""
    return PromptTuning(setup.need_prompt("prompt_tuning"))
