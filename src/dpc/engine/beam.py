"""Beam search, and sampling: which hypotheses of a group go on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dpc.engine.groups import Continuation, Group, Hypothesis

_GREEDY = frozenset({0})


@dataclass(frozen=True, slots=True)
class Beam:
    """The ``beams`` likeliest hypotheses go on; finished ones are among them. Scores are sums, not means over tokens.

    The greedy answer goes on beside them until it can no longer be the likeliest, so that the result is never less
    likely than the greedy answer. The search is over when no live hypothesis is likelier than the best finished one:
    log-probabilities are negative, so none can become it.
    """

    beams: int

    @property
    def rows(self) -> int:
        """The beams, and the greedy hypothesis where it is none of them."""
        return self.beams + 1

    def root(self) -> frozenset[int]:
        """The empty answer is where the greedy one begins."""
        return _GREEDY

    def continuations(
        self, groups: Sequence[Group], log_probs: Float[Tensor, "hypothesis vocab"]
    ) -> Iterator[list[Continuation]]:
        """The likeliest tokens after each hypothesis: no more than ``beams`` of one hypothesis can stay."""
        best = log_probs.topk(min(self.beams, log_probs.shape[1]))
        tokens, gains, row = best.indices.tolist(), best.values.tolist(), 0
        for group in groups:
            steps = []
            for parent, hypothesis in enumerate(group.live):
                for rank, (token, gain) in enumerate(zip(tokens[row], gains[row], strict=True)):
                    marks = _GREEDY & hypothesis.marks if rank == 0 else frozenset()
                    steps.append(Continuation(parent, token, hypothesis.score + gain, marks))
                row += 1
            yield steps

    def keep(self, group: Group, made: list[Hypothesis]) -> None:
        """The likeliest, and the greedy one; among equals the one that was found first."""
        ranked = sorted([*group.finished, *made], key=lambda hypothesis: -hypothesis.score)
        kept = ranked[: self.beams] + [each for each in ranked[self.beams :] if each.marks]
        group.finished = [each for each in kept if each.finish]
        group.live = [each for each in kept if not each.finish]
        best = max((each.score for each in group.finished), default=-math.inf)
        if best >= max((each.score for each in group.live), default=-math.inf):
            group.live = []


@dataclass(frozen=True, slots=True)
class Samples:
    """``count`` answers drawn at ``temperature``. They begin in one row, and part where they differ.

    chance: a number in (0, 1] for a question, the number of a sample, and the position of a token in the answer. The
    token is the first whose cumulative probability reaches it, so that a draw depends on nothing else in the batch.
    """

    count: int
    temperature: float
    chance: Callable[[Sequence[int], int, int], float]

    @property
    def rows(self) -> int:
        """One a sample."""
        return self.count

    def root(self) -> frozenset[int]:
        """All samples begin with the empty answer."""
        return frozenset(range(self.count))

    def continuations(
        self, groups: Sequence[Group], log_probs: Float[Tensor, "hypothesis vocab"]
    ) -> Iterator[list[Continuation]]:
        """For each hypothesis, the tokens that its samples draw; samples that draw the same stay together."""
        cumulative = (log_probs.double() / self.temperature).softmax(-1).cumsum(-1)
        row = 0
        for group in groups:
            steps = []
            for parent, hypothesis in enumerate(group.live):
                numbers = sorted(hypothesis.marks)
                draws = [self.chance(group.request.question, number, len(hypothesis.ids)) for number in numbers]
                # Rounding may leave the last sum below 1.
                points = cumulative.new_tensor(draws) * cumulative[row, -1]
                tokens = torch.searchsorted(cumulative[row], points).tolist()
                for token in dict.fromkeys(tokens):
                    marks = frozenset(n for n, drawn in zip(numbers, tokens, strict=True) if drawn == token)
                    gain = float(log_probs[row, token])
                    steps.append(Continuation(parent, token, hypothesis.score + gain, marks))
                row += 1
            yield steps

    def keep(self, group: Group, made: list[Hypothesis]) -> None:
        """Everything that was drawn."""
        group.finished += [each for each in made if each.finish]
        group.live = [each for each in made if not each.finish]
