"""Of two answers, the likelier one is kept; and DPC with that choice between its two answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from dpc.engine import Decoder
from dpc.flow.likelihood import answer_log_probs
from dpc.methods.corruptions import KEY_TOKEN
from dpc.methods.method import Method, Setup
from dpc.methods.triggers import FLOW, with_evidence
from dpc.methods.two_passes import TwoPasses
from dpc.types import Answer, Cost, Decision, Generation


def likelier(
    first: Generation,
    second: Generation,
    scores: tuple[float, float],
    decision: Decision,
    cost: Cost,
    more: Mapping[str, float] | None = None,
) -> Answer:
    """Both answers, the likelier of which counts; among equals the first.

    scores: sums of the log-probabilities of each answer's tokens in nats, the end token included. more: further figures
    for the record.
    """
    figures = {"log_likelihood_first": scores[0], "log_likelihood_second": scores[1], **(more or {})}
    return Answer(first, with_evidence(decision, more=figures), second, cost, kept_first=scores[1] <= scores[0])


@dataclass(frozen=True, slots=True)
class Selecting:
    """A two-pass method whose second answer counts only where it is likelier than the first under the tuned prompt."""

    inner: TwoPasses

    def answer(
        self, decoder: Decoder, questions: Sequence[Sequence[int]], max_new_tokens: int
    ) -> Iterator[tuple[int, Answer]]:
        """The inner method, and one teacher-forced pass over both answers where there are two."""
        waiting: list[tuple[int, Answer]] = []
        for index, answer in self.inner.answer(decoder, questions, max_new_tokens):
            if answer.second is None:
                yield index, answer
            else:
                waiting.append((index, answer))
            if len(waiting) >= decoder.settings.saliency_batch_size:
                yield from self._chosen(decoder, questions, waiting)
                waiting = []
        yield from self._chosen(decoder, questions, waiting)

    def _chosen(
        self, decoder: Decoder, questions: Sequence[Sequence[int]], answers: Sequence[tuple[int, Answer]]
    ) -> Iterator[tuple[int, Answer]]:
        asked = [questions[index] for index, _ in answers for _ in range(2)]
        both = [each for _, answer in answers for each in (answer.first, answer.second) if each is not None]
        found = answer_log_probs(decoder.lm, self.inner.procedure.soft_prompt.vectors, asked, both)
        scores = [float(log_probs.sum()) for log_probs in found]
        for place, (index, answer) in enumerate(answers):
            assert answer.second is not None
            assert answer.decision is not None
            tokens = 2 * len(questions[index]) + len(answer.first.ids) + len(answer.second.ids)
            cost = answer.cost + Cost(2, 0, 0, 0.0, float(tokens))
            own = scores[2 * place], scores[2 * place + 1]
            yield index, likelier(answer.first, answer.second, own, answer.decision, cost)


def _dpc_select(setup: Setup) -> Selecting:
    return Selecting(TwoPasses.of(replace(DPC_SELECT, corruption=KEY_TOKEN, build=None), setup))


DPC_SELECT = Method(
    "dpc_select", "dpc, whose second answer counts only where it is likelier than the first", FLOW, build=_dpc_select
)
