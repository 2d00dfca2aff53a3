"""A frozen model over slots: forward passes of some rows of one cache, and what they leave there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dpc.engine.pace import pace_on
from dpc.engine.packed import Reading, pack
from dpc.engine.replay import Replay
from dpc.engine.request import Trail
from dpc.engine.slot_attention import PACKED, ROWS, packed_as, register
from dpc.engine.slot_cache import SlotCache, Window, unwritten
from dpc.model.attention_switch import AttentionImplementation
from dpc.model.blocks import decoder_blocks
from dpc.model.capture import check_reproduces
from dpc.model.lm import FrozenLM
from dpc.prompt.prefix import PromptPrefix

# Passes in which no row reads more tokens than this have one of a few shapes, where those are recorded.
_GRID_WIDTH = 17


class SlotModel:
    """``slots`` rows of cache that grow with the longest sequence in them; row 0 up are used first."""

    def __init__(self, lm: FrozenLM, slots: int, *, compiled: bool = False, recorded: bool = True) -> None:
        self.lm, self.slots, self.capacity, self.pace = lm, slots, 0, pace_on(lm.device)
        # Only passes of a few tokens a row: their shapes change along few dimensions, and there are thousands of them.
        self._few = _compiled(lm.model.forward) if compiled else lm.model
        self._replay = Replay(self._pass) if recorded and lm.device.type == "cuda" else None
        # Slots read with our attention, which must be the model's own before anything is decoded with it.
        check_reproduces(lm)
        register()
        self._implementation = AttentionImplementation(lm.model)
        self._last_block = decoder_blocks(lm.model)[-1]
        self._cache = SlotCache(lm.layers, slots, 0)
        self._hidden: Tensor | None = None
        self._fronts: list[PromptPrefix | None] = [None] * slots

    @torch.inference_mode()
    def expect(self, positions: int) -> None:
        """Be ready for sequences of up to ``positions``, where what is not written to costs nothing."""
        if self.lm.device.type == "cpu":
            self._reserve(min(positions, self.lm.context))

    def _reserve(self, positions: int) -> None:
        """Make room for sequences of ``positions``; what rows hold is kept."""
        if positions > self.capacity:
            # Memory follows the longest answer so far, not the longest that was allowed. Not past the context: what
            # rows that ended write there is padding, at a position that the model has.
            enough = self._rounded(max(positions, int(self.capacity * (1 + self.pace.grown))))
            positions = max(positions, min(enough, self.lm.context))
            if self._replay:
                self._replay.forget()
            # One more position, which nothing reads: padding is written there.
            self._cache.grow(positions + 1)
            self._hidden = None if self._hidden is None else _grown(self._hidden, positions)
            self.capacity = positions

    @torch.inference_mode()
    def insert(self, rows: Sequence[int], prefixes: Sequence[PromptPrefix | None]) -> None:
        """Put the keys and values of soft prompts at the front of rows."""
        for row, prefix in zip(rows, prefixes, strict=True):
            # What stands in front stays there: nothing after it writes over it.
            if prefix is not None and self._fronts[row] is not prefix:
                self._reserve(len(prefix))
                self._cache.insert(row, prefix)
            self._fronts[row] = prefix

    @torch.inference_mode()
    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of one row to another."""
        self._cache.move(source, target, length)
        self._fronts[target] = self._fronts[source]
        if self._hidden is not None:
            self._hidden[target, :length] = self._hidden[source, :length]

    @torch.inference_mode()
    def read(self, readings: Sequence[Reading], trail: bool) -> list[list[int]]:
        """One pass over what rows read; for each what greedy decoding would write after its last ``kept`` tokens."""
        self._reserve(max(reading.stop for reading in readings))
        if self.pace.fixed_shapes and max(len(reading.tokens) for reading in readings) <= _GRID_WIDTH:
            return self._read_grid(readings, trail)
        packed = pack(readings, self.lm.device)
        window = Window(packed.rows, packed.positions, None, packed.length)
        with packed_as(packed):
            logits = self._forward(self.lm.model, packed.ids[None], packed.positions[None], window, packed.kept, trail)
        predicted: list[int] = logits[0].argmax(-1).tolist()
        return [predicted[share] for share in packed.shares]

    def _read_grid(self, readings: Sequence[Reading], trail: bool) -> list[list[int]]:
        """The same with padding: where rows read a few tokens each, a shape that comes again is worth more."""
        width = 1 + _power_of_two(max(len(reading.tokens) for reading in readings) - 1)
        shape = self._leading(max(reading.row for reading in readings) + 1), width
        ids, positions = np.zeros(shape, np.int64), np.full(shape, self.capacity, np.int64)
        for reading in readings:
            ids[reading.row, : len(reading.tokens)] = reading.tokens
            positions[reading.row, : len(reading.tokens)] = range(reading.start, reading.stop)
        tokens, places = (torch.from_numpy(array).to(self.lm.device) for array in (ids, positions))
        length = self._seen(max(reading.stop for reading in readings))
        rows = (self._replay or self._pass)(tokens, places, length, trail).tolist()
        return [rows[reading.row][: len(reading.tokens)][-reading.kept :] for reading in readings]

    @torch.inference_mode()
    def steps(
        self, tokens: Sequence[int], positions: Sequence[int | None], count: int, trail: bool
    ) -> Int[Tensor, "step row"]:
        """Let the first ``len(tokens)`` rows write ``count`` tokens, each from its last token at its position.

        A row without a position is run along and keeps what it holds.
        """
        last = max(position for position in positions if position is not None)
        self._reserve(min(last + count, self.lm.context))
        device, more = self.lm.device, self._leading(len(tokens)) - len(tokens)
        ids = torch.tensor([*tokens, *[0] * more], device=device)[:, None]
        at = [self.capacity if position is None else position for position in positions]
        places = torch.tensor([*at, *[self.capacity] * more], device=device)[:, None]
        written = torch.empty(count, len(tokens), dtype=torch.long, device=device)
        for step in range(count):
            ids = (self._replay or self._pass)(ids, places, self._seen(last + step + 1), trail)
            written[step] = ids[: len(tokens), 0]
            # Rows that ended between two looks write on, where nothing is read.
            places = (places + 1).clamp(max=self.capacity)
        return written

    def _pass(
        self, ids: Int[Tensor, "row time"], positions: Int[Tensor, "row time"], length: int, trail: bool
    ) -> Int[Tensor, "row time"]:
        """What greedy decoding would write after each token of the first rows; at ``capacity`` stands padding."""
        rows, time = ids.shape
        leading = torch.arange(rows, device=ids.device).repeat_interleave(time)
        window = Window(leading, positions.flatten(), rows, length)
        # To the model padding stands at position 0: a place that every model has.
        known = positions.masked_fill(positions >= self.capacity, 0)
        return self._forward(self._few, ids, known, window, time, trail).argmax(-1)

    def _leading(self, rows: int) -> int:
        """How many rows a pass runs over that needs the first ``rows``."""
        # Not one alone: compilers would compile anew for it.
        return min(_power_of_two(max(rows, 2)), self.slots) if self.pace.fixed_shapes else rows

    def _seen(self, positions: int) -> int:
        """How many positions a pass reads that needs the first ``positions``."""
        return min(self._rounded(positions) if self.pace.fixed_shapes else positions, self.capacity)

    def _rounded(self, positions: int) -> int:
        return -(-positions // self.pace.granule) * self.pace.granule

    def trail(self, row: int, start: int, stop: int) -> Trail:
        """A copy of what the last block keeps of a row, with what entered it at positions ``start`` to ``stop``."""
        assert self._hidden is not None
        keys, values = self._cache.read(row, stop)
        return Trail(self._hidden[row, start:stop].clone(), keys, values)

    def _forward(
        self,
        forward: Callable[..., Any],
        ids: Int[Tensor, "row time"],
        position_ids: Int[Tensor, "row time"],
        window: Window,
        keep: int | Int[Tensor, " kept"],
        trail: bool,
    ) -> Float[Tensor, "row kept vocab"]:
        self._cache.look_at(window, position_ids)

        def keep_hidden(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            hidden = arguments[0]
            if self._hidden is None:
                self._hidden = unwritten(hidden, self.slots, self.capacity + 1, hidden.shape[-1])
            self._hidden.index_put_((window.rows, window.positions), hidden.flatten(0, 1))

        handle = self._last_block.register_forward_pre_hook(keep_hidden) if trail else None
        try:
            with self._implementation.switched(ROWS if window.leading else PACKED):
                output = forward(
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


def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    """``forward`` compiled, once with the hook that keeps a trail and once without."""
    from torch._dynamo import config

    compiled = torch.compile(forward, dynamic=True)

    def call(**keywords: Any) -> Any:
        # By default a hook that comes after a compilation is passed over in silence.
        with config.patch(skip_nnmodule_hook_guards=False):
            return compiled(**keywords)

    return call


def _power_of_two(number: int) -> int:
    """The smallest that is not below ``number``; 0 for 0."""
    return 1 << (number - 1).bit_length() if number else 0


def _grown(old: Float[Tensor, "slot position d"], positions: int) -> Float[Tensor, "slot position_now d"]:
    new = unwritten(old, old.shape[0], positions + 1, old.shape[2])
    new[:, : old.shape[1]] = old
    return new
