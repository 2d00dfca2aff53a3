"""Groups of hypotheses: an instance decoded in several rows of the slots, which are copied where hypotheses part."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from dpc.engine.packed import Reading
from dpc.engine.request import Request, check_fits
from dpc.engine.slot_model import SlotModel
from dpc.prompt.prefix import PrefixStore
from dpc.types import Finish, Generation


@dataclass(slots=True, eq=False)
class Hypothesis:
    """The beginning of an answer, or a whole one.

    row: of the slots, where all of it but its last token is in the KV cache. score: sum of the log-probabilities of its
    tokens in nats, the end token included. marks: what its chooser knows it by, such as the numbers of samples.
    """

    row: int
    ids: list[int]
    score: float = 0.0
    marks: frozenset[int] = frozenset()
    finish: Finish | None = None
    end_id: int | None = None


@dataclass(frozen=True, slots=True)
class Continuation:
    """A hypothesis with one token more. parent: its index among the live ones."""

    parent: int
    token: int
    score: float
    marks: frozenset[int] = frozenset()


@dataclass(slots=True, eq=False)
class Group:
    """An instance that is being decoded. live: hypotheses that go on; finished: those that the chooser keeps.

    rows: of the slots, reserved for it. held: the token ids of the answer that are in the KV cache of each row.
    """

    request: Request
    limit: int
    rows: Sequence[int]
    live: list[Hypothesis]
    finished: list[Hypothesis] = field(default_factory=list)
    held: dict[int, list[int]] = field(default_factory=dict)
    prefilling: bool = True
    forward_passes: int = 0
    forward_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The answers of one group, the likeliest first, with the sum of their log-probabilities; and what they cost.

    counts: how many marks each has, such as samples that drew it.
    """

    request: Request
    generations: tuple[Generation, ...]
    scores: tuple[float, ...]
    counts: tuple[int, ...]
    forward_passes: int
    seconds: float
    forward_tokens: int


@runtime_checkable
class Chooser(Protocol):
    """Which hypotheses of a group go on."""

    @property
    def rows(self) -> int:
        """How many hypotheses of a group may be live at once."""
        ...

    def root(self) -> frozenset[int]:
        """The marks of the empty answer."""
        ...

    def continuations(
        self, groups: Sequence[Group], log_probs: Float[Tensor, "hypothesis vocab"]
    ) -> Iterator[list[Continuation]]:
        """For each group, continuations of its live hypotheses, whose rows of ``log_probs`` follow one another."""
        ...

    def keep(self, group: Group, made: list[Hypothesis]) -> None:
        """Set ``live`` and ``finished`` of a group, given the hypotheses that its live ones continued to.

        ``made`` holds whole ones, too. A group without live hypotheses is done.
        """
        ...


class GroupDecoder:
    """Continuous batching of groups: a group takes ``chooser.rows`` slots until it is done."""

    def __init__(self, model: SlotModel, prefixes: PrefixStore, max_new_tokens: int, chooser: Chooser) -> None:
        self._model, self._prefixes, self._max_new_tokens, self._chooser = model, prefixes, max_new_tokens, chooser
        self._free = list(range(model.slots))[::-1]
        self._groups: list[Group] = []

    @torch.no_grad()
    def drain(self, waiting: list[Request]) -> Iterator[Candidates]:
        """Answer the requests in ``waiting``, longest first, and remove each from the list when it is admitted.

        Raises ``UserError`` for a question that does not fit.
        """
        self._model.preallocate(max(map(len, waiting), default=0) + self._max_new_tokens)
        while waiting or self._groups:
            self._admit(waiting)
            self._advance()
            for group in [each for each in self._groups if not each.live]:
                self._groups.remove(group)
                self._free += group.rows
                yield self._candidates(group)

    def _admit(self, waiting: list[Request]) -> None:
        tokens, lm = 0, self._model.lm
        waiting.sort(key=lambda request: len(request.question))
        while waiting and len(self._free) >= self._chooser.rows and tokens <= self._model.pace.prefill_tokens:
            request = waiting.pop()
            check_fits(lm, request, f"question {request.tag + 1}")
            # The lowest rows: a padded pass covers all rows up to the last.
            self._free.sort(reverse=True)
            rows = [self._free.pop() for _ in range(self._chooser.rows)]
            prompts = [] if request.soft_prompt is None else [request.soft_prompt]
            prefix = next(iter(self._prefixes.get(prompts)), None)
            self._model.insert(rows, [prefix] * len(rows))
            root = Hypothesis(rows[0], [], marks=self._chooser.root())
            limit = min(self._max_new_tokens, lm.context - len(request))
            self._groups.append(Group(request, limit, rows, [root]))
            tokens += len(request.question)

    def _advance(self) -> None:
        """One pass over all live hypotheses, and what they continue to."""
        began = time.perf_counter()
        readings = [reading for group in self._groups for reading in _readings(group)]
        logits = self._model.last_logits(readings)
        precision = torch.promote_types(logits.dtype, torch.float32)
        log_probs = logits.to(precision).log_softmax(-1)
        for group, found in zip(self._groups, self._chooser.continuations(self._groups, log_probs), strict=True):
            read = _readings(group)
            group.forward_passes += 1
            group.forward_tokens += sum(len(reading.tokens) for reading in read)
            for hypothesis in group.live:
                group.held[hypothesis.row] = list(hypothesis.ids)
            made = [self._continued(group, each) for each in found]
            group.prefilling = False
            self._chooser.keep(group, made)
            self._place(group)
        seconds = (time.perf_counter() - began) / len(readings)
        for group in self._groups:
            group.seconds += seconds * max(1, len(group.live))

    def _continued(self, group: Group, step: Continuation) -> Hypothesis:
        parent = group.live[step.parent]
        if step.token in self._model.lm.end_ids:
            return Hypothesis(parent.row, parent.ids, step.score, step.marks, "eos", step.token)
        ids = [*parent.ids, step.token]
        finish: Finish | None = "length" if len(ids) == group.limit else None
        return Hypothesis(parent.row, ids, step.score, step.marks, finish)

    def _place(self, group: Group) -> None:
        """Give each live hypothesis a row of its own, with all but its last token in the KV cache."""
        taken: set[int] = set()
        moving = []
        for hypothesis in group.live:
            if hypothesis.row in taken:
                moving.append(hypothesis)
            taken.add(hypothesis.row)
        free = [row for row in group.rows if row not in taken]
        for hypothesis in moving:
            known, target = hypothesis.ids[:-1], free.pop()
            start = len(group.request) + _common(known, group.held[target]) if target in group.held else 0
            self._model.move(hypothesis.row, target, len(group.request) + len(known), start)
            group.held[target] = list(known)
            hypothesis.row = target

    def _candidates(self, group: Group) -> Candidates:
        ranked = sorted(group.finished, key=lambda hypothesis: -hypothesis.score)
        generations = []
        for each in ranked:
            assert each.finish is not None
            generations.append(Generation(tuple(each.ids), self._model.lm.decode(each.ids), each.finish, each.end_id))
        scores = tuple(each.score for each in ranked)
        costs = group.forward_passes, group.seconds, group.forward_tokens
        counts = tuple(len(each.marks) for each in ranked)
        return Candidates(group.request, tuple(generations), scores, counts, *costs)


def _readings(group: Group) -> list[Reading]:
    """What the next pass reads: the question, or the last token of each live hypothesis."""
    request = group.request
    if group.prefilling:
        return [Reading(group.live[0].row, request.prompt_length, list(request.question))]
    return [Reading(each.row, len(request) + len(each.ids) - 1, each.ids[-1:]) for each in group.live]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two answers have in common from the first on."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
