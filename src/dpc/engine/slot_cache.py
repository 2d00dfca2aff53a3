"""A preallocated KV cache whose rows differ in length. Models use it like any other cache."""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from dpc.prompt.prefix import PromptPrefix


@dataclass(frozen=True, slots=True, eq=False)
class PassLayout:
    """The part of the cache that the next forward pass writes and attends to.

    rows, positions: of each new token. leading: attention gets this many rows, from the first on; None: all rows, among
    which the attention function chooses. length: attention gets the positions ``0 .. length - 1``.
    """

    rows: Int[Tensor, " token"]
    positions: Int[Tensor, " token"]
    leading: int | None
    length: int


class SlotLayer(CacheLayerMixin):
    """The cache of one layer, ``[slot, kv_head, position, d]``: the positions of one head are contiguous."""

    is_sliding = False

    def __init__(self, slots: int, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.slots, self.capacity = slots, capacity
        self.layout: PassLayout | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate memory for keys and values of this shape, unless it is allocated."""
        if self.is_initialized:
            return
        self.keys, self.values = (
            lazy_zeros(states, self.slots, states.shape[1], self.capacity, states.shape[3])
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self,
        key_states: Float[Tensor, "row kv_head time d"],
        value_states: Float[Tensor, "row kv_head time v"],
        *args: object,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        """Write new keys and values as the layout says; returns the keys and values to attend to."""
        self.lazy_initialization(key_states, value_states)
        assert self.layout is not None
        assert self.keys is not None
        assert self.values is not None
        layout = self.layout
        # Flattened, a padded batch and a packed sequence are both a list of tokens.
        self.keys[layout.rows, :, layout.positions] = key_states.transpose(1, 2).flatten(0, 1)
        self.values[layout.rows, :, layout.positions] = value_states.transpose(1, 2).flatten(0, 1)
        if layout.leading is None:
            return self.keys, self.values
        return self.keys[: layout.leading, :, : layout.length], self.values[: layout.leading, :, : layout.length]

    def grow(self, capacity: int) -> None:
        """Grow to ``capacity`` positions, and keep what is stored."""
        self.capacity = capacity
        if self.is_initialized:
            self.keys, self.values = (_grown(part, capacity) for part in (self.keys, self.values))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The number of positions to attend to, and the first of them."""
        assert self.layout is not None
        return self.layout.length, 0

    def get_seq_length(self) -> int:
        """The number of positions to attend to; rows may be shorter."""
        return 0 if self.layout is None else self.layout.length

    def get_max_length(self) -> int:
        """The number of positions that are allocated."""
        return self.capacity


class SlotCache(Cache):
    """The caches of all layers, which share one layout."""

    def __init__(self, layers: int, slots: int, capacity: int) -> None:
        self.slots, self.capacity = slots, capacity
        self._slot_layers = [SlotLayer(slots, capacity) for _ in range(layers)]
        super().__init__(layers=list(self._slot_layers))

    def set_layout(self, layout: PassLayout, position_ids: Int[Tensor, "row time"]) -> None:
        """Set the layout of the next forward pass, and the position ids of its tokens."""
        self._position_ids = position_ids
        for layer in self._slot_layers:
            layer.layout = layout

    def get_query_offset(self, layer_idx: int = 0) -> Int[Tensor, "row time"]:  # type: ignore[override]
        """The position of every new token, in place of one offset for the batch; ``position_mask`` takes it."""
        return self._position_ids

    def grow(self, capacity: int) -> None:
        """Grow every layer to ``capacity`` positions, and keep what is stored."""
        self.capacity = capacity
        for layer in self._slot_layers:
            layer.grow(capacity)

    def insert(self, row: int, prefix: PromptPrefix) -> None:
        """Copy a prefix to the first positions of a row."""
        for layer, key, value in zip(self._slot_layers, prefix.keys, prefix.values, strict=True):
            layer.lazy_initialization(key[None], value[None])
            assert layer.keys is not None
            assert layer.values is not None
            layer.keys[row, :, : len(prefix)], layer.values[row, :, : len(prefix)] = key, value

    def read(self, row: int, length: int) -> tuple[Float[Tensor, "kv_head position d"], Tensor]:
        """A copy of the last layer's keys and values at the first ``length`` positions of a row."""
        layer = self._slot_layers[-1]
        assert layer.keys is not None
        assert layer.values is not None
        return layer.keys[row, :, :length].clone(), layer.values[row, :, :length].clone()

    def prefix(self, row: int, length: int) -> PromptPrefix:
        """A copy of all layers' keys and values at the first ``length`` positions of a row."""
        parts: list[tuple[Tensor, ...]] = []
        for name in ("keys", "values"):
            whole = [getattr(layer, name) for layer in self._slot_layers]
            parts.append(tuple(part[row, :, :length].clone() for part in whole))
        return PromptPrefix(*parts)

    def move(self, source: int, target: int, length: int, start: int = 0) -> None:
        """Copy the positions from ``start`` to ``length`` of one row to another."""
        for layer in self._slot_layers:
            for part in (layer.keys, layer.values):
                assert part is not None
                part[target, :, start:length] = part[source, :, start:length]


def _grown(old: Tensor | None, capacity: int) -> Tensor:
    assert old is not None
    new = lazy_zeros(old, *old.shape[:2], capacity, old.shape[3])
    new[:, :, : old.shape[2]] = old
    return new


def lazy_zeros(like: Tensor, *shape: int) -> Tensor:
    """Zeros of the type and device of ``like``. On a CPU under Unix, pages take memory only when they are written."""
    count = math.prod(shape)
    if not count or like.device.type != "cpu" or not hasattr(mmap, "MAP_ANONYMOUS"):
        return like.new_zeros(shape)
    pages = mmap.mmap(-1, count * like.element_size(), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=like.dtype, count=count).view(shape)
