"""Greedy decoding in slots: a finished instance leaves, the next enters, each row at a position of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from dpc.engine.drafts import NGRAMS, FirstAnswerDraft, SharedDraft
from dpc.engine.request import Decoded, Request, check_fits
from dpc.engine.slot_model import SlotModel
from dpc.prefix import PrefixStore
from dpc.types import Finish, Generation

# Where reading a token means waiting for the device, several steps are made between two looks.
_STEPS_ON_GPU = 8
# A pass over questions reads at most this many tokens, so that activations stay in a CPU's cache, and memory in bounds.
_TOKENS_ON_CPU, _TOKENS_ON_GPU = 2**11, 2**14
# A draft needs logits at every position: at most this many numbers in one pass.
_LOGITS_ELEMENTS = 2**26


@dataclass(slots=True, eq=False)
class _Slot:
    """One instance on its way. The model has read all that it wrote but the last token."""

    request: Request
    limit: int
    written: list[int] = field(default_factory=list)
    finish: Finish | None = None
    forward_passes: int = 0
    seconds: float = 0.0
    first: FirstAnswerDraft | None = None

    @property
    def position(self) -> int:
        """Where the last token that was written stands."""
        return len(self.request) + len(self.written) - 1

    @property
    def tail(self) -> Sequence[int]:
        """The last tokens of question and answer, as many as drafts look at."""
        written = self.written[-NGRAMS[0] :]
        return [*self.request.question[-NGRAMS[0] :], *written] if len(written) < NGRAMS[0] else written

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

    def agreed(self, draft: Sequence[int], predicted: Sequence[int]) -> Sequence[int]:
        """What greedy decoding writes where ``predicted`` stood after each token of a draft: one more than agree."""
        same = next((i for i, token in enumerate(draft) if token != predicted[i]), len(draft))
        return predicted[: same + 1]


class SlotDecoder:
    """A scheduler: which instance has which row, and what the next pass does."""

    def __init__(self, model: SlotModel, prefixes: PrefixStore, max_new_tokens: int, draft_tokens: int) -> None:
        self._model, self._prefixes, self._max_new_tokens = model, prefixes, max_new_tokens
        self._draft_tokens = draft_tokens
        self._rows: list[_Slot | None] = [None] * model.slots
        self._end_ids = model.lm.end_ids
        self._shared = SharedDraft()

    @torch.no_grad()
    def stream(self, queue: list[Request]) -> Iterator[Decoded]:
        """Answer what is in ``queue``, longest first; more may be put there while answers are taken."""
        while queue or self._running():
            free = len(self._rows) - len(self._running())
            if queue and (free >= max(1, len(self._rows) // 8) or free == len(self._rows)):
                self._admit(queue)
            elif drafts := self._drafts():
                self._verify(drafts)
            else:
                self._step()
            yield from self._leave()
            if not queue:
                self._close_ranks()

    def _running(self) -> list[int]:
        return [row for row, slot in enumerate(self._rows) if slot is not None]

    def _admit(self, queue: list[Request]) -> None:
        """Fill free rows: one pass reads their questions, and drafts along with them."""
        lm = self._model.lm
        queue.sort(key=lambda request: len(request.question) + len(request.draft))
        rows = [row for row, slot in enumerate(self._rows) if slot is None]
        entering: list[Request] = []
        while queue and len(entering) < len(rows) and self._fits_in_a_pass([*entering, queue[-1]]):
            check_fits(lm, queue[-1], f"question {queue[-1].tag + 1}")
            entering.append(queue.pop())
        rows, context = rows[: len(entering)], lm.context
        limits = [min(self._max_new_tokens, context - len(request)) for request in entering]
        drafts = [request.draft[:limit] for request, limit in zip(entering, limits, strict=True)]
        for row, request, limit, draft in zip(rows, entering, limits, drafts, strict=True):
            first = FirstAnswerDraft(draft) if draft and self._draft_tokens else None
            self._rows[row] = _Slot(request, limit, first=first)
        prompts = {r.soft_prompt.sha256: r.soft_prompt for r in entering if r.soft_prompt is not None}
        prefixes = dict(zip(prompts, self._prefixes.get(list(prompts.values())), strict=True))
        self._model.insert(rows, [prefixes[r.soft_prompt.sha256] if r.soft_prompt else None for r in entering])
        texts = [(*request.question, *draft) for request, draft in zip(entering, drafts, strict=True)]
        self._extend(rows, texts, [request.prompt_length for request in entering], drafts)

    def _fits_in_a_pass(self, entering: Sequence[Request]) -> bool:
        if len(entering) == 1:
            return True
        lm, kept = self._model.lm, max(len(request.draft) for request in entering) + 1
        width = max(len(request.question) + len(request.draft) for request in entering)
        tokens = _TOKENS_ON_CPU if lm.device.type == "cpu" else _TOKENS_ON_GPU
        return len(entering) * width <= tokens and (
            kept == 1 or len(entering) * kept * lm.vocab_size <= _LOGITS_ELEMENTS
        )

    def _drafts(self) -> dict[int, tuple[int, ...]]:
        """What drafts propose for each running row; nothing where there is nothing to propose."""
        if not self._draft_tokens:
            return {}
        drafts = {row: self._propose(row) for row in self._running()}
        return drafts if any(drafts.values()) else {}

    def _propose(self, row: int) -> tuple[int, ...]:
        slot = self._rows[row]
        assert slot is not None
        most = min(self._draft_tokens, slot.limit - len(slot.written) - 1)
        known = slot.first.propose(slot.written, most) if slot.first else ()
        return known or self._shared.propose(slot.tail, most)

    def _verify(self, drafts: dict[int, tuple[int, ...]]) -> None:
        """One pass over every running row and what is proposed for it."""
        # Free rows below a running one are read along: the rows that lead the cache are read without copying them.
        rows = list(range(max(drafts) + 1))
        slots = [self._rows[row] for row in rows]
        proposed = [drafts.get(row, ()) for row in rows]
        texts = [(slot.written[-1] if slot else 0, *draft) for slot, draft in zip(slots, proposed, strict=True)]
        self._extend(rows, texts, [slot.position if slot else 0 for slot in slots], proposed)

    def _extend(
        self,
        rows: Sequence[int],
        texts: Sequence[Sequence[int]],
        starts: Sequence[int],
        drafts: Sequence[Sequence[int]],
    ) -> None:
        """A pass over texts that end with drafts; each row takes what agrees, and the token after it."""
        began = time.perf_counter()
        keep = max(map(len, drafts)) + 1
        predicted = self._model.extend(rows, texts, starts, keep, self._trail(rows)).tolist()
        taking = [
            (slot, *more) for row, *more in zip(rows, drafts, predicted, strict=True) if (slot := self._rows[row])
        ]
        seconds = (time.perf_counter() - began) / len(taking)
        for slot, draft, tokens in taking:
            self._take(slot, slot.agreed(draft, tokens[keep - 1 - len(draft) :]))
            slot.forward_passes += 1
            slot.seconds += seconds

    def _step(self) -> None:
        """One token in every running row, or several on a device that would make us wait for each."""
        running = self._running()
        count = 1 if self._model.lm.device.type == "cpu" else _STEPS_ON_GPU
        began = time.perf_counter()
        # A free row below a running one is decoded along, at position 0: cheaper than moving rows about.
        slots = self._rows[: running[-1] + 1]
        tokens = [slot.written[-1] if slot else 0 for slot in slots]
        positions = [slot.position if slot else 0 for slot in slots]
        written = self._model.steps(tokens, positions, count, self._trail(running)).tolist()
        seconds = (time.perf_counter() - began) / len(running)
        for row in running:
            slot = slots[row]
            assert slot is not None
            before = len(slot.written)
            self._take(slot, [step[row] for step in written])
            slot.forward_passes += len(slot.written) - before + (slot.finish == "eos")
            slot.seconds += seconds

    def _take(self, slot: _Slot, tokens: Sequence[int]) -> None:
        before = len(slot.written)
        slot.take(tokens, self._end_ids)
        if self._draft_tokens:
            new = len(slot.written) - before
            self._shared.learn([*slot.request.question[-NGRAMS[0] :], *slot.written][-NGRAMS[0] - new :], new)

    def _trail(self, rows: Sequence[int]) -> bool:
        return any(slot.request.trail for row in rows if (slot := self._rows[row]) is not None)

    def _leave(self) -> Iterator[Decoded]:
        for row in self._running():
            slot = self._rows[row]
            assert slot is not None
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
        for gap in gaps:
            last = self._running()[-1]
            slot = self._rows[last]
            assert slot is not None
            self._model.move(last, gap, slot.position)
            self._rows[gap], self._rows[last] = slot, None
