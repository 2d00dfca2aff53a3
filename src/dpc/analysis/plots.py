"""The paper's figures with matplotlib: readable in black and white, the same bytes for the same values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from dpc.analysis.charts import Chart, CoOccurrence, Curve, Distributions, HeatMaps, LayerCurves, Means
from dpc.analysis.heat_plots import draw_heat_maps
from dpc.files import write_atomically
from dpc.report.formats import p_value, power_of_ten

INK, SOFT, PALE = "#1a1a1a", "#6b6b6b", "#e4e4e4"
# Distinguished by line, marker and filling, not by colour alone.
LINES: dict[str, dict[str, Any]] = {
    "all": {"color": INK, "linestyle": "-", "marker": "o", "markerfacecolor": INK},
    "right": {"color": SOFT, "linestyle": "--", "marker": "o", "markerfacecolor": "white"},
    "wrong": {"color": INK, "linestyle": "-", "marker": "^", "markerfacecolor": INK},
}
FILLINGS: dict[bool, dict[str, Any]] = {
    False: {"color": PALE, "edgecolor": INK},
    True: {"color": "white", "edgecolor": INK, "hatch": "////"},
}
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "sans-serif"],
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": True,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "text.color": INK,
    "axes.labelcolor": INK,
    # Tokens hold dollars.
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "dpc",
    "pdf.fonttype": 42,
    "figure.dpi": 100,
    "savefig.facecolor": "white",
}


@contextmanager
def in_style() -> Iterator[None]:
    """A context manager with matplotlib's defaults and the style of these figures, whatever the user's settings are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def save_figure(chart: Chart, stem: Path) -> list[Path]:
    """Write ``stem.svg`` and ``stem.pdf``. Raises ``UserError`` where they can't be written."""
    written = []
    with in_style():
        figure = draw(chart)
        for suffix, undated in (("svg", {"Date": None}), ("pdf", {"CreationDate": None})):
            content = BytesIO()
            figure.savefig(content, format=suffix, metadata=undated)
            written.append(stem.with_name(f"{stem.name}.{suffix}"))
            write_atomically(written[-1], content.getvalue())
    return written


def draw(chart: Chart) -> Figure:
    """The figure of a chart; call it ``in_style``."""
    if isinstance(chart, LayerCurves):
        return _layer_curves(chart)
    if isinstance(chart, HeatMaps):
        return draw_heat_maps(chart)
    if isinstance(chart, CoOccurrence):
        return _co_occurrence(chart)
    if isinstance(chart, Distributions):
        return _distributions(chart)
    return _means(chart)


def _layer_curves(chart: LayerCurves) -> Figure:
    figure = Figure(figsize=(6.8, 4.6), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    tops = {
        flow: max((float(c.high.max()) for c in chart.curves if c.flow == flow), default=0.0) or 1.0
        for flow in ("question", "rationale")
    }
    for row, groups in enumerate((("all",), ("right", "wrong"))):
        for column, flow in enumerate(("question", "rationale")):
            shown = [c for c in chart.curves if c.flow == flow and c.group in groups]
            _curves(axes[row][column], shown, chart)
            axes[row][column].set_ylim(0, 1.05 * tops[flow])
            _plain_numbers(axes[row][column])
            if row == 0:
                axes[row][column].set_title(f"prompt to {flow}, S_p{flow[0]}", loc="center")
    for axis in axes[1]:
        axis.set_xlabel("layer, counted from 0")
    for axis in axes[:, 0]:
        axis.set_ylabel("mean saliency")
    return figure


def _curves(axis: Axes, curves: Sequence[Curve], chart: LayerCurves) -> None:
    shallow, layers = chart.shallow, chart.layers
    axis.axvspan(shallow[0] - 0.5, shallow[-1] + 0.5, color=PALE, alpha=0.6, linewidth=0, zorder=0)
    for curve in curves:
        look = LINES[curve.group]
        axis.fill_between(layers, curve.low, curve.high, color=look["color"], alpha=0.18, linewidth=0)
        axis.plot(layers, curve.mean, label=f"{curve.group}, n = {curve.instances}", **look)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlim(-0.5, layers[-1] + 0.5)
    if curves:
        axis.legend(loc="upper right")


def _co_occurrence(chart: CoOccurrence) -> Figure:
    figure = Figure(figsize=(6.8, 2.9), layout="constrained")
    axes = figure.subplots(1, len(chart.p), sharey=True, squeeze=False)[0]
    for axis, (definition, p) in zip(axes, chart.p.items(), strict=True):
        pair = [share for share in chart.shares if share.definition == definition]
        for place, share in enumerate(pair):
            height = share.share or 0.0
            axis.bar(place, height, width=0.6, linewidth=0.8, **FILLINGS[share.accumulated])
            if share.instances:
                axis.vlines(place, share.low, share.high, color=INK, linewidth=1.2)
            above = share.high if share.instances else 0.0
            axis.text(place, above + 0.03, f"{share.changed} of {share.instances}", ha="center")
        axis.set_title(f"{definition}\n{'no test' if p is None else p_value(p)}")
        axis.set_xticks([0, 1], ["accumulation", "none"])
        axis.set_xlim(-0.6, 1.6)
        axis.set_ylim(0, 1.1)
    axes[0].set_ylabel("share with changed late flow")
    axes[0].set_yticks(np.linspace(0, 1, 6))
    return figure


def _distributions(chart: Distributions) -> Figure:
    figure = Figure(figsize=(6.8, 3.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1.7, 1))
    values = {name: np.array(group) for name, group in chart.groups.items()}
    floor = min((group[group > 0].min() for group in values.values() if (group > 0).any()), default=1.0)
    for place, (name, group) in enumerate(values.items()):
        # Zero has no logarithm and is drawn at the smallest positive value.
        ordered = np.sort(np.maximum(group, floor))
        look, share = LINES[name], np.arange(1, len(ordered) + 1) / len(ordered)
        label = f"{name}, n = {len(ordered)}"
        above.step(ordered, share, where="post", label=label, color=look["color"], linestyle=look["linestyle"])
        spread = np.resize([-0.2, 0.1, -0.1, 0.2, 0.0], len(ordered))
        marks = {k: v for k, v in look.items() if k != "linestyle"}
        below.plot(ordered, place + spread, linestyle="", markeredgewidth=0.7, **(marks | {"markersize": 3.2}))
        below.vlines(np.median(ordered), place - 0.38, place + 0.38, color=INK, linewidth=1.6)
    above.set_xscale("log")
    above.set_ylabel("share of instances\nup to S_late")
    above.set_ylim(0, 1.02)
    above.legend(loc="upper left")
    below.set_yticks(range(len(values)), list(values))
    below.set_ylim(-0.6, len(values) - 0.4)
    below.invert_yaxis()
    below.set_xlabel("S_late, mean saliency of the prompt in the late rationale, last layer; bar: median")
    below.xaxis.set_major_formatter(FuncFormatter(_power))
    below.xaxis.minorticks_off()
    return figure


def _means(chart: Means) -> Figure:
    figure = Figure(figsize=(3.4, 2.9), layout="constrained")
    axis = figure.subplots()
    for place, mean in enumerate(chart.means):
        axis.bar(place, mean.mean, width=0.55, linewidth=0.8, **FILLINGS[mean.group == "wrong"])
        axis.vlines(place, mean.low, mean.high, color=INK, linewidth=1.4)
    axis.set_xticks(range(len(chart.means)), [f"{mean.group}\nn = {mean.instances}" for mean in chart.means])
    axis.set_xlim(-0.6, len(chart.means) - 0.4)
    axis.set_ylim(bottom=0)
    axis.set_ylabel("mean S_late")
    _plain_numbers(axis)
    return figure


def _plain_numbers(axis: Axes) -> None:
    """Write the power of ten of an axis as text; without math text matplotlib would print its markup."""
    largest = max(abs(limit) for limit in axis.get_ylim())
    exponent = int(np.floor(np.log10(largest / 2))) if largest > 0 else 0
    if -3 <= exponent <= 3:
        return
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 10.0**exponent:g}"))
    axis.annotate(
        f"× {power_of_ten(exponent)}",
        (0, 1),
        (-2, 3),
        "axes fraction",
        textcoords="offset points",
        ha="right",
        fontsize=7.5,
    )


def _power(value: float, _: Any = None) -> str:
    """A power of ten as text."""
    exponent = float(np.log10(value)) if value > 0 else 0.0
    return power_of_ten(round(exponent)) if abs(exponent - round(exponent)) < 1e-6 else ""
