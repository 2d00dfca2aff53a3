"""What each kind of figure draws, as plain values; ``columns`` gives the same values as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float

Array = np.ndarray
GROUPS = ("prompt", "question", "rationale")
Columns = dict[str, list[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Mean over ``instances`` of a flow in each layer, with a 95% interval."""

    flow: str
    group: str
    instances: int
    mean: Float[Array, " layer"]
    low: Float[Array, " layer"]
    high: Float[Array, " layer"]


@dataclass(frozen=True, slots=True, eq=False)
class LayerCurves:
    """Figure 2a. shallow: the layers that Eq 6 is averaged over. layers: of each value of a curve."""

    curves: tuple[Curve, ...]
    shallow: tuple[int, ...]
    layers: tuple[int, ...]

    def columns(self) -> Columns:
        """A row per curve and layer."""
        table: Columns = {name: [] for name in ("flow", "group", "instances", "layer", "mean", "low", "high")}
        for curve in self.curves:
            for layer, *values in zip(self.layers, curve.mean, curve.low, curve.high, strict=True):
                row = (curve.flow, curve.group, curve.instances, layer, *map(float, values))
                for column, value in zip(table.values(), row, strict=True):
                    column.append(value)
        return table


@dataclass(frozen=True, slots=True, eq=False)
class HeatMap:
    """Question and rationale rows by the columns of ``[p | q | r]``, pooled where long.

    values: NaN where a row comes before a column. lengths: cells of prompt, question and rationale.
    pool: positions along each side of a cell, whose value is their largest. labels: of the columns; the last ones are
    those of the rows. marks: columns with a mark.
    """

    title: str
    quantity: str
    values: Float[Array, "row column"]
    labels: tuple[str, ...]
    lengths: tuple[int, int, int]
    pool: int
    marks: tuple[int, ...] = ()

    @property
    def row_labels(self) -> tuple[str, ...]:
        """Labels of the rows."""
        return self.labels[self.lengths[0] :]


@dataclass(frozen=True, slots=True, eq=False)
class HeatMaps:
    """Figures 2b, 3 and 6: maps in rows of ``across``."""

    maps: tuple[HeatMap, ...]
    across: int

    def columns(self) -> Columns:
        """A row per cell; cells whose row comes before their column are left out."""
        parts: dict[str, list[Array]] = {}
        for heat in self.maps:
            rows, columns = np.nonzero(~np.isnan(heat.values))
            groups = np.repeat(GROUPS, heat.lengths)
            labels = np.array(heat.labels)
            part = {
                "map": np.full(rows.shape, heat.title),
                "quantity": np.full(rows.shape, heat.quantity),
                "row": rows,
                "column": columns,
                "row_group": groups[heat.lengths[0] + rows],
                "column_group": groups[columns],
                "row_token": labels[heat.lengths[0] + rows],
                "column_token": labels[columns],
                "marked": np.isin(columns, heat.marks),
                "value": heat.values[rows, columns],
            }
            for name, values in part.items():
                parts.setdefault(name, []).append(values)
        return {name: np.concatenate(values).tolist() for name, values in parts.items()}


@dataclass(frozen=True, slots=True)
class Share:
    """How many of ``instances`` have changed late flow, with Wilson's 95% interval of the share; None of none."""

    definition: str
    accumulated: bool
    instances: int
    changed: int
    share: float | None
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class CoOccurrence:
    """Figure 4a: two shares per definition. p: of Fisher's exact test, by definition; None where there is no test."""

    shares: tuple[Share, ...]
    p: Mapping[str, float | None]

    def columns(self) -> Columns:
        """A row per share."""
        names = ("definition", "accumulated", "instances", "changed", "share", "low", "high")
        return {name: [getattr(share, name) for share in self.shares] for name in names}


@dataclass(frozen=True, slots=True)
class Distributions:
    """Figure 4b: ``S_late`` of each instance, by group; ids in the same order."""

    groups: Mapping[str, tuple[float, ...]]
    ids: Mapping[str, tuple[str, ...]]

    def columns(self) -> Columns:
        """A row per instance."""
        return {
            "group": [name for name, values in self.groups.items() for _ in values],
            "example_id": [name for names in self.ids.values() for name in names],
            "late_flow": [value for values in self.groups.values() for value in values],
        }


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of ``S_late`` over ``instances``, with a 95% interval."""

    group: str
    instances: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Means:
    """Figure 4c."""

    means: tuple[Mean, ...]

    def columns(self) -> Columns:
        """A row per group."""
        names = ("group", "instances", "mean", "low", "high")
        return {name: [getattr(mean, name) for mean in self.means] for name in names}


Chart = LayerCurves | HeatMaps | CoOccurrence | Distributions | Means


def pooled_map(
    title: str,
    quantity: str,
    matrix: Float[Array, "row column"],
    tokens: tuple[str, ...],
    lengths: tuple[int, int, int],
    marked: Array,
    most: int,
) -> HeatMap:
    """A map with about ``most`` columns at most: a cell is the largest value of ``pool`` by ``pool`` positions.

    No cell crosses from one group to the next. marked: whether each column gets a mark.
    """
    pool = -(-len(tokens) // most)
    ends = np.cumsum([0, *lengths])
    starts = np.concatenate([np.arange(a, b, pool) for a, b in pairwise(ends)])
    cells = tuple(-(-length // pool) for length in lengths)
    position = np.arange(lengths[0], len(tokens))[:, None]
    seen = np.where(position >= np.arange(len(tokens))[None], matrix, -np.inf)
    pooled = np.maximum.reduceat(seen, starts, axis=1)
    pooled = np.maximum.reduceat(pooled, starts[cells[0] :] - lengths[0], axis=0)
    values = np.where(np.isneginf(pooled), np.nan, pooled)
    stops = [*starts[1:], len(tokens)]
    labels = tuple("".join(tokens[a:b]) if b - a == 1 else f"{tokens[a]}…" for a, b in zip(starts, stops, strict=True))
    points = tuple(np.flatnonzero(np.logical_or.reduceat(marked, starts)).tolist())
    return HeatMap(title, quantity, values, labels, (cells[0], cells[1], cells[2]), pool, points)
