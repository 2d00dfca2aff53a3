"""Methods of one pass: the pretrained model, and prompt tuning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dpc.engine import Decoded, Decoder, Request
from dpc.methods.method import Method, Setup
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.types import Answer, Cost


@dataclass(frozen=True, slots=True)
class OnePass:
    """Answers with the soft prompt before the question (Eq 10), or with the bare model where there is none."""

    soft_prompt: SoftPrompt | None

    def answer(
        self, decoder: Decoder, questions: Sequence[Sequence[int]], max_new_tokens: int
    ) -> Iterator[tuple[int, Answer]]:
        """One greedy generation per question."""
        decoder.submit(Request(question, self.soft_prompt, tag=index) for index, question in enumerate(questions))
        for decoded in decoder.drain(max_new_tokens):
            yield decoded.request.tag, Answer(decoded.generation, None, None, cost_of(decoded))


def cost_of(decoded: Decoded) -> Cost:
    """What decoding an answer cost."""
    tokens = len(decoded.generation.ids)
    return Cost(decoded.forward_passes, 0, tokens, decoded.seconds, forward_tokens=float(decoded.forward_tokens))


def _pretrained(setup: Setup) -> OnePass:
    return OnePass(None)


def _prompt_tuning(setup: Setup) -> OnePass:
    return OnePass(setup.need_prompt("prompt_tuning"))


PRETRAINED = Method("pretrained", "the bare model, without a soft prompt", build=_pretrained, needs=frozenset())
PROMPT_TUNING = Method("prompt_tuning", "the soft prompt as it was tuned", build=_prompt_tuning)
