"""Greedy decoding in slots: a finished instance leaves, the next enters, each row at a position of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from dpc.engine.drafts import LONGEST, FirstAnswerDraft, SharedDraft
from dpc.engine.packed import Reading
from dpc.engine.request import Decoded, Request, check_fits
from dpc.engine.slot_model import SlotModel
from dpc.prompt.prefix import PrefixStore
from dpc.types import Finish, Generation

# A draft needs logits at every position: at most this many numbers in one pass.
_LOGITS_ELEMENTS = 2**26


@dataclass(slots=True, eq=False)
class _Slot:
    """One instance on its way. The model has read all that it wrote but the last token."""

    request: Request
    limit: int
    written: list[int] = field(default_factory=list)
    finish: Finish | None = None
    entering: bool = True
    forward_passes: int = 0
    seconds: float = 0.0
    first: FirstAnswerDraft | None = None
    guess: Sequence[int] = ()

    @property
    def position(self) -> int:
        """Where the last token that was written stands."""
        return len(self.request) + len(self.written) - 1

    def tail(self, tokens: int) -> Sequence[int]:
        """The last ``tokens`` tokens of question and answer."""
        missing = tokens - len(self.written)
        return [*self.request.question[-missing:], *self.written] if missing > 0 else self.written[-tokens:]

    def take(self, tokens: Sequence[int], end_ids: Sequence[int]) -> None:
        """Add what the model wrote, up to the end of the answer."""
        for token in tokens:
            if self.finish:
                return
            if token in end_ids:
                self.finish = "eos"
            else:
                self.written.append(token)
                self.finish = "length" if len(self.written) == self.limit else None


class SlotDecoder:
    """A scheduler: which instance has which row, and what the next pass does."""

    def __init__(self, model: SlotModel, prefixes: PrefixStore, max_new_tokens: int, draft_tokens: int) -> None:
        self._model, self._prefixes, self._max_new_tokens = model, prefixes, max_new_tokens
        self._draft_tokens = draft_tokens
        self._rows: list[_Slot | None] = [None] * model.slots
        self._end_ids = model.lm.end_ids
        self._shared = SharedDraft(model.pace.sure)

    @torch.no_grad()
    def stream(self, queue: list[Request]) -> Iterator[Decoded]:
        """Answer what is in ``queue``, longest first; more may be put there while answers are taken."""
        self._model.expect(max(map(len, queue), default=0) + self._max_new_tokens)
        while queue or self._running():
            self._admit(queue)
            running = self._running()
            drafts = {row: self._draft(slot) for row, slot in running}
            drafted = sum(map(len, drafts.values())) > self._model.pace.drafted * len(running)
            if drafted or any(slot.entering for _, slot in running):
                self._read(running, drafts)
            else:
                self._step(running)
            yield from self._leave()
            if not queue:
                self._close_ranks()

    def _running(self) -> list[tuple[int, _Slot]]:
        return [(row, slot) for row, slot in enumerate(self._rows) if slot is not None]

    def _admit(self, queue: list[Request]) -> None:
        """Fill free rows, as far as one pass can read the questions and drafts that come with them."""
        rows = [row for row, slot in enumerate(self._rows) if slot is None]
        if not queue or not rows or len(rows) < self._model.pace.free_share * self._model.slots:
            return
        queue.sort(key=lambda request: len(request.question) + len(request.draft))
        lm, tokens, kept = self._model.lm, 0, 0
        entering: list[Request] = []
        while queue and len(entering) < len(rows):
            request = queue[-1]
            tokens, kept = tokens + len(request.question) + len(request.draft), kept + len(request.draft) + 1
            if entering and (tokens > self._model.pace.tokens or kept * lm.vocab_size > _LOGITS_ELEMENTS):
                break
            check_fits(lm, request, f"question {request.tag + 1}")
            entering.append(queue.pop())
        rows = rows[: len(entering)]
        prompts = {r.soft_prompt.sha256: r.soft_prompt for r in entering if r.soft_prompt is not None}
        prefixes = dict(zip(prompts, self._prefixes.get(list(prompts.values())), strict=True))
        self._model.insert(rows, [prefixes[r.soft_prompt.sha256] if r.soft_prompt else None for r in entering])
        for row, request in zip(rows, entering, strict=True):
            limit = min(self._max_new_tokens, lm.context - len(request))
            first = FirstAnswerDraft(request.draft[:limit]) if request.draft and self._draft_tokens else None
            self._rows[row] = _Slot(request, limit, first=first)

    def _draft(self, slot: _Slot) -> Sequence[int]:
        """What an answer may say next: at first all that its request offers, then a few tokens a pass."""
        if slot.entering:
            return slot.request.draft[: slot.limit]
        most = min(self._draft_tokens, slot.limit - len(slot.written) - 1)
        if most <= 0:
            return ()
        known = slot.first.propose(slot.written, most) if slot.first else ()
        return known or self._shared.propose(slot.tail(LONGEST), most, slot.guess)

    def _read(self, running: Sequence[tuple[int, _Slot]], drafts: Mapping[int, Sequence[int]]) -> None:
        """One pass over every running row and its draft; each takes what agrees, and the token after it."""
        began = time.perf_counter()
        readings = []
        for row, slot in running:
            new = slot.request.question if slot.entering else slot.written[-1:]
            start = slot.request.prompt_length if slot.entering else slot.position
            readings.append(Reading(row, start, [*new, *drafts[row]], len(drafts[row]) + 1))
        predicted = self._model.read(readings, _trail(running))
        seconds = (time.perf_counter() - began) / sum(len(reading.tokens) for reading in readings)
        for (row, slot), reading, tokens in zip(running, readings, predicted, strict=True):
            same = next((i for i, token in enumerate(drafts[row]) if token != tokens[i]), reading.kept - 1)
            self._take(slot, tokens[: same + 1])
            # Written after a wrong token, and often right all the same: what comes next need not depend on it.
            slot.guess = tokens[same + 1 :]
            slot.entering = False
            slot.forward_passes += 1
            slot.seconds += seconds * len(reading.tokens)

    def _step(self, running: Sequence[tuple[int, _Slot]]) -> None:
        """One token in every running row, or several on a device that would make us wait for each."""
        began = time.perf_counter()
        # A free row below a running one is decoded along: cheaper than moving rows about.
        slots = self._rows[: running[-1][0] + 1]
        tokens = [slot.written[-1] if slot else 0 for slot in slots]
        positions = [slot.position if slot else None for slot in slots]
        count = min(self._model.pace.steps, max(slot.limit - len(slot.written) for _, slot in running))
        written = self._model.steps(tokens, positions, count, _trail(running))
        columns = written.T.tolist()
        seconds = (time.perf_counter() - began) / len(running)
        for row, slot in running:
            before = len(slot.written)
            self._take(slot, columns[row])
            slot.forward_passes += len(slot.written) - before + (slot.finish == "eos")
            slot.seconds += seconds
            slot.guess = ()

    def _take(self, slot: _Slot, tokens: Sequence[int]) -> None:
        before = len(slot.written)
        slot.take(tokens, self._end_ids)
        if self._draft_tokens:
            new = len(slot.written) - before
            self._shared.learn(slot.tail(LONGEST + new), new)

    def _leave(self) -> Iterator[Decoded]:
        for row, slot in self._running():
            if slot.finish is None:
                continue
            self._rows[row] = None
            wanted = slot.request.trail and slot.written
            trail = self._model.trail(row, len(slot.request) - 1, slot.position) if wanted else None
            text = self._model.lm.decode(slot.written)
            generation = Generation(tuple(slot.written), text, slot.finish)
            yield Decoded(slot.request, generation, slot.forward_passes, slot.seconds, trail)

    def _close_ranks(self) -> None:
        """Nobody enters any more: move the last running rows into gaps, so that passes get smaller."""
        running = self._running()
        gaps = [row for row in range(len(running)) if self._rows[row] is None]
        if len(gaps) < max(1, len(running) // 8):
            return
        for gap, (last, slot) in zip(gaps, reversed(running), strict=False):
            self._model.move(last, gap, slot.position)
            self._rows[gap], self._rows[last] = slot, None


def _trail(running: Sequence[tuple[int, _Slot]]) -> bool:
    return any(slot.request.trail for _, slot in running)
