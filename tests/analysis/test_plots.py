"""The paper's figures as drawings: they show the given values, with any token, and can be read without colour."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpc.analysis.charts import (
    Chart,
    CoOccurrence,
    Curve,
    Distributions,
    HeatMap,
    HeatMaps,
    LayerCurves,
    Mean,
    Means,
    Share,
    pooled_map,
)
from dpc.analysis.heat_plots import LONGEST_LABEL, safe_label
from dpc.analysis.plots import LINES, draw, in_style, save_figure

HOSTILE = (
    *("$x$", "$", "\\frac", "\x00", "\n", "\u202e", "שלום", "م", "東京", "🙂", "e\u0301", "\u0301", "<b>&"),
    *("\ud800", "\ufffe", "a" * 40, " Tom", " ", ""),
)


def curves() -> LayerCurves:
    made = []
    for flow, scale in (("question", 1e-5), ("rationale", 2.0)):
        for group, factor in (("all", 1.0), ("right", 0.5), ("wrong", 3.0)):
            mean = np.array([1.0, 4.0, 2.0, 0.5]) * scale * factor
            made.append(Curve(flow, group, 7, mean, 0.8 * mean, 1.3 * mean))
    return LayerCurves(tuple(made), (0, 1), (0, 1, 2, 3))


def heat(tokens: tuple[str, ...] = HOSTILE, prompt: int = 3, question: int = 6, most: int = 160) -> HeatMap:
    rows = len(tokens) - prompt
    values = np.random.default_rng(0).random((rows, len(tokens)))
    marked = np.arange(len(tokens)) == 1
    return pooled_map("wrong: saliency", "saliency", values, tokens, (prompt, question, rows - question), marked, most)


def shares() -> CoOccurrence:
    pair = (Share("R > tau", True, 10, 7, 0.7, 0.4, 0.9), Share("R > tau", False, 0, 0, None, 0.0, 1.0))
    return CoOccurrence(pair, {"R > tau": 0.03})


def groups() -> Distributions:
    return Distributions({"right": (1e-9, 0.0, 1e-7), "wrong": (1e-6, 2e-8)}, {"right": ("a", "b", "c"), "wrong": "de"})


def means() -> Means:
    return Means((Mean("right", 3, 1e-7, 5e-8, 3e-7), Mean("wrong", 2, 4e-7, 1e-7, 5e-7)))


CHARTS: dict[str, Chart] = {
    "curves": curves(),
    "maps": HeatMaps((heat(), heat()), 2),
    "shares": shares(),
    "groups": groups(),
    "means": means(),
}


def drawn(chart: Chart) -> Figure:
    with in_style():
        return draw(chart)


def texts(path: Path) -> list[str]:
    return [element.text or "" for element in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("name", CHARTS)
def test_the_same_values_make_the_same_bytes_whatever_the_users_own_style(name: str, tmp_path: Path) -> None:
    first = [path.read_bytes() for path in save_figure(CHARTS[name], tmp_path / "a")]
    with mpl.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.grid": True, "text.usetex": False}):
        second = [path.read_bytes() for path in save_figure(CHARTS[name], tmp_path / "b")]
    assert first == second
    assert b"<dc:date>" not in first[0]
    assert b"CreationDate" not in first[1]
    assert len(first[0]) < 300_000


def test_curves_bands_and_legends_are_the_data() -> None:
    chart = curves()
    axes = drawn(chart).axes
    lines = [line for axis in axes for line in axis.lines]
    found = sorted(tuple(np.asarray(line.get_ydata())) for line in lines)
    assert found == sorted(tuple(curve.mean) for curve in chart.curves)
    table = chart.columns()
    assert table["mean"] == [value for curve in chart.curves for value in curve.mean]
    for axis in axes:
        assert all(line.get_ydata().max() < axis.get_ylim()[1] for line in axis.lines)


def test_bars_of_shares_and_means_are_the_data() -> None:
    [axis] = drawn(shares()).axes
    assert [patch.get_height() for patch in axis.patches] == [0.7, 0.0]
    assert {text.get_text() for text in axis.texts} == {"7 of 10", "0 of 0"}
    assert "p = 0.030" in axis.get_title(loc="left")
    [axis] = drawn(CoOccurrence(shares().shares, {"R > tau": None})).axes
    assert axis.get_title(loc="left") == "R > tau\nno test"
    [axis] = drawn(means()).axes
    assert [patch.get_height() for patch in axis.patches] == means().columns()["mean"]
    assert [tuple(line.get_segments()[0][:, 1]) for line in axis.collections] == [(5e-8, 3e-7), (1e-7, 5e-7)]


def test_every_instance_is_a_mark_and_zero_stands_with_the_smallest() -> None:
    _, below = drawn(groups()).axes
    marks = [sorted(np.asarray(line.get_xdata()).tolist()) for line in below.lines]
    assert marks == [[1e-9, 1e-9, 1e-7], [2e-8, 1e-6]]
    assert groups().columns()["late_flow"] == [1e-9, 0.0, 1e-7, 1e-6, 2e-8]


def test_the_cells_of_a_map_are_the_data() -> None:
    shown = heat()
    [image] = drawn(HeatMaps((shown,), 1)).axes[0].images
    drawn_values = np.ma.getdata(image.get_array())
    assert (np.ma.getmaskarray(image.get_array()) == np.isnan(shown.values)).all()
    table = HeatMaps((shown,), 1).columns()
    assert drawn_values[table["row"], table["column"]] == pytest.approx(np.array(table["value"]))
    assert len(table["value"]) == int((~np.isnan(shown.values)).sum())
    assert {row for row, mark in zip(table["column"], table["marked"], strict=True) if mark} == {1}


def test_no_token_breaks_a_figure_and_dollars_stay_dollars(tmp_path: Path) -> None:
    svg, _ = save_figure(HeatMaps((heat(),), 1), tmp_path / "maps")
    found = texts(svg)
    for label in ("$x$", "$", "\\frac", "\\x00", "↵", "\\u202e", "\\u6771\\u4eac", "<b>&", "\\ud800", "␣", "Tom"):
        assert label in found
    everything = "".join(found)
    assert not re.search("[\u0590-\u08ff\u202a-\u202e\u4e00-\u9fff]", everything)


@settings(max_examples=200, deadline=None)
@given(token=st.text(max_size=20))
def test_a_label_is_short_and_of_characters_that_the_font_has(token: str) -> None:
    label = safe_label(token)
    assert len(label) <= LONGEST_LABEL + 1
    assert all(character.isprintable() for character in label)
    assert safe_label("plain") == "plain"


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(1, 9)),
    most=st.integers(3, 30),
    seed=st.integers(0, 99),
)
def test_a_pooled_cell_is_the_largest_value_that_its_rows_can_read(
    lengths: tuple[int, int, int], most: int, seed: int
) -> None:
    total, rows = sum(lengths), lengths[1] + lengths[2]
    matrix = np.random.default_rng(seed).random((rows, total))
    marked = np.arange(total) == total - 1
    found = pooled_map("t", "saliency", matrix, tuple(map(str, range(total))), lengths, marked, most)
    ends = np.cumsum([0, *lengths])
    bins = [
        range(at, min(at + found.pool, stop)) for start, stop in pairwise(ends) for at in range(start, stop, found.pool)
    ]
    assert found.values.shape == (sum(found.lengths[1:]), len(bins)) == (len(found.row_labels), len(found.labels))
    for row, positions in enumerate(bins[found.lengths[0] :]):
        for column, read in enumerate(bins):
            seen = [matrix[i - lengths[0], j] for i in positions for j in read if j <= i]
            value = found.values[row, column]
            assert np.isnan(value) if not seen else value == max(seen)
    assert found.marks == (len(bins) - 1,)
    assert found.pool == 1 or total > most


def test_a_pooled_map_says_so() -> None:
    tokens = tuple(map(str, range(90)))
    shown = heat(tokens, 10, 40, most=30)
    words = [text.get_text() for text in drawn(HeatMaps((shown,), 1)).axes[0].texts]
    assert shown.pool == 3
    assert "wrong: saliency; a cell is the largest of 3 × 3 tokens" in words
    assert "0…" in words
    whole = [text.get_text() for text in drawn(HeatMaps((heat(tokens, 10, 40),), 1)).axes[0].texts]
    assert "wrong: saliency" in whole


def test_a_map_of_nothing_is_drawn() -> None:
    empty = pooled_map("t", "saliency", np.zeros((3, 5)), tuple("abcde"), (2, 1, 2), np.zeros(5, bool), 160)
    drawn(HeatMaps((empty,), 1)).canvas.draw()


def lightness(axis: Axes) -> list[float]:
    colors = axis.images[0].get_cmap()(np.linspace(0, 1, 64))[:, :3]
    return (colors @ [0.2126, 0.7152, 0.0722]).tolist()


def test_figures_are_read_without_colour() -> None:
    looks = [(look["linestyle"], look["marker"]) for look in LINES.values()]
    assert len({looks[1], looks[2]}) == 2
    assert looks[1][0] != looks[2][0]
    levels = lightness(drawn(HeatMaps((heat(),), 1)).axes[0])
    steps = np.diff(levels)
    assert (steps < 0).all()
    assert steps.min() == pytest.approx(steps.max(), abs=0.03)
    hatches = [patch.get_hatch() for patch in drawn(means()).axes[0].patches]
    assert hatches[0] != hatches[1]


@pytest.mark.parametrize(
    ("module", "kept_out"), [("dpc.analysis.plots", "torch"), ("dpc.report", "matplotlib"), ("dpc.cli", "matplotlib")]
)
def test_drawing_loads_no_torch_and_nothing_else_loads_matplotlib(module: str, kept_out: str) -> None:
    program = f"import sys, {module}; print({kept_out!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
