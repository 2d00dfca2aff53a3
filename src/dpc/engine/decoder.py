"""``Decoder``: submit requests, drain answers. Decodes in slots (continuous batching) or in plain batches."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

import torch

from dpc.engine.groups import Candidates, Chooser, GroupDecoder
from dpc.engine.plain import greedy_with_likelihood
from dpc.engine.request import Decoded, Request, by_length
from dpc.engine.slot_check import check_slots_reproduce
from dpc.engine.slot_model import SlotModel
from dpc.engine.slots import SlotDecoder
from dpc.errors import UserError
from dpc.model.lm import FrozenLM
from dpc.model.own_check import check_own_passes
from dpc.prompt.prefix import PrefixStore
from dpc.settings import DecodingSettings
from dpc.types import Generation


class Decoder:
    """Greedy decoding of one frozen model. KV cache and prompt prefixes are kept between drains.

    Raises ``UserError`` if settings ask for slots and the model's attention cannot be reproduced in them.
    """

    def __init__(self, lm: FrozenLM, settings: DecodingSettings | None = None) -> None:
        self.lm, self.settings = lm, settings or DecodingSettings()
        check_own_passes(lm)
        self.prefixes = PrefixStore(lm, self.settings.prefixes)
        self._waiting: list[Request] = []
        self._busy = False
        self._model: SlotModel | None = None
        if self.settings.slots:
            try:
                check_slots_reproduce(lm)
                chosen = self.settings
                self._model = SlotModel(lm, chosen.batch_size, compiled=chosen.compile, recorded=chosen.cuda_graphs)
            except UserError as error:
                mend = "or decode in plain batches, with the model's own attention: --set decoding.slots=false"
                raise UserError(f"{error}; {mend}") from error

    def submit(self, requests: Iterable[Request]) -> None:
        """Put ``requests`` into the waiting list, from which ``drain`` takes them.

        Requests submitted while a drain is being consumed join it (continuous batching).
        """
        self._waiting.extend(list(requests))

    def drain(self, max_new_tokens: int) -> Iterator[Decoded]:
        """Answer everything that was submitted; yield each answer when it is complete, in any order.

        The iterator ends when no request waits or runs. Every answer is token for token what the request would get
        alone; an answer stops at an end token, after ``max_new_tokens``, or where the context is full.

        A drain that raises, or that is closed before its end, discards the requests that it has not answered, waiting
        ones included: the next drain answers only what is submitted after that.

        Raises:
            UserError: a question without tokens, or one that leaves no space for an answer in the context.
            RuntimeError: another drain of this decoder is under way. That one goes on undisturbed.
        """
        self._require_idle()
        self._busy = True
        try:
            if self._model is not None:
                scheduler = SlotDecoder(self._model, self.prefixes, max_new_tokens, self.settings.draft_tokens)
                yield from scheduler.drain(self._waiting)
            else:
                yield from self._plain(max_new_tokens)
        finally:
            self._waiting.clear()
            self._busy = False

    def all(self, requests: Sequence[Request], max_new_tokens: int) -> list[Generation]:
        """The answers to ``requests``, in their order.

        Raises what ``drain`` raises, and ``RuntimeError`` where requests that were submitted before still wait.
        """
        self._require_idle()
        if self._waiting:
            raise RuntimeError(f"{len(self._waiting)} submitted requests wait for an answer; drain them first")
        self.submit(requests)
        done = {id(decoded.request): decoded.generation for decoded in self.drain(max_new_tokens)}
        return [done[id(request)] for request in requests]

    def candidates(self, requests: Sequence[Request], max_new_tokens: int, chooser: Chooser) -> Iterator[Candidates]:
        """Several answers to each request, by beam search or sampling; in any order, each when it is complete.

        Raises:
            UserError: a question without tokens or one that does not fit, decoding without slots, or fewer slots than
                one request takes.
            RuntimeError: a drain of this decoder is under way.
        """
        self._require_idle()
        if self._model is None:
            raise UserError("decoding.slots=false: several answers a question are decoded in slots; set it to true")
        if self._model.slots < chooser.rows:
            raise UserError(
                f"decoding.batch_size={self._model.slots}: one question takes {chooser.rows} slots; set it to as many"
            )
        self._busy = True
        try:
            scheduler = GroupDecoder(self._model, self.prefixes, max_new_tokens, chooser)
            yield from scheduler.drain(list(requests))
        finally:
            self._busy = False

    def _require_idle(self) -> None:
        if self._busy:
            raise RuntimeError("this decoder is being drained; finish that drain or close it, or use a second decoder")

    def _plain(self, max_new_tokens: int) -> Iterator[Decoded]:
        while self._waiting:
            chosen = next(by_length(self._waiting, self.settings.batch_size))
            if self.lm.dtype == torch.float64:
                # Eager attention takes a softmax in float32, where a float64 mask overflows and padded rows become NaN.
                chosen = [i for i in chosen if len(self._waiting[i]) == len(self._waiting[chosen[0]])]
            taken = [self._waiting[index] for index in chosen]
            for index in sorted(chosen, reverse=True):
                del self._waiting[index]
            began = time.perf_counter()
            answers = greedy_with_likelihood(self.lm, taken, max_new_tokens)
            seconds = (time.perf_counter() - began) / len(taken)
            for request, (generation, likelihood) in zip(taken, answers, strict=True):
                passes = len(generation.ids) - len(request.begin) + (generation.finish == "eos")
                # Prompt and question, then each generated token but the last: it ends the answer, or nothing follows.
                tokens = len(request) + len(request.begin) + passes - 1
                yield Decoded(request, generation, passes, seconds, tokens, likelihood=likelihood)
