"""A preallocated cache in which every row stands at a position of its own; models use it as any other cache."""

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


@dataclass(slots=True)
class Window:
    """Which part of the cache the next forward pass writes and reads.

    rows, positions: where each new token stands. leading: how many rows from the first on are read; None: attention
    chooses among all of them. length: positions that are read, ``0 .. length - 1``.
    """

    rows: Int[Tensor, " token"]
    positions: Int[Tensor, " token"]
    leading: int | None
    length: int


class SlotLayer(CacheLayerMixin):
    """One layer: ``[slot, kv_head, position, d]``, so that what one head reads lies together."""

    is_sliding = False

    def __init__(self, slots: int, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.slots, self.capacity = slots, capacity
        self.window: Window | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate for heads like these, where nothing is allocated yet."""
        if self.is_initialized:
            return
        self.keys, self.values = (
            unwritten(states, self.slots, states.shape[1], self.capacity, states.shape[3])
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
        """Put new keys and values where the window says, and give back all that it reads."""
        self.lazy_initialization(key_states, value_states)
        assert self.window is not None
        assert self.keys is not None
        assert self.values is not None
        window = self.window
        # A batch of one token a row and a sequence of packed tokens are the same list of tokens.
        self.keys[window.rows, :, window.positions] = key_states.transpose(1, 2).flatten(0, 1)
        self.values[window.rows, :, window.positions] = value_states.transpose(1, 2).flatten(0, 1)
        if window.leading is None:
            return self.keys, self.values
        return self.keys[: window.leading, :, : window.length], self.values[: window.leading, :, : window.length]

    def grow(self, capacity: int) -> None:
        """Make room for ``capacity`` positions."""
        self.capacity = capacity
        if self.is_initialized:
            self.keys, self.values = (_grown(part, capacity) for part in (self.keys, self.values))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Positions that attention reads, from position 0."""
        assert self.window is not None
        return self.window.length, 0

    def get_seq_length(self) -> int:
        """Positions that the window reads; rows differ in how many of them are theirs."""
        return 0 if self.window is None else self.window.length

    def get_max_length(self) -> int:
        """Positions that fit."""
        return self.capacity


class SlotCache(Cache):
    """All layers, and the one window that they share."""

    def __init__(self, layers: int, slots: int, capacity: int) -> None:
        self.slots, self.capacity = slots, capacity
        self._slot_layers = [SlotLayer(slots, capacity) for _ in range(layers)]
        super().__init__(layers=list(self._slot_layers))

    def look_at(self, window: Window, position_ids: Int[Tensor, "row time"]) -> None:
        """Set what the next forward pass writes and reads, and where its tokens stand to the model."""
        self._position_ids = position_ids
        for layer in self._slot_layers:
            layer.window = window

    def get_query_offset(self, layer_idx: int = 0) -> Int[Tensor, "row time"]:  # type: ignore[override]
        """The position of every new token: the mask function asks for rows, and ours takes one a token."""
        return self._position_ids

    def grow(self, capacity: int) -> None:
        """Make room for ``capacity`` positions; what is there is kept."""
        self.capacity = capacity
        for layer in self._slot_layers:
            layer.grow(capacity)

    def insert(self, row: int, prefix: PromptPrefix) -> None:
        """Copy a prefix to the front of a row."""
        for layer, key, value in zip(self._slot_layers, prefix.keys, prefix.values, strict=True):
            layer.lazy_initialization(key[None], value[None])
            assert layer.keys is not None
            assert layer.values is not None
            layer.keys[row, :, : len(prefix)], layer.values[row, :, : len(prefix)] = key, value

    def read(self, row: int, length: int) -> tuple[Float[Tensor, "kv_head position d"], Tensor]:
        """A copy of the last layer's keys and values of the first ``length`` positions of a row."""
        layer = self._slot_layers[-1]
        assert layer.keys is not None
        assert layer.values is not None
        return layer.keys[row, :, :length].clone(), layer.values[row, :, :length].clone()

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of one row to another."""
        for layer in self._slot_layers:
            for part in (layer.keys, layer.values):
                assert part is not None
                part[target, :, :length] = part[source, :, :length]


def _grown(old: Tensor | None, capacity: int) -> Tensor:
    assert old is not None
    new = unwritten(old, *old.shape[:2], capacity, old.shape[3])
    new[:, :, : old.shape[2]] = old
    return new


def unwritten(like: Tensor, *shape: int) -> Tensor:
    """Zeros of the type and device of ``like``; on a CPU with Unix, memory is taken up only as it is written to."""
    count = math.prod(shape)
    if not count or like.device.type != "cpu" or not hasattr(mmap, "MAP_ANONYMOUS"):
        return like.new_zeros(shape)
    pages = mmap.mmap(-1, count * like.element_size(), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=like.dtype, count=count).view(shape)
