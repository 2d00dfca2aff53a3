"""``Decoder``: requests in, answers out as they are finished, by the fast path or the plain one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from dpc.engine.plain import greedy
from dpc.engine.request import Decoded, Request, by_length
from dpc.engine.slot_model import SlotModel
from dpc.engine.slots import SlotDecoder
from dpc.errors import UserError
from dpc.model.lm import FrozenLM
from dpc.prompt.prefix import PrefixStore
from dpc.settings import DecodingSettings
from dpc.types import Generation


class Decoder:
    """Greedy decoding of one frozen model. Caches and prompt prefixes live as long as this object does.

    Raises ``UserError`` where slots are asked for and the model's attention cannot be reproduced.
    """

    def __init__(self, lm: FrozenLM, settings: DecodingSettings | None = None) -> None:
        self.lm, self.settings = lm, settings or DecodingSettings()
        self.prefixes = PrefixStore(lm, self.settings.prefixes)
        self._busy = False
        self._model: SlotModel | None = None
        if self.settings.slots:
            try:
                chosen = self.settings
                self._model = SlotModel(lm, chosen.batch_size, compiled=chosen.compile, recorded=chosen.cuda_graphs)
            except UserError as error:
                raise UserError(f"{error}; or only decode, the model's own way: --set decoding.slots=false") from error

    def stream(self, queue: list[Request], max_new_tokens: int) -> Iterator[Decoded]:
        """Take requests out of ``queue`` until it is empty, and yield each when its answer is there, in any order.

        More requests may be put into the queue while answers are taken. Every answer is token for token what the
        request would get alone; an answer stops at an end token, at ``max_new_tokens``, or where the context is full.

        Raises ``UserError`` where a question leaves no room for an answer.
        """
        if self._busy:
            raise RuntimeError("this decoder is in the middle of another stream; finish that one, or take two decoders")
        self._busy = True
        try:
            yield from (
                self._slots(self._model, queue, max_new_tokens) if self._model else self._plain(queue, max_new_tokens)
            )
        finally:
            self._busy = False

    def all(self, requests: Sequence[Request], max_new_tokens: int) -> list[Generation]:
        """The answers to ``requests``, in their order."""
        tagged = {id(request): index for index, request in enumerate(requests)}
        done = {tagged[id(d.request)]: d.generation for d in self.stream(list(requests), max_new_tokens)}
        return [done[index] for index in range(len(requests))]

    def _slots(self, model: SlotModel, queue: list[Request], max_new_tokens: int) -> Iterator[Decoded]:
        slots = SlotDecoder(model, self.prefixes, max_new_tokens, self.settings.draft_tokens)
        return slots.stream(queue)

    def _plain(self, queue: list[Request], max_new_tokens: int) -> Iterator[Decoded]:
        while queue:
            taken = [queue[i] for i in next(by_length(queue, self.settings.batch_size))]
            queue[:] = [request for request in queue if request not in taken]
            began = time.perf_counter()
            generations = greedy(self.lm, taken, max_new_tokens)
            seconds = (time.perf_counter() - began) / len(taken)
            for request, generation in zip(taken, generations, strict=True):
                passes = len(generation.ids) + (generation.finish == "eos")
                yield Decoded(request, generation, passes, seconds)
