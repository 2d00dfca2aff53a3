"""Saliency and attention of one instance as a page holds them: pooled where long, one byte per cell."""

from __future__ import annotations

import base64
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from dpc.errors import UserError
from dpc.flow.shallow import shallow_layers
from dpc.settings import MethodSettings

Array = np.ndarray
Span = tuple[int, int]
Bins = list[Span]

GROUPS = ("prompt", "question", "rationale")
LEVELS = 255
# Values below the largest by more than this factor get one colour.
DEEPEST = 1e-8
# Per instance, both quantities and all layers, before compression.
MOST_CELLS = 1_000_000
MOST_COLUMNS = 320


@dataclass(frozen=True, slots=True, eq=False)
class Flow:
    """Saliency (Eq 1) and attention (mean over heads) of one instance, every column of the sequence ``[p | q | r]``.

    Rows are the question's, then the rationale's positions; columns are all positions. tokens: a label per column.
    spans: ``(start, stop)`` of prompt, question and rationale among the columns. layers: the model layer of each entry.
    """

    saliency: Float[Array, "layer row column"]
    attention: Float[Array, "layer row column"]
    tokens: tuple[str, ...]
    spans: tuple[Span, Span, Span]
    layers: tuple[int, ...]


def read_flow(path: Path) -> tuple[str, Flow]:
    """Id of the instance and its maps from an ``.npz`` file with the arrays of ``Flow`` and ``example_id``.

    Raises ``UserError`` where the file is missing, damaged, or its arrays do not belong together.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            (p0, p1), (q0, q1), (r0, r1) = arrays["spans"].tolist()
            flow = Flow(
                saliency=arrays["saliency"],
                attention=arrays["attention"],
                tokens=tuple(map(str, arrays["tokens"].tolist())),
                spans=((p0, p1), (q0, q1), (r0, r1)),
                layers=tuple(map(int, arrays["layers"].tolist())),
            )
            example_id = str(arrays["example_id"])
    except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: is not a readable flow map; remove it or evaluate again") from error
    columns = flow.spans[2][1]
    shape = (len(flow.layers), columns - flow.spans[1][0], columns)
    whole = flow.saliency.shape == flow.attention.shape == shape and len(flow.tokens) == columns
    if not whole or not all(np.isfinite(values).all() and (values >= 0).all() for values in _quantities(flow).values()):
        raise UserError(f"{path}: its arrays do not belong together; remove it or evaluate again")
    return example_id, flow


def flow_json(flow: Flow, settings: MethodSettings, key: int | None) -> dict[str, Any]:
    """``flow`` as the page's scripts read it.

    settings: k of Eq 7, for the columns that are marked, and which layers are shallow. key: the virtual token that the
    corruption is about, None without one.

    - ``layers``: model layer of each map. ``opens``: place of the layer that is shown first: the shallow layer in which
      the key token gathers most, else the last shallow layer.
    - ``pool``: positions along each side of a cell; its value is their largest. ``bins``: ``[start, stop]`` of each
      column among the positions; ``groups``: ``[name, first bin, end]``, twice for questions and rationales, which are
      rows as well: row i is bin i + ``groups[1][1]``.
    - ``tokens``: label of every position. ``curves``: per quantity, mean over question rows and over rationale rows of
      the prompt's columns, a value per layer (Eqs 2 to 5), from the values before pooling.
    - ``gathering``: per quantity and layer, virtual tokens whose mean over all rows exceeds k times the mean of all.
    - ``maps``: per quantity ``low``, ``high`` and ``error`` (largest relative error of a value between the two), and
      ``data``: bytes ``[layer, row, column]``, deflated, in base64. 0 is zero, code c is
      ``low * (high / low) ** ((c - 1) / 254)``, and what lies under ``low`` has code 1.
    """
    pool, k = _pool(flow), settings.accumulation_k
    columns, groups = _bins(flow.spans, pool)
    rows = [(start - flow.spans[1][0], stop - flow.spans[1][0]) for start, stop in columns[groups[1][1] :]]
    quantities = _quantities(flow)
    return {
        "layers": list(flow.layers),
        "opens": _opening_layer(flow, settings, key),
        "pool": pool,
        "bins": columns,
        "groups": groups,
        "tokens": list(flow.tokens),
        "curves": {name: _curves(values, flow.spans) for name, values in quantities.items()},
        "gathering": {name: _gathering(values, flow.spans[0], k) for name, values in quantities.items()},
        "maps": {name: _quantized(_pooled(values, rows, columns)) for name, values in quantities.items()},
    }


def quantize(values: Float[Array, "..."]) -> tuple[UInt8[Array, "..."], float, float]:
    """Codes of non-negative ``values`` on a logarithmic scale, and the values ``low`` and ``high`` at its two ends."""
    positive = values[values > 0]
    if not positive.size:
        return np.zeros(values.shape, np.uint8), 1.0, 1.0
    high = float(positive.max())
    low = max(float(positive.min()), high * DEEPEST)
    codes = np.zeros(values.shape, np.uint8)
    shares = np.log(np.maximum(positive.astype(np.float64), low) / low) / np.log(high / low) if high > low else 1.0
    codes[values > 0] = 1 + np.rint((LEVELS - 1) * np.asarray(shares))
    return codes, low, high


def _quantities(flow: Flow) -> dict[str, Array]:
    return {"saliency": flow.saliency, "attention": flow.attention}


def _pool(flow: Flow) -> int:
    """The fewest positions per side with which the maps stay small."""
    pool = 1
    while True:
        bins, groups = _bins(flow.spans, pool)
        cells = 2 * len(flow.layers) * (len(bins) - groups[1][1]) * len(bins)
        if (cells <= MOST_CELLS and len(bins) <= MOST_COLUMNS) or pool >= len(flow.tokens):
            return pool
        pool += 1


def _bins(spans: tuple[Span, Span, Span], pool: int) -> tuple[Bins, list[tuple[str, int, int]]]:
    """Neighbouring positions that share a column; a column never crosses from one group to the next."""
    bins: Bins = []
    groups = []
    for name, (start, stop) in zip(GROUPS, spans, strict=True):
        first = len(bins)
        bins += [(at, min(at + pool, stop)) for at in range(start, stop, pool)]
        groups.append((name, first, len(bins)))
    return bins, groups


def _pooled(
    values: Float[Array, "layer row column"], rows: Bins, columns: Bins
) -> Float[Array, "layer row_bin column_bin"]:
    """The largest value of each cell."""
    if not rows or not columns:
        return values[:, : len(rows), : len(columns)]
    by_row = np.maximum.reduceat(values, [start for start, _ in rows], axis=1)
    pooled: Array = np.maximum.reduceat(by_row, [start for start, _ in columns], axis=2)
    return pooled


def _quantized(values: Float[Array, "layer row column"]) -> dict[str, Any]:
    codes, low, high = quantize(values)
    return {
        "low": low,
        "high": high,
        "error": (high / low) ** (0.5 / (LEVELS - 1)) - 1,
        "data": base64.b64encode(zlib.compress(codes.tobytes(), 9)).decode(),
    }


def _curves(values: Float[Array, "layer row column"], spans: tuple[Span, Span, Span]) -> dict[str, list[float]]:
    prompt, first = slice(*spans[0]), spans[1][0]
    means = {}
    for name, (start, stop) in zip(GROUPS[1:], spans[1:], strict=True):
        block = values[:, start - first : stop - first, prompt].astype(np.float64)
        means[name] = [significant(v) for v in block.mean(axis=(1, 2))] if block[0].size else []
    return means


def _opening_layer(flow: Flow, settings: MethodSettings, key: int | None) -> int:
    """Place of the layer among ``flow.layers`` on which the maps open."""
    if not flow.layers:
        return 0
    shallow = shallow_layers(flow.layers, settings.shallow_start, settings.shallow_stop)
    places = [place for place, layer in enumerate(flow.layers) if layer in shallow]
    if not places:
        return 0
    if key is None or not flow.saliency.shape[1]:
        return places[-1]
    # Eq 6 averages over the shallow layers: this one contributes most to the key token's S_acc.
    return max(places, key=lambda place: float(flow.saliency[place, :, flow.spans[0][0] + key].mean()))


def _gathering(values: Float[Array, "layer row column"], prompt: Span, k: float) -> list[list[int]]:
    columns = values[:, :, slice(*prompt)].astype(np.float64).mean(axis=1)
    return [np.flatnonzero(layer > k * layer.mean()).tolist() for layer in columns]


def significant(value: float, digits: int = 4) -> float:
    """``value`` rounded to ``digits`` significant digits."""
    return float(f"{value:.{digits}g}")
