"""Forward passes of a frozen model over slots: prefill, verification of drafts, and decode steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dpc.engine.pace import pace_on
from dpc.engine.packed import Pack, Reading, pack
from dpc.engine.replay import Replay
from dpc.engine.request import Likelihood, Trail
from dpc.engine.slot_attention import PACKED, ROWS, packed_as, register
from dpc.engine.slot_cache import PassLayout, SlotCache, SlotLayer, lazy_zeros
from dpc.engine.token_figures import FIGURES, likelihood_of, token_figures
from dpc.model.attention_switch import AttentionImplementation
from dpc.model.blocks import decoder_blocks
from dpc.model.lm import FrozenLM
from dpc.prompt.prefix import PromptPrefix

# With fixed shapes, passes with at most this many tokens a row are padded, longer ones packed.
_PADDED_WIDTH = 17


class SlotModel:
    """A model with a KV cache of ``slots`` rows, whose capacity in positions grows with the longest sequence.

    compiled: padded passes are compiled with ``torch.compile``. recorded: on CUDA, they are captured as CUDA graphs.
    drafts: whether passes can verify drafts. offers_trail: whether ``trail`` can be called.
    """

    drafts = True

    def __init__(self, lm: FrozenLM, slots: int, *, compiled: bool = False, recorded: bool = True) -> None:
        self.lm, self.slots, self.capacity, self.pace = lm, slots, 0, pace_on(lm.device)
        # Only padded passes are compiled: there are thousands of them, and their shapes vary in few dimensions.
        self._padded_forward = _compiled(lm.model.forward) if compiled else lm.model
        self._replay = Replay(self._pass) if recorded and lm.device.type == "cuda" else None
        register()
        self._implementation = AttentionImplementation(lm.model)
        self._last_block = decoder_blocks(lm.model)[-1]
        self._cache = self._new_cache()
        self.offers_trail = True
        self._hidden: Tensor | None = None
        self._figures: Tensor | None = None
        self._prefixes: list[PromptPrefix | None] = [None] * slots

    def _new_cache(self) -> SlotCache:
        return SlotCache([SlotLayer(self.slots, 0) for _ in range(self.lm.layers)], self.slots, 0)

    @torch.inference_mode()
    def preallocate(self, positions: int) -> None:
        """Allocate for sequences of up to ``positions`` on a CPU, where unwritten memory costs nothing."""
        if self.lm.device.type == "cpu":
            self._reserve(min(positions, self.lm.context))

    def _reserve(self, positions: int) -> None:
        """Grow the cache to sequences of ``positions`` if it is smaller, and keep what is stored."""
        if positions > self.capacity:
            # Memory follows the longest sequence so far, not the longest that is allowed. The context is the limit,
            # because models have no position ids beyond it.
            wanted = self._rounded(max(positions, int(self.capacity * (1 + self.pace.growth))))
            positions = max(positions, min(wanted, self.lm.context))
            if self._replay:
                self._replay.forget()
            # Padding is written to one more position, which no token attends to.
            self._cache.grow(positions + 1)
            self._hidden = None if self._hidden is None else _grown(self._hidden, positions)
            self._figures = None if self._figures is None else _grown(self._figures, positions)
            self.capacity = positions

    @torch.inference_mode()
    def insert(self, rows: Sequence[int], prefixes: Sequence[PromptPrefix | None]) -> None:
        """Begin a new sequence in each row, with the keys and values of its soft prompt (None: without a prompt)."""
        for row, prefix in zip(rows, prefixes, strict=True):
            # A sequence never overwrites its own prefix, so the same prefix need not be copied again.
            if prefix is not None and self._prefixes[row] is not prefix:
                self._reserve(len(prefix))
                self._cache.insert(row, prefix)
            self._prefixes[row] = prefix

    @torch.inference_mode()
    def move(self, source: int, target: int, length: int, start: int = 0) -> None:
        """Copy the positions from ``start`` to ``length`` of one row to another."""
        self._cache.move(source, target, length, start)
        self._prefixes[target] = self._prefixes[source]
        for stored in (self._hidden, self._figures):
            if stored is not None:
                stored[target, start:length] = stored[source, start:length]

    @torch.inference_mode()
    def read(self, readings: Sequence[Reading], trail: bool, likelihood: bool = False) -> list[list[int]]:
        """One forward pass over the tokens of ``readings``: questions, drafts to verify, last tokens.

        For each reading, the greedy successors of its last ``kept`` tokens. trail: keep the hidden states that enter
        the last block, for ``trail()``. likelihood: keep how likely the successors are, for ``likelihood()``.
        """
        if self.pace.fixed_shapes and max(len(reading.tokens) for reading in readings) <= _PADDED_WIDTH:
            rows = (self._replay or self._pass)(*self.padded(readings), trail, likelihood).tolist()
            return [rows[reading.row][: len(reading.tokens)][-reading.kept :] for reading in readings]
        packed = pack(readings, self.lm.device)
        logits = self.packed_logits(packed, trail)
        if likelihood:
            self._keep_figures(packed.rows[packed.kept], packed.positions[packed.kept], logits)
        predicted: list[int] = logits.argmax(-1).tolist()
        return [predicted[share] for share in packed.shares]

    @torch.inference_mode()
    def last_logits(self, readings: Sequence[Reading]) -> Float[Tensor, "reading vocab"]:
        """Logits after the last token of each reading."""
        if any(len(reading.tokens) > 1 for reading in readings):
            packed = pack(readings, self.lm.device)
            return self.packed_logits(packed, trail=False)[[share.start for share in packed.shares]]
        ids, positions, length = self.padded(readings)
        return self.padded_logits(ids, positions, length, trail=False)[[r.row for r in readings], 0]

    def packed_logits(self, packed: Pack, trail: bool) -> Float[Tensor, "kept vocab"]:
        """A forward pass without padding: all tokens in one sequence; logits at its ``kept`` tokens."""
        self._reserve(packed.length)
        layout = PassLayout(packed.rows, packed.positions, None, packed.length)
        with packed_as(packed):
            return self._forward(self.lm.model, packed.ids[None], packed.positions[None], layout, packed.kept, trail)[0]

    def padded(self, readings: Sequence[Reading]) -> tuple[Int[Tensor, "row time"], Int[Tensor, "row time"], int]:
        """Token ids and positions of ``readings`` as a padded batch, and how many cache positions the pass attends to.

        Padding has the position ``capacity``. Shapes are rounded up where the device profits from few shapes.
        """
        self._reserve(max(reading.stop for reading in readings))
        width = 1 + _power_of_two(max(len(reading.tokens) for reading in readings) - 1)
        shape = self._batch_rows(max(reading.row for reading in readings) + 1), width
        ids, positions = np.zeros(shape, np.int64), np.full(shape, self.capacity, np.int64)
        for reading in readings:
            ids[reading.row, : len(reading.tokens)] = reading.tokens
            positions[reading.row, : len(reading.tokens)] = range(reading.start, reading.stop)
        tokens, places = (torch.from_numpy(array).to(self.lm.device) for array in (ids, positions))
        return tokens, places, self._attended(max(reading.stop for reading in readings))

    def padded_logits(
        self, ids: Int[Tensor, "row time"], positions: Int[Tensor, "row time"], length: int, trail: bool
    ) -> Float[Tensor, "row time vocab"]:
        """A forward pass of a padded batch over the first rows of the cache and its first ``length`` positions."""
        rows, time = ids.shape
        leading = torch.arange(rows, device=ids.device).repeat_interleave(time)
        layout = PassLayout(leading, positions.flatten(), rows, length)
        # Padding gets the position id 0, which every model has.
        known = positions.masked_fill(positions >= self.capacity, 0)
        return self._forward(self._padded_forward, ids, known, layout, time, trail)

    def _pass(
        self,
        ids: Int[Tensor, "row time"],
        positions: Int[Tensor, "row time"],
        length: int,
        trail: bool,
        likelihood: bool = False,
    ) -> Int[Tensor, "row time"]:
        """The greedy successor of each token of a padded batch."""
        logits = self.padded_logits(ids, positions, length, trail)
        if likelihood:
            leading = torch.arange(len(ids), device=ids.device).repeat_interleave(ids.shape[1])
            self._keep_figures(leading, positions.flatten(), logits.flatten(0, 1))
        return logits.argmax(-1)

    def _keep_figures(
        self, rows: Int[Tensor, " token"], positions: Int[Tensor, " token"], logits: Float[Tensor, "token vocab"]
    ) -> None:
        figures = token_figures(logits)
        if self._figures is None:
            self._figures = lazy_zeros(figures, self.slots, self.capacity + 1, FIGURES)
        self._figures.index_put_((rows, positions), figures)

    @torch.inference_mode()
    def steps(
        self,
        tokens: Sequence[int],
        positions: Sequence[int | None],
        count: int,
        trail: bool,
        likelihood: bool = False,
    ) -> Int[Tensor, "step row"]:
        """``count`` greedy decode steps of the first rows, without reading a result on the host.

        tokens: the last token of each row. positions: of these tokens; None for a row that is not decoding, whose cache
        does not change. trail, likelihood: as in ``read``.
        """
        last = max(position for position in positions if position is not None)
        self._reserve(min(last + count, self.lm.context))
        device, more = self.lm.device, self._batch_rows(len(tokens)) - len(tokens)
        ids = torch.tensor([*tokens, *[0] * more], device=device)[:, None]
        at = [self.capacity if position is None else position for position in positions]
        places = torch.tensor([*at, *[self.capacity] * more], device=device)[:, None]
        written = torch.empty(count, len(tokens), dtype=torch.long, device=device)
        for step in range(count):
            ids = (self._replay or self._pass)(ids, places, self._attended(last + step + 1), trail, likelihood)
            written[step] = ids[: len(tokens), 0]
            # Rows that have ended decode on until the result is read; past the capacity they write padding.
            places = (places + 1).clamp(max=self.capacity)
        return written

    def _batch_rows(self, rows: int) -> int:
        """The batch size of a padded pass that needs the first ``rows``."""
        # At least two: torch.compile would specialize on a batch of one.
        return min(_power_of_two(max(rows, 2)), self.slots) if self.pace.fixed_shapes else rows

    def _attended(self, positions: int) -> int:
        """How many positions a padded pass attends to that needs the first ``positions``."""
        return min(self._rounded(positions) if self.pace.fixed_shapes else positions, self.capacity)

    def _rounded(self, positions: int) -> int:
        return -(-positions // self.pace.position_multiple) * self.pace.position_multiple

    def trail(self, row: int, start: int, stop: int) -> Trail:
        """A copy of a row's trail, with hidden states from position ``start`` to ``stop``.

        The passes that wrote these positions must have been made with ``trail``.
        """
        assert self._hidden is not None
        keys, values = self._cache.read(row, stop)
        return Trail(self._hidden[row, start:stop].clone(), keys, values)

    def likelihood(self, row: int, start: int, stop: int) -> Likelihood:
        """How likely the successors of a row's tokens at positions ``start`` to ``stop`` are.

        The passes that read these positions must have been made with ``likelihood``.
        """
        assert self._figures is not None
        return likelihood_of(self._figures[row, start:stop].clone())

    def kept(self, row: int, length: int) -> PromptPrefix | None:
        """A copy of a row's keys and values of all layers at its first ``length`` positions."""
        return self._cache.prefix(row, length)

    def _forward(
        self,
        forward: Callable[..., Any],
        ids: Int[Tensor, "row time"],
        position_ids: Int[Tensor, "row time"],
        layout: PassLayout,
        keep: int | Int[Tensor, " kept"],
        trail: bool,
    ) -> Float[Tensor, "row kept vocab"]:
        self._cache.set_layout(layout, position_ids)

        def keep_hidden(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            hidden = arguments[0]
            if self._hidden is None:
                self._hidden = lazy_zeros(hidden, self.slots, self.capacity + 1, hidden.shape[-1])
            self._hidden.index_put_((layout.rows, layout.positions), hidden.flatten(0, 1))

        handle = self._last_block.register_forward_pre_hook(keep_hidden) if trail else None
        try:
            with self._implementation.switched(ROWS if layout.leading else PACKED):
                output = forward(**self._arguments(ids, position_ids, keep))
        finally:
            if handle is not None:
                handle.remove()
        logits: Tensor = output.logits
        return logits

    def _arguments(self, ids: Tensor, position_ids: Tensor, keep: int | Tensor) -> dict[str, Any]:
        """Keyword arguments of the model's forward function."""
        return {
            "input_ids": ids,
            "position_ids": position_ids,
            "past_key_values": self._cache,
            "use_cache": True,
            "logits_to_keep": keep,
        }


def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    """``forward`` compiled: once with the hook that keeps a trail, and once without it."""
    from torch._dynamo import config

    compiled = torch.compile(forward, dynamic=True)

    def call(**keywords: Any) -> Any:
        # By default compiled code ignores a hook that was registered after the compilation.
        with config.patch(skip_nnmodule_hook_guards=False):
            return compiled(**keywords)

    return call


def _power_of_two(number: int) -> int:
    """The smallest power of two that is not below ``number``; 0 for 0."""
    return 1 << (number - 1).bit_length() if number else 0


def _grown(old: Float[Tensor, "slot position d"], positions: int) -> Float[Tensor, "slot position_now d"]:
    new = lazy_zeros(old, old.shape[0], positions + 1, old.shape[2])
    new[:, : old.shape[1]] = old
    return new
