"""Continuous batching: when an instance is finished, the next one takes its slot. Drafts are verified on the way."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from dpc.engine.drafts import LONGEST, FirstAnswerDraft, SharedDraft
from dpc.engine.packed import Reading
from dpc.engine.request import Decoded, Request, check_fits
from dpc.engine.slot_model import SlotModel
from dpc.prompt.prefix import PrefixStore
from dpc.types import Finish, Generation

# A draft needs logits at every position. At most this many numbers of them are computed in one pass.
_LOGITS_ELEMENTS = 2**26


@dataclass(slots=True, eq=False)
class _Slot:
    """A running instance. Its last written token is not in the KV cache yet.

    limit: the most tokens that the answer may have. prefilling: the question is not in the KV cache yet.
    predicted: what the model predicted for the positions after the last rejected draft token.
    """

    request: Request
    limit: int
    written: list[int]
    finish: Finish | None = None
    end_id: int | None = None
    prefilling: bool = True
    forward_passes: int = 0
    forward_tokens: int = 0
    seconds: float = 0.0
    first: FirstAnswerDraft | None = None
    predicted: Sequence[int] = ()

    @property
    def position(self) -> int:
        """The position of the last written token."""
        return len(self.request) + len(self.written) - 1

    @property
    def unread(self) -> Sequence[int]:
        """The tokens that the prefill reads."""
        tokens = [*self.request.question, *self.request.begin]
        return tokens[self.start - self.request.prompt_length :]

    @property
    def start(self) -> int:
        """The position of the first token that the prefill reads."""
        known = self.request.known
        return self.request.prompt_length if known is None else len(known)

    def tail(self, tokens: int) -> Sequence[int]:
        """The last ``tokens`` tokens of question and answer."""
        missing = tokens - len(self.written)
        return [*self.request.question[-missing:], *self.written] if missing > 0 else self.written[-tokens:]

    def take(self, tokens: Sequence[int], end_ids: Sequence[int]) -> None:
        """Append ``tokens`` up to the end of the answer."""
        for token in tokens:
            if self.finish:
                return
            if token in end_ids:
                self.finish, self.end_id = "eos", token
            else:
                self.written.append(token)
                self.finish = "length" if len(self.written) == self.limit else None


class SlotDecoder:
    """The scheduler: assigns instances to slots, and decides what the next pass computes."""

    def __init__(self, model: SlotModel, prefixes: PrefixStore, max_new_tokens: int, draft_tokens: int) -> None:
        self._model, self._prefixes, self._max_new_tokens = model, prefixes, max_new_tokens
        self._draft_tokens = draft_tokens
        self._rows: list[_Slot | None] = [None] * model.slots
        self._end_ids = model.lm.end_ids
        self._shared = SharedDraft(model.pace.confidence)

    @torch.no_grad()
    def drain(self, waiting: list[Request]) -> Iterator[Decoded]:
        """Answer the requests in ``waiting``, longest first, and remove each from the list when it is admitted.

        The list may grow between two answers. Raises ``UserError`` for a question that does not fit.
        """
        self._model.preallocate(max(map(len, waiting), default=0) + self._max_new_tokens)
        while waiting or self._running():
            self._admit(waiting)
            running = self._running()
            drafts = {row: self._draft(slot) for row, slot in running}
            verify = sum(map(len, drafts.values())) > self._model.pace.drafts_per_row * len(running)
            if verify or any(slot.prefilling for _, slot in running):
                self._verify(running, drafts)
            else:
                self._step(running)
            yield from self._finished()
            if not waiting:
                self._compact_rows()

    def _running(self) -> list[tuple[int, _Slot]]:
        return [(row, slot) for row, slot in enumerate(self._rows) if slot is not None]

    def _admit(self, waiting: list[Request]) -> None:
        """Assign free slots, as many as one pass can prefill with questions and drafts."""
        rows = [row for row, slot in enumerate(self._rows) if slot is None]
        if not waiting or not rows or len(rows) < self._model.pace.free_share * self._model.slots:
            return
        waiting.sort(key=lambda request: len(request.question) + len(request.draft))
        lm, tokens, kept = self._model.lm, 0, 0
        admitted: list[Request] = []
        while waiting and len(admitted) < len(rows):
            request = waiting[-1]
            tokens, kept = tokens + len(request.question) + len(request.draft), kept + len(request.draft) + 1
            if admitted and (tokens > self._model.pace.prefill_tokens or kept * lm.vocab_size > _LOGITS_ELEMENTS):
                break
            check_fits(lm, request, f"question {request.tag + 1}")
            admitted.append(waiting.pop())
        rows = rows[: len(admitted)]
        prompts = {r.soft_prompt.sha256: r.soft_prompt for r in admitted if r.soft_prompt is not None}
        prefixes = dict(zip(prompts, self._prefixes.get(list(prompts.values())), strict=True))
        prompted = [prefixes[r.soft_prompt.sha256] if r.soft_prompt else None for r in admitted]
        self._model.insert(rows, [r.known or prompt for r, prompt in zip(admitted, prompted, strict=True)])
        for row, request in zip(rows, admitted, strict=True):
            limit = min(self._max_new_tokens, lm.context - len(request))
            if len(request.begin) >= limit:
                raise ValueError(f"an answer that begins with {len(request.begin)} tokens, where it may have {limit}")
            first = FirstAnswerDraft(request.draft[:limit]) if request.draft and self._draft_tokens else None
            self._rows[row] = _Slot(request, limit, list(request.begin), first=first)

    def _draft(self, slot: _Slot) -> Sequence[int]:
        """A draft of the next tokens: that of the request with the prefill, n-grams in later passes."""
        if slot.prefilling:
            return slot.request.draft[: slot.limit - len(slot.written)]
        most = min(self._draft_tokens, slot.limit - len(slot.written) - 1)
        if most <= 0:
            return ()
        known = slot.first.propose(slot.written, most) if slot.first else ()
        return known or self._shared.propose(slot.tail(LONGEST), most, slot.predicted)

    def _verify(self, running: Sequence[tuple[int, _Slot]], drafts: Mapping[int, Sequence[int]]) -> None:
        """One pass over all running rows: prefill or the last token, and a draft.

        Accepted are the draft tokens up to the first that greedy decoding would not write, and the token after them.
        """
        began = time.perf_counter()
        readings = []
        for row, slot in running:
            new = slot.unread if slot.prefilling else slot.written[-1:]
            start = slot.start if slot.prefilling else slot.position
            readings.append(Reading(row, start, [*new, *drafts[row]], len(drafts[row]) + 1))
        predicted = self._model.read(readings, *_keeps(running))
        seconds = (time.perf_counter() - began) / sum(len(reading.tokens) for reading in readings)
        for (row, slot), reading, tokens in zip(running, readings, predicted, strict=True):
            same = next((i for i, token in enumerate(drafts[row]) if token != tokens[i]), reading.kept - 1)
            self._take(slot, tokens[: same + 1])
            # Predictions after a rejected token are often right, because they need not depend on it.
            slot.predicted = tokens[same + 1 :]
            slot.prefilling = False
            slot.forward_passes += 1
            slot.forward_tokens += len(reading.tokens)
            slot.seconds += seconds * len(reading.tokens)

    def _step(self, running: Sequence[tuple[int, _Slot]]) -> None:
        """Decode one token in every running row, or several where reading a result makes the host wait."""
        began = time.perf_counter()
        # Free slots below the last running one are part of the batch, which is cheaper than moving rows.
        slots = self._rows[: running[-1][0] + 1]
        tokens = [slot.written[-1] if slot else 0 for slot in slots]
        positions = [slot.position if slot else None for slot in slots]
        count = min(self._model.pace.steps_per_read, max(slot.limit - len(slot.written) for _, slot in running))
        written = self._model.steps(tokens, positions, count, *_keeps(running))
        columns = written.T.tolist()
        seconds = (time.perf_counter() - began) / len(running)
        for row, slot in running:
            before = len(slot.written)
            self._take(slot, columns[row])
            slot.forward_passes += len(slot.written) - before + (slot.finish == "eos")
            slot.forward_tokens += count
            slot.seconds += seconds
            slot.predicted = ()

    def _take(self, slot: _Slot, tokens: Sequence[int]) -> None:
        before = len(slot.written)
        slot.take(tokens, self._end_ids)
        if self._draft_tokens:
            new = len(slot.written) - before
            self._shared.learn(slot.tail(LONGEST + new), new)

    def _finished(self) -> Iterator[Decoded]:
        """Free the slots of finished instances, and yield their answers."""
        for row, slot in self._running():
            if slot.finish is None:
                continue
            self._rows[row] = None
            wanted = slot.request.trail and slot.written
            trail = self._model.trail(row, len(slot.request) - 1, slot.position) if wanted else None
            first = len(slot.request) + len(slot.request.begin) - 1
            read = slot.position + (slot.finish == "eos")
            likelihood = self._model.likelihood(row, first, read) if slot.request.likelihood else None
            kept = self._model.kept(row, read) if slot.request.keep else None
            text = self._model.lm.decode(slot.written)
            generation = Generation(tuple(slot.written), text, slot.finish, slot.end_id)
            costs = slot.forward_passes, slot.seconds, slot.forward_tokens
            yield Decoded(slot.request, generation, *costs, trail, likelihood, kept)

    def _compact_rows(self) -> None:
        """Move the last running rows into free slots, so that passes get smaller when no request waits."""
        running = self._running()
        gaps = [row for row in range(len(running)) if self._rows[row] is None]
        if len(gaps) < max(1, len(running) // 8):
            return
        for gap, (last, slot) in zip(gaps, reversed(running), strict=False):
            self._model.move(last, gap, slot.position)
            self._rows[gap], self._rows[last] = slot, None


def _keeps(running: Sequence[tuple[int, _Slot]]) -> tuple[bool, bool]:
    """Whether a pass keeps the trail, and the likelihood of its tokens."""
    requests = [slot.request for _, slot in running]
    return any(request.trail for request in requests), any(request.likelihood for request in requests)
