"""Branch: where the model was unsure, a second answer that parts from the first at its least sure token."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from dpc.engine import Decoded, Decoder, Request
from dpc.methods.between_passes import decision_about
from dpc.methods.likelier import likelier
from dpc.methods.method import Method, Setup
from dpc.methods.one_pass import cost_of
from dpc.methods.triggers import UNSURE, FirstAnswer
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.types import Answer, Cost, Decision, Finish, Generation


@dataclass(frozen=True, slots=True, eq=False)
class _Branch:
    """A second answer that is under way. begin: its first tokens; score: the sum of their log-probabilities."""

    first: Decoded
    decision: Decision
    begin: tuple[int, ...]
    score: float
    ended_by: int | None

    @property
    def position(self) -> int:
        """The token of the first answer that was replaced."""
        return len(self.begin) - (self.ended_by is None)


@dataclass(frozen=True, slots=True)
class Branching:
    """A built method. threshold: of the trigger's statistic."""

    soft_prompt: SoftPrompt
    threshold: float

    def answer(
        self, decoder: Decoder, questions: Sequence[Sequence[int]], max_new_tokens: int
    ) -> Iterator[tuple[int, Answer]]:
        """Answer greedily; where the trigger fires, branch, and keep the likelier of the two."""
        branches: dict[int, _Branch] = {}
        decoder.submit(
            Request(question, self.soft_prompt, tag=index, likelihood=True, keep=True)
            for index, question in enumerate(questions)
        )
        for decoded in decoder.drain(max_new_tokens):
            tag = decoded.request.tag
            if tag in branches:
                yield tag, _answer(branches.pop(tag), decoded)
                continue
            decision = decision_about(self._seen(decoded), UNSURE, self.threshold)
            if not decision.triggered:
                yield tag, Answer(decoded.generation, decision, None, cost_of(decoded))
                continue
            branch = _least_sure(decoder, decoded, decision)
            limit = min(max_new_tokens, decoder.lm.context - len(decoded.request))
            if branch.ended_by is not None or len(branch.begin) == limit:
                yield tag, _answer(branch, None, decoder.lm.decode(branch.begin))
                continue
            branches[tag] = replace(branch, first=replace(decoded, kept=None))
            decoder.submit([self._second_request(decoded, branch)])

    def _seen(self, decoded: Decoded) -> FirstAnswer:
        return FirstAnswer(decoded.request.question, decoded.generation, likelihood=decoded.likelihood)

    def _second_request(self, decoded: Decoded, branch: _Branch) -> Request:
        first = decoded.request
        known = None if decoded.kept is None else decoded.kept.cut(len(first) + branch.position)
        return Request(
            first.question, self.soft_prompt, tag=first.tag, begin=branch.begin, likelihood=True, known=known
        )


def _least_sure(decoder: Decoder, decoded: Decoded, decision: Decision) -> _Branch:
    """Replace the token whose log-probability is least above the second likeliest's by that one."""
    known = decoded.likelihood
    assert known is not None
    position = int((known.log_probs - known.runner_up_log_probs).argmin())
    token = int(known.runners_up[position])
    score = float(known.log_probs[:position].sum() + known.runner_up_log_probs[position])
    ends = token in decoder.lm.end_ids
    begin = decoded.generation.ids[:position] + (() if ends else (token,))
    return _Branch(decoded, decision, begin, score, token if ends else None)


def _answer(branch: _Branch, second: Decoded | None, text: str = "") -> Answer:
    """The likelier of both. second: the whole second answer; None where it ended with ``branch.begin``, as ``text``."""
    first = branch.first
    assert first.likelihood is not None
    if second is None:
        began = time.perf_counter()
        finish: Finish = "length" if branch.ended_by is None else "eos"
        generation, score = Generation(branch.begin, text, finish, branch.ended_by), branch.score
        cost = Cost(0, 0, 0, time.perf_counter() - began)
    else:
        assert second.likelihood is not None
        generation, score = second.generation, branch.score + float(second.likelihood.log_probs.sum())
        cost = replace(cost_of(second), generated_tokens=len(generation.ids) - branch.position)
    scores = float(first.likelihood.log_probs.sum()), score
    more = {"branched_at": float(branch.position)}
    return likelier(first.generation, generation, scores, branch.decision, cost_of(first) + cost, more)


def _branch(setup: Setup) -> Branching:
    return Branching(setup.need_prompt("branch"), setup.need_threshold("branch", UNSURE))


BRANCH = Method(
    "branch",
    "where the model was unsure, also the answer with its least sure token replaced; the likelier is kept",
    UNSURE,
    build=_branch,
)
