"""Heat maps with tokens on their axes; every token has a label that the font can draw."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import FuncFormatter

from dpc.analysis.charts import GROUPS, HeatMap, HeatMaps
from dpc.report.formats import power_of_ten

# Values further below the largest have one colour.
DECADES = 5
LONGEST_LABEL = 12
# Inches per cell, and of the margins.
_CELL, _SMALLEST, _LEFT, _RIGHT, _TOP, _BOTTOM = 0.062, 2.6, 0.6, 0.8, 0.85, 0.6
_LABEL_SIZE = 4.0
_IN_POINTS: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
_INK, _LINE = "#1a1a1a", "#2a78b8"
# White: columns that come after their row. Even steps of lightness; 64 of them keep the files small.
_COLORS = LinearSegmentedColormap.from_list("greys", ["#efefef", "#000000"], N=64).with_extremes(bad="white")
_SPACES = {"\n": "↵", "\t": "⇥", "\r": "␍", " ": "␣"}


def draw_heat_maps(chart: HeatMaps) -> Figure:
    """All maps, each with its own colour scale and as large as its tokens need. Rows have labels on the left alone."""
    down = -(-len(chart.maps) // chart.across)
    inner_width = max(_SMALLEST, _CELL * max(heat.values.shape[1] for heat in chart.maps))
    inner_height = max(_SMALLEST / 2, _CELL * max(heat.values.shape[0] for heat in chart.maps))
    width, height = inner_width + _LEFT + _RIGHT, inner_height + _TOP + _BOTTOM
    figure = Figure(figsize=(width * chart.across, height * down))
    for place, heat in enumerate(chart.maps):
        row, column = divmod(place, chart.across)
        left, bottom = column * width + _LEFT, (down - 1 - row) * height + _BOTTOM
        across, up = chart.across * width, down * height
        axis = figure.add_axes((left / across, bottom / up, inner_width / across, inner_height / up))
        _draw(figure, axis, heat, 1 + 0.7 * (chart.across - 1), name_rows=column == 0)
    return figure


def _draw(figure: Figure, axis: Axes, heat: HeatMap, scale: float, name_rows: bool) -> None:
    """scale: of titles and marks; a figure with more maps is displayed smaller."""
    top = float(np.nanmax(heat.values))
    top = top if top > 0 else 1.0
    floor = top * 10.0**-DECADES
    rows, columns = heat.values.shape
    # Zero has no logarithm; NaN is masked.
    shown = np.ma.masked_invalid(np.maximum(heat.values, floor))
    image = axis.imshow(shown, cmap=_COLORS, norm=LogNorm(floor, top), interpolation="none", aspect="auto")
    axis.set_xlim(-0.5, columns - 0.5)
    axis.set_ylim(rows - 0.5, -0.5)
    axis.set_axis_off()
    _name(axis, heat, name_rows)
    _separate(axis, heat, scale)
    axis.plot(heat.marks, [-1.6] * len(heat.marks), "v", color=_INK, markersize=3 * scale, clip_on=False)
    pooled = f"; a cell is the largest of {heat.pool} × {heat.pool} tokens" if heat.pool > 1 else ""
    axis.annotate(f"{heat.title}{pooled}", (0, 1), (0, 15 + 14 * scale), **_IN_POINTS, fontsize=10 * scale)
    bar = figure.colorbar(image, cax=axis.inset_axes((1.012, 0, 0.012, 1)), extend="min")
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(round(np.log10(value)))))
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=6.5 * scale, length=2)


def _name(axis: Axes, heat: HeatMap, rows: bool) -> None:
    """Tokens below the columns and beside the rows; as texts, because drawing so many ticks takes seconds."""
    below = heat.values.shape[0] - 0.2
    for place, token in enumerate(heat.labels):
        axis.text(place, below, safe_label(token), rotation=90, ha="center", va="top", fontsize=_LABEL_SIZE)
    for place, token in enumerate(heat.row_labels if rows else ()):
        axis.text(-0.8, place, safe_label(token), ha="right", va="center", fontsize=_LABEL_SIZE)


def _separate(axis: Axes, heat: HeatMap, scale: float) -> None:
    """Lines between prompt, question and rationale, and their names."""
    ends = np.cumsum([0, *heat.lengths])
    rows, first = len(heat.values), heat.lengths[0]
    for name, (start, stop) in zip(GROUPS, pairwise(ends), strict=True):
        if start == stop:
            continue
        place = (start + stop) / 2 / heat.values.shape[1]
        axis.annotate(name, (place, 1), (0, 10), **_IN_POINTS, fontsize=7.5 * scale, ha="center")
        if start > 0:
            axis.plot([start - 0.5] * 2, [start - first - 0.5, rows - 0.5], color=_LINE, linewidth=0.8)
        if start > first:
            axis.plot([-0.5, start - 0.5], [start - first - 0.5] * 2, color=_LINE, linewidth=0.8)


@cache
def _drawable() -> frozenset[int]:
    """Characters that the figure's font has."""
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def safe_label(token: str) -> str:
    """A token as a label: without outer spaces, cut where long, with escapes for characters that can't be shown.

    These are characters that the font lacks, control and formatting characters, combining marks without a letter before
    them, and letters written from right to left, which would reorder the text around them.
    """
    text = token.strip(" ") or token[:1]
    shown = [_shown(character, first=index == 0) for index, character in enumerate(text)]
    return _cut(shown)


def _cut(parts: Sequence[str]) -> str:
    kept: list[str] = []
    length = 0
    for part in parts:
        if length + len(part) > LONGEST_LABEL:
            return "".join(kept) + "…"
        kept.append(part)
        length += len(part)
    return "".join(kept)


def _shown(character: str, first: bool) -> str:
    if character in _SPACES:
        return _SPACES[character] if first or character != " " else character
    code, category = ord(character), unicodedata.category(character)
    turns = unicodedata.bidirectional(character) in ("R", "AL", "AN")
    if category[0] in "CZ" or (category[0] == "M" and first) or turns or code not in _drawable():
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    return character
