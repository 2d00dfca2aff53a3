"""Small charts as inline SVG. Colours and type sizes are those of the page's style sheet."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

Number = int | float
Tick = tuple[Number, str]
Point = tuple[Number, Number | None]

WIDTH, HEIGHT = 440, 250
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 44, 46
LINE = 30
CHARACTER = 9
# The second series of a chart differs in dash and shape too, so that it can be read without colour.
KINDS = ("first", "other")


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear map from values ``[low, high]`` to pixels ``[start, stop]``; values outside are clipped."""

    low: Number
    high: Number
    start: Number
    stop: Number

    def __call__(self, value: Number) -> Number:
        """Pixel of ``value``, to a tenth."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.stop - self.start), 1)


@dataclass(frozen=True, slots=True)
class Mark:
    """A marked value of the x axis, with its label."""

    at: Number
    words: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval; ``value`` is written at the right as ``words``."""

    name: str
    value: Number
    interval: tuple[Number, Number]
    words: str


def line_chart(
    series: Sequence[Sequence[Point]],
    *,
    alt: str,
    labels: tuple[str, str],
    x_ticks: Sequence[Tick],
    y_range: tuple[Number, Number],
    mark: Mark | None = None,
) -> str:
    """One or two lines through ``(x, y)``, broken where y is None. labels: of the x and the y axis."""
    left, right = min(x for x, _ in x_ticks), max(x for x, _ in x_ticks)
    x = Scale(left, right, LEFT, WIDTH - RIGHT)
    y = Scale(*y_range, HEIGHT - BOTTOM, TOP)
    svg = _canvas(WIDTH, HEIGHT, alt)
    _y_axis(svg, y, labels[1], WIDTH)
    _x_axis(svg, [(x(at), words) for at, words in x_ticks], labels[0])
    if mark:
        _point_out(svg, x(mark.at), mark.words)
    for kind, points in zip(KINDS, series, strict=False):
        for known, run in groupby(points, lambda point: point[1] is not None):
            if known:
                places = " ".join(f"{x(at)},{y(value)}" for at, value in run if value is not None)
                _add(svg, "polyline", f"line {kind}", points=places)
        for at, value in points:
            if value is not None and mark is not None and at == mark.at:
                _add(svg, "circle", "dot chosen", cx=x(at), cy=y(value), r=4.5).set("data-value", repr(value))
    return ET.tostring(svg, encoding="unicode")


def interval_chart(estimates: Sequence[Estimate], *, alt: str, label: str, zero: bool = False) -> str:
    """A line per estimate: its interval, its value as a dot, and its label. zero: draw the line of no difference."""
    bounds = [bound for each in estimates for bound in each.interval] + ([0.0] if zero else [])
    low, high = min(bounds), max(bounds)
    pad = max((high - low) * 0.06, 1e-9)
    names = max(CHARACTER * len(each.name) for each in estimates)
    words = 24 + CHARACTER * max(len(each.words) for each in estimates)
    right = round(names + 300)
    x = Scale(low - pad, high + pad, round(names + 12), right)
    top = 8
    bottom = top + LINE * len(estimates)
    svg = _canvas(round(right + words), bottom + BOTTOM, alt)
    for value in ticks(low - pad, high + pad):
        _add(svg, "line", "grid", x1=x(value), x2=x(value), y1=top, y2=bottom)
        _text(svg, x(value), bottom + 18, _plain(value), "middle")
    _text(svg, (x.start + x.stop) / 2, bottom + 38, label, "label middle")
    if zero:
        _add(svg, "line", "zero", x1=x(0), x2=x(0), y1=top, y2=bottom)
    for index, each in enumerate(estimates):
        at = top + LINE * (index + 0.5)
        _text(svg, names, at + 4, each.name, "name end")
        _add(svg, "line", "interval", x1=x(each.interval[0]), x2=x(each.interval[1]), y1=at, y2=at)
        _add(svg, "circle", "dot", cx=x(each.value), cy=at, r=5).set("data-value", repr(each.value))
        _text(svg, right + 10, at + 4, each.words, "name")
    return ET.tostring(svg, encoding="unicode")


def mirrored_histogram(
    above: Sequence[int], below: Sequence[int], names: tuple[str, str], *, alt: str, label: str, mark: Mark
) -> str:
    """Counts in equal bins of [0, 1], of one kind upwards and of the other downwards, as shares of their kind."""
    svg = _canvas(WIDTH, HEIGHT, alt)
    shares = [[100 * count / max(sum(counts), 1) for count in counts] for counts in (above, below)]
    top = max(*shares[0], *shares[1], 1.0)
    y = Scale(-top * 1.02, top * 1.02, HEIGHT - BOTTOM, TOP)
    x = Scale(0, 1, LEFT, WIDTH - RIGHT)
    for value in ticks(-top, top, 4):
        _add(svg, "line", "grid", x1=LEFT, x2=WIDTH - RIGHT, y1=y(value), y2=y(value))
        _text(svg, LEFT - 8, y(value) + 4, _plain(abs(value)), "end")
    _text(svg, 0, 14, label, "label")
    for side, counts in enumerate((above, below)):
        for index, count in enumerate(counts):
            left, right = x(index / len(counts)), x((index + 1) / len(counts))
            start, stop = sorted((y(0), y(shares[side][index] * (-1 if side else 1))))
            size = {"width": round(right - left - 2, 1), "height": round(stop - start, 1)}
            bar = _add(svg, "rect", f"bar {KINDS[side]}", x=round(left + 1, 1), y=start, **size)
            bar.set("data-count", str(count))
            between = f"R {index / len(counts):.2f} to {(index + 1) / len(counts):.2f}"
            bar.append(_titled(f"{count} {names[side]}, {between}"))
    _x_axis(svg, [(x(at / 4), f"{at / 4:g}") for at in range(5)], "R, share of late tokens above β")
    _point_out(svg, x(mark.at), mark.words)
    return ET.tostring(svg, encoding="unicode")


def ticks(low: Number, high: Number, most: int = 5) -> list[float]:
    """Round values in ``[low, high]``, evenly spaced, about ``most`` of them. Expects values around 1."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _plain(value: Number) -> str:
    return f"{value:.6g}".replace("-", "−")


def _canvas(width: Number, height: Number, alt: str) -> ET.Element:
    box = {"viewBox": f"0 0 {width} {height}", "width": str(width), "height": str(height)}
    return ET.Element("svg", {**box, "role": "img", "aria-label": alt})


def _add(parent: ET.Element, tag: str, kind: str, **attributes: object) -> ET.Element:
    return ET.SubElement(parent, tag, {"class": kind} | {name: str(value) for name, value in attributes.items()})


def _text(parent: ET.Element, x: Number, y: Number, words: str, kind: str = "") -> None:
    _add(parent, "text", kind, x=round(x, 1), y=round(y, 1)).text = words


def _titled(words: str) -> ET.Element:
    title = ET.Element("title")
    title.text = words
    return title


def _y_axis(svg: ET.Element, y: Scale, label: str, width: Number) -> None:
    for value in ticks(y.low, y.high, 4):
        _add(svg, "line", "grid", x1=LEFT, x2=width - RIGHT, y1=y(value), y2=y(value))
        _text(svg, LEFT - 8, y(value) + 4, _plain(value), "end")
    _text(svg, 0, 14, label, "label")


def _x_axis(svg: ET.Element, places: Sequence[Tick], label: str) -> None:
    bottom = HEIGHT - BOTTOM
    _add(svg, "line", "axis", x1=LEFT, x2=WIDTH - RIGHT, y1=bottom, y2=bottom)
    for at, words in places:
        _add(svg, "line", "axis", x1=at, x2=at, y1=bottom, y2=bottom + 4)
        _text(svg, at, bottom + 18, words, "middle")
    _text(svg, (LEFT + WIDTH - RIGHT) / 2, bottom + 38, label, "label middle")


def _point_out(svg: ET.Element, at: Number, words: str) -> None:
    _add(svg, "line", "threshold", x1=at, x2=at, y1=TOP - 14, y2=HEIGHT - BOTTOM)
    early = at < WIDTH / 2
    _text(svg, at + (6 if early else -6), TOP - 6, words, "strong" if early else "strong end")
