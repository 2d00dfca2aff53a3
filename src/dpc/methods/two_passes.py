"""Answer, decide, corrupt, answer again: one loop for the method, its ablations and its controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dpc.engine import Decoder, Request
from dpc.methods.between_passes import BetweenPasses
from dpc.methods.policy import Policy
from dpc.types import Answer


@dataclass(frozen=True, slots=True)
class TwoPasses(Policy):
    """A method with two passes: whom ``trigger`` fires on answers again without what ``token`` chose."""

    def answer(
        self, decoder: Decoder, questions: Sequence[Sequence[int]], max_new_tokens: int
    ) -> Iterator[tuple[int, Answer]]:
        """The whole method: generate, judge, and where it triggers trace, corrupt and generate again."""
        between = BetweenPasses(self, decoder)
        queue = [Request(q, self.soft_prompt, trail=between.local, tag=index) for index, q in enumerate(questions)]
        while queue:
            for decoded in decoder.stream(queue, max_new_tokens):
                if decoded.request.tag in between.second:
                    yield decoded.request.tag, between.second[decoded.request.tag].answer(decoded)
                else:
                    yield from between.judge([decoded])
                # A second pass enters the stream that the first one left, and fills a place that would stand empty.
                queue += between.corrupt()
            yield from between.judge([], at_once=True)
            queue += between.corrupt(at_once=True)
