"""A frozen model over slots: forward passes of some rows of one cache, and what they leave there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dpc.blocks import decoder_blocks
from dpc.capture import check_reproduces
from dpc.engine.request import Trail
from dpc.engine.slot_attention import IMPLEMENTATION, register
from dpc.engine.slot_cache import SlotCache, Window
from dpc.implementation import AttentionImplementation
from dpc.lm import FrozenLM
from dpc.prefix import PromptPrefix

# Positions that the cache grows by: memory follows the longest answer so far, not the longest that was allowed.
_GROWTH = 64


class SlotModel:
    """``slots`` rows of cache that grow with the longest sequence in them; row 0 up are used first."""

    def __init__(self, lm: FrozenLM, slots: int, compiled: bool = False) -> None:
        self.lm, self.slots, self.capacity = lm, slots, 0
        # Only steps of one token: their shapes change along two dimensions, and there are thousands of them.
        self._step = torch.compile(lm.model.forward, dynamic=True) if compiled else lm.model
        # Slots read with our attention, which must be the model's own before anything is decoded with it.
        check_reproduces(lm)
        register()
        self._implementation = AttentionImplementation(lm.model)
        self._last_block = decoder_blocks(lm.model)[-1]
        self._cache = SlotCache(lm.layers, slots, 0)
        self._hidden: Tensor | None = None

    def _reserve(self, positions: int) -> None:
        """Make room for sequences of ``positions``; what rows hold is kept."""
        if positions > self.capacity:
            # Not past the context: what rows that ended write there is padding, at a position that the model has.
            positions = max(positions, min(-(-positions // _GROWTH) * _GROWTH, self.lm.context))
            # One more position, which nothing reads: padding is written there.
            self._cache.grow(positions + 1)
            self._hidden = None if self._hidden is None else _grown(self._hidden, positions)
            self.capacity = positions

    def insert(self, rows: Sequence[int], prefixes: Sequence[PromptPrefix | None]) -> None:
        """Put the keys and values of soft prompts at the front of rows."""
        for row, prefix in zip(rows, prefixes, strict=True):
            if prefix is not None:
                self._reserve(len(prefix))
                self._cache.insert(row, prefix)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of one row to another."""
        self._cache.move(source, target, length)
        if self._hidden is not None:
            self._hidden[target, :length] = self._hidden[source, :length]

    def extend(
        self, rows: Sequence[int], texts: Sequence[Sequence[int]], starts: Sequence[int], keep: int, trail: bool
    ) -> Int[Tensor, "row keep"]:
        """Read another text in every row, and say what greedy decoding would write after its last ``keep`` tokens.

        starts: the position of each text's first token. Shorter texts stand to the right; padding is out of the way.
        """
        length = max(start + len(text) for text, start in zip(texts, starts, strict=True))
        self._reserve(length)
        width = max(map(len, texts))
        padding = [width - len(text) for text in texts]
        ids = torch.tensor([[0] * pad + list(text) for pad, text in zip(padding, texts, strict=True)])
        positions = torch.tensor(
            [
                [self.capacity] * pad + list(range(start, start + width - pad))
                for pad, start in zip(padding, starts, strict=True)
            ]
        )
        leading = list(rows) == list(range(len(rows)))
        device = self.lm.device
        window = Window(torch.tensor(rows, device=device), leading, positions.to(device), length)
        return self._forward(ids.to(device), window, keep, trail).argmax(-1)

    def steps(
        self, tokens: Sequence[int], positions: Sequence[int], count: int, trail: bool
    ) -> Int[Tensor, "step row"]:
        """Let the first ``len(tokens)`` rows write ``count`` tokens, each from its last token at its position."""
        self._reserve(min(max(positions) + count, self.lm.context))
        device = self.lm.device
        rows = torch.arange(len(tokens), device=device)
        ids = torch.tensor(tokens, device=device)[:, None]
        at = torch.tensor(positions, device=device)[:, None]
        written = torch.empty(count, len(tokens), dtype=torch.long, device=device)
        for step in range(count):
            window = Window(rows, True, at, min(max(positions) + step + 1, self.capacity))
            ids = self._forward(ids, window, 1, trail).argmax(-1)
            written[step] = ids[:, 0]
            # Rows that ended between two looks write on, where nothing is read.
            at = (at + 1).clamp(max=self.capacity)
        return written

    def trail(self, row: int, start: int, stop: int) -> Trail:
        """A copy of what the last block keeps of a row, with what entered it at positions ``start`` to ``stop``."""
        assert self._hidden is not None
        keys, values = self._cache.read(row, stop)
        return Trail(self._hidden[row, start:stop].clone(), keys, values)

    def _forward(
        self, ids: Int[Tensor, "row time"], window: Window, keep: int, trail: bool
    ) -> Float[Tensor, "row keep vocab"]:
        # To the model padding stands at position 0: a place that every model has, and that is not masked whole.
        position_ids = window.positions.masked_fill(window.positions >= self.capacity, 0)
        self._cache.look_at(window, position_ids)

        def keep_hidden(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            hidden = arguments[0]
            if self._hidden is None:
                self._hidden = hidden.new_zeros(self.slots, self.capacity + 1, hidden.shape[-1])
            self._hidden.index_put_((window.rows[:, None], window.positions), hidden)

        handle = self._last_block.register_forward_pre_hook(keep_hidden) if trail else None
        try:
            with self._implementation.switched(IMPLEMENTATION):
                output = (self._step if ids.shape[1] == 1 else self.lm.model)(
                    input_ids=ids,
                    position_ids=position_ids,
                    past_key_values=self._cache,
                    use_cache=True,
                    logits_to_keep=keep,
                )
        finally:
            if handle is not None:
                handle.remove()
        logits: Tensor = output.logits
        return logits


def _grown(old: Float[Tensor, "slot position d"], positions: int) -> Float[Tensor, "slot position_now d"]:
    new = old.new_zeros(old.shape[0], positions + 1, old.shape[2])
    new[:, : old.shape[1]] = old
    return new
