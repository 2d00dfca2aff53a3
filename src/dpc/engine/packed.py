"""Tokens of many rows side by side in one sequence: no token of a pass is padding, and only attention sees a grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

# Rows that read at most so many tokens attend together, whatever their number; longer ones with others like them.
_FEW_TOKENS, _LIKE = 16, 0.75


@dataclass(frozen=True, slots=True)
class Reading:
    """What one row reads in a pass: ``tokens``, the first of them at position ``start``.

    kept: after how many of the last tokens it is asked what greedy decoding would write.
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
    """Rows that attend in one call, as many tokens each as the longest of them.

    rows: of the cache. tokens: where each stands in the pack; what fills shorter rows repeats another token.
    places: of the grid's tokens, row after row, those that are no filling. length: positions that are read.
    """

    rows: slice | Int[Tensor, " row"]
    tokens: Int[Tensor, "row time"]
    places: Int[Tensor, " token"]
    length: int


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """One pass: every token with its row and position, and the grids in which they attend, in the pack's order.

    kept: tokens whose successor is asked for. shares: for each reading, which of these are its own.
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
        """What of a mask over all tokens belongs to each grid; cut once for all layers that share the mask."""
        # The mask is held along with its parts, so that no other tensor gets its identity while this pack lives.
        if id(mask) not in self._masks:
            parts = [mask[0, 0, :, : grid.length][grid.tokens].unsqueeze(1) for grid in self.grids]
            self._masks[id(mask)] = mask, parts
        return self._masks[id(mask)][1]


def pack(readings: Sequence[Reading], device: torch.device) -> Pack:
    """Lay out one pass. ``readings``: at most one a row, none of them empty."""
    bundles = list(_bundles(readings))
    order = list(chain.from_iterable(bundles))
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
    for bundle in bundles:
        part = slice(done, done + len(bundle))
        length = max(readings[index].stop for index in bundle)
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


def _bundles(readings: Sequence[Reading]) -> Iterator[list[int]]:
    """Indices of readings that attend together, by row: those of few tokens, then long ones of like length."""
    by_row = sorted(range(len(readings)), key=lambda index: readings[index].row)
    few = [index for index in by_row if len(readings[index].tokens) <= _FEW_TOKENS]
    if few:
        yield few
    many = [index for index in by_row if len(readings[index].tokens) > _FEW_TOKENS]
    while many:
        least = _LIKE * max(len(readings[index].tokens) for index in many)
        yield [index for index in many if len(readings[index].tokens) >= least]
        many = [index for index in many if len(readings[index].tokens) < least]


Integers = np.ndarray[tuple[int], np.dtype[np.int64]]


def _ranges(starts: Integers, counts: Integers) -> Integers:
    """``start, start + 1, ...`` for each start, ``count`` numbers each, one after the other."""
    ends = counts.cumsum()
    numbers: Integers = np.arange(ends[-1]) + (starts - ends + counts).repeat(counts)
    return numbers


def _grid(rows: Integers, firsts: Integers, counts: Integers, length: int, device: torch.device) -> Grid:
    """Of rows in ascending order, each with the place of its first token in the pack and their number."""
    cached: slice | Tensor = torch.from_numpy(rows).to(device)
    leading = int(rows[-1]) + 1
    if leading <= 2 * len(rows):
        # They nearly all lead the cache: read where they are, the rows in between along with them, no copy is made.
        cached = slice(0, leading)
        all_firsts, all_counts = np.full(leading, firsts[0]), np.zeros(leading, dtype=np.int64)
        all_firsts[rows], all_counts[rows] = firsts, counts
        firsts, counts = all_firsts, all_counts
    times = np.arange(counts.max())
    tokens = firsts[:, None] + np.minimum(times, np.maximum(counts - 1, 0)[:, None])
    places = np.flatnonzero(times < counts[:, None])
    return Grid(cached, torch.from_numpy(tokens).to(device), torch.from_numpy(places).to(device), length)
