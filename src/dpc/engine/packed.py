"""Packed passes: the tokens of many rows form one sequence without padding. Only attention uses padded grids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

# Rows with at most _FEW_TOKENS tokens form one grid. Of longer rows, those form a grid that have at least the share
# _SIMILAR of its longest row.
_FEW_TOKENS, _SIMILAR = 16, 0.75


@dataclass(frozen=True, slots=True)
class Reading:
    """The tokens that one row of the cache adds to a pass, the first of them at position ``start``.

    kept: for how many of the last tokens logits are computed.
    """

    row: int
    start: int
    tokens: Sequence[int]
    kept: int = 1

    @property
    def stop(self) -> int:
        """The position after the last token."""
        return self.start + len(self.tokens)


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Rows whose attention is computed in one call, padded to the longest of them.

    rows: rows of the cache. tokens: indices into the pack; padding repeats the index of another token.
    unpadded: indices into the flattened grid of the tokens that are not padding. length: positions to attend to.
    """

    rows: slice | Int[Tensor, " row"]
    tokens: Int[Tensor, "row time"]
    unpadded: Int[Tensor, " token"]
    length: int


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """One pass: the row and position of every token, and the grids for attention, in the order of the tokens.

    kept: tokens with logits. shares: for each reading, which of the kept tokens are its own.
    length: positions to attend to, in the longest grid.
    """

    ids: Int[Tensor, " token"]
    rows: Int[Tensor, " token"]
    positions: Int[Tensor, " token"]
    kept: Int[Tensor, " kept"]
    shares: Sequence[slice]
    length: int
    grids: Sequence[Grid]
    _masks: dict[int, tuple[Tensor, list[Tensor]]] = field(default_factory=dict)

    def masks(self, mask: Float[Tensor, "1 1 token position"]) -> list[Float[Tensor, "_ 1 _ _"]]:
        """The part of a mask over all tokens for each grid; computed once for all layers with the same mask."""
        # The mask is stored with its parts, so that no other tensor gets the same id while this pack exists.
        if id(mask) not in self._masks:
            parts = [mask[0, 0, :, : grid.length][grid.tokens].unsqueeze(1) for grid in self.grids]
            self._masks[id(mask)] = mask, parts
        return self._masks[id(mask)][1]


def pack(readings: Sequence[Reading], device: torch.device) -> Pack:
    """Lay out one pass. ``readings``: at most one for each row, none of them empty."""
    groups = list(_groups(readings))
    order = list(chain.from_iterable(groups))
    counts = np.array([len(readings[index].tokens) for index in order])
    ends = counts.cumsum()
    firsts = ends - counts
    starts = np.array([readings[index].start for index in order])
    rows = np.array([readings[index].row for index in order])
    kept = np.array([readings[index].kept for index in order])
    kept_ends = kept.cumsum()
    shares = [slice(0)] * len(readings)
    for index, count, end in zip(order, kept.tolist(), kept_ends.tolist(), strict=True):
        shares[index] = slice(end - count, end)
    grids, done = [], 0
    for group in groups:
        part = slice(done, done + len(group))
        length = max(readings[index].stop for index in group)
        grids.append(_grid(rows[part], firsts[part], counts[part], length, device))
        done = part.stop
    ids = np.fromiter(chain.from_iterable(readings[index].tokens for index in order), np.int64, ends[-1])
    return Pack(
        torch.from_numpy(ids).to(device),
        torch.from_numpy(rows.repeat(counts)).to(device),
        torch.from_numpy(_ranges(starts, counts)).to(device),
        torch.from_numpy(_ranges(ends - kept, kept)).to(device),
        shares,
        max(grid.length for grid in grids),
        grids,
    )


def _groups(readings: Sequence[Reading]) -> Iterator[list[int]]:
    """Indices of the readings in each grid, in order of their rows: short ones, then long ones of similar length."""
    by_row = sorted(range(len(readings)), key=lambda index: readings[index].row)
    few = [index for index in by_row if len(readings[index].tokens) <= _FEW_TOKENS]
    if few:
        yield few
    many = [index for index in by_row if len(readings[index].tokens) > _FEW_TOKENS]
    while many:
        least = _SIMILAR * max(len(readings[index].tokens) for index in many)
        yield [index for index in many if len(readings[index].tokens) >= least]
        many = [index for index in many if len(readings[index].tokens) < least]


Integers = np.ndarray[tuple[int], np.dtype[np.int64]]


def _ranges(starts: Integers, counts: Integers) -> Integers:
    """Concatenated ranges: ``start, start + 1, ...`` with ``count`` numbers for each start."""
    ends = counts.cumsum()
    numbers: Integers = np.arange(ends[-1]) + (starts - ends + counts).repeat(counts)
    return numbers


def _grid(rows: Integers, firsts: Integers, counts: Integers, length: int, device: torch.device) -> Grid:
    """The grid of some rows. rows: ascending. firsts: index of each row's first token. counts: its tokens."""
    cached: slice | Tensor = torch.from_numpy(rows).to(device)
    leading = int(rows[-1]) + 1
    if leading <= 2 * len(rows):
        # Most of the first rows of the cache take part. A slice that includes the others avoids a copy of the cache.
        cached = slice(0, leading)
        all_firsts, all_counts = np.full(leading, firsts[0]), np.zeros(leading, dtype=np.int64)
        all_firsts[rows], all_counts[rows] = firsts, counts
        firsts, counts = all_firsts, all_counts
    times = np.arange(counts.max())
    tokens = firsts[:, None] + np.minimum(times, np.maximum(counts - 1, 0)[:, None])
    unpadded = np.flatnonzero(times < counts[:, None])
    return Grid(cached, torch.from_numpy(tokens).to(device), torch.from_numpy(unpadded).to(device), length)
