"""Answer, decide, corrupt, answer again: one loop for DPC, its ablations, its controls, and methods of one's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dpc.engine import Decoder, Request
from dpc.methods.between_passes import BetweenPasses, Procedure
from dpc.methods.method import Method, Setup
from dpc.types import Answer


@dataclass(frozen=True, slots=True)
class TwoPasses:
    """A built method of two passes."""

    procedure: Procedure

    @classmethod
    def of(cls, method: Method, setup: Setup) -> TwoPasses:
        """Raises ``UserError`` for no soft prompt or no threshold."""
        assert method.trigger is not None
        assert method.corruption is not None
        prompt, threshold = setup.need_prompt(method.name), setup.need_threshold(method.name, method.trigger)
        return cls(Procedure(prompt, setup.settings, method.trigger, threshold, method.corruption))

    def answer(
        self, decoder: Decoder, questions: Sequence[Sequence[int]], max_new_tokens: int
    ) -> Iterator[tuple[int, Answer]]:
        """The whole method: generate, judge, and where it triggers trace, corrupt and generate again."""
        between = BetweenPasses(self.procedure, decoder)
        decoder.submit(between.first_request(question, index) for index, question in enumerate(questions))
        while True:
            for decoded in decoder.drain(max_new_tokens):
                if decoded.request.tag in between.second:
                    yield decoded.request.tag, between.second[decoded.request.tag].answer(decoded)
                else:
                    yield from between.judge([decoded])
                # Second passes join the running stream and fill slots that would stay empty.
                decoder.submit(between.corrupt())
            yield from between.judge([], at_once=True)
            second: list[Request] = between.corrupt(at_once=True)
            if not second:
                return
            decoder.submit(second)
