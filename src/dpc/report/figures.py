"""Small charts as inline SVG: numbers in, text out. Colours and type sizes are the page's; see its style sheet."""

from __future__ import annotations

import math
import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass

from dpc.report.formats import number, power_of_ten

Number = int | float
Tick = tuple[Number, str]

WIDTH, HEIGHT = 440, 250
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 44, 46
TOKEN_WIDTHS = (16, 32)
TOKEN_SPACE = 880
TALLEST = 6
LONGEST_LABEL = 11
CHARACTER = 7.5


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear map from values ``[low, high]`` to pixels ``[start, stop]``; values outside stay at the edge."""

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
    """A value of the x axis that is pointed out, with its words."""

    at: Number
    words: str


def line_chart(
    points: Sequence[tuple[Number, Number]],
    *,
    alt: str,
    labels: tuple[str, str],
    x_ticks: Sequence[Tick],
    y_range: tuple[Number, Number] | None = None,
    mark: Mark | None = None,
) -> str:
    """A line through ``points``. labels: of the x and the y axis. y_range: by default from zero to the largest y."""
    values = [y for _, y in points]
    factor, unit = _unit(values) if y_range is None else (1.0, "")
    low, high = y_range or _from_zero([y / factor for y in values])
    left, right = min(x for x, _ in x_ticks), max(x for x, _ in x_ticks)
    x = Scale(left, right if right > left else left + 1, LEFT, WIDTH - RIGHT)
    y = Scale(low, high, HEIGHT - BOTTOM, TOP)
    svg = _canvas(WIDTH, HEIGHT, alt)
    _y_axis(svg, y, labels[1] + unit, WIDTH)
    _x_axis(svg, [(x(at), words) for at, words in x_ticks], labels[0])
    if mark:
        _point_out(svg, x(mark.at), mark.words)
    places = [(x(px), y(py / factor)) for px, py in points]
    _add(svg, "polyline", "line", points=" ".join(f"{px},{py}" for px, py in places))
    for (px, py), (at, _) in zip(places, points, strict=True):
        chosen = mark is not None and at == mark.at
        if chosen or len(points) <= 48:
            _add(svg, "circle", "dot chosen" if chosen else "dot", cx=px, cy=py, r=5 if chosen else 2.5)
    return ET.tostring(svg, encoding="unicode")


def bar_chart(values: Sequence[Number], *, alt: str, labels: tuple[str, str], mark: Mark | None = None) -> str:
    """A bar a value, counted from 0; ``mark.at`` is the index of the bar that is pointed out."""
    factor, unit = _unit(values)
    y = Scale(*_from_zero([v / factor for v in values]), HEIGHT - BOTTOM, TOP)
    x = Scale(-0.5, max(len(values), 1) - 0.5, LEFT, WIDTH - RIGHT)
    width = (WIDTH - RIGHT - LEFT) / max(len(values), 1)
    svg = _canvas(WIDTH, HEIGHT, alt)
    _y_axis(svg, y, labels[1] + unit, WIDTH)
    _x_axis(svg, [(x(at), words) for at, words in whole_ticks(len(values))], labels[0])
    if mark:
        _point_out(svg, x(mark.at), mark.words)
    for index, value in enumerate(values):
        kind = "bar chosen" if mark and index == mark.at else "bar"
        _bar(svg, kind, x(index), width, y, value / factor)
    return ET.tostring(svg, encoding="unicode")


def influence_chart(
    tokens: Sequence[str], influence: Sequence[Number], beta: Number | None, late_start: int, *, alt: str, label: str
) -> str:
    """A bar a rationale token: early ones, then late ones above and not above ``beta``, which is drawn as a line.

    Where a bar is longer than ``TALLEST`` times beta the axis ends there, and the bar carries its value.
    """
    step = min(max(TOKEN_SPACE / max(len(tokens), 1), TOKEN_WIDTHS[0]), TOKEN_WIDTHS[1])
    width = round(LEFT + step * len(tokens) + 3 * RIGHT)
    names = [visible(token) for token in tokens]
    bottom = HEIGHT - BOTTOM
    height = round(bottom + 14 + CHARACTER * max(map(len, names), default=0))
    cut = beta is not None and leaves_axis(influence, beta)
    tallest = TALLEST * beta if beta and cut else max([*influence, beta or 0.0])
    factor, unit = _unit([tallest])
    y = Scale(0.0, tallest / factor, bottom, TOP) if cut else Scale(*_from_zero([tallest / factor]), bottom, TOP)
    x = Scale(-0.5, max(len(tokens), 1) - 0.5, LEFT, LEFT + step * max(len(tokens), 1))
    svg = _canvas(width, height, alt)
    svg.set("style", f"width:{width}px")
    _y_axis(svg, y, label + unit, width)
    for index, (token, value) in enumerate(zip(tokens, influence, strict=True)):
        above = beta is not None and value > beta
        kind = "bar early" if index < late_start else "bar chosen" if above else "bar"
        _bar(svg, kind, x(index), step, y, value / factor).append(_titled(f"{token} {number(value)}"))
        if cut and value > tallest:
            _text(svg, x(index), TOP - 4, f"{value / factor:.3g}", "token middle")
        text = _text(svg, x(index), bottom + 8, names[index], "token end central")
        text.set("transform", f"rotate(-90 {x(index)} {bottom + 8})")
    if 0 < late_start < len(tokens):
        border = x(late_start - 0.5)
        _add(svg, "line", "border", x1=border, x2=border, y1=TOP - 24, y2=bottom)
        _text(svg, border - 6, TOP - 17, "early", "end")
        _text(svg, border + 6, TOP - 17, "late")
    if beta is not None:
        at_beta = y(beta / factor)
        _add(svg, "line", "beta", x1=LEFT, x2=width - 2 * RIGHT, y1=at_beta, y2=at_beta)
        _text(svg, width - 2 * RIGHT + 4, at_beta + 4, "β", "strong")
    return ET.tostring(svg, encoding="unicode")


def leaves_axis(influence: Sequence[Number], beta: Number) -> bool:
    """Whether ``influence_chart`` cuts a bar, so that ``beta`` and what is near it can still be told apart."""
    return beta > 0 and max(influence, default=0.0) > TALLEST * beta


def share_chart(ratio: Number, tau: Number, *, alt: str, label: str) -> str:
    """One bar of length ``ratio`` on a scale from 0 to 1, and the threshold it is held against."""
    height, top, bottom = 150, 46, 92
    svg = _canvas(WIDTH, height, alt)
    x = Scale(0, 1, LEFT, WIDTH - RIGHT)
    _add(svg, "rect", "whole", x=x(0), y=top, width=x(1) - x(0), height=bottom - top)
    _add(svg, "rect", "bar chosen" if ratio > tau else "bar", x=x(0), y=top, width=x(ratio) - x(0), height=bottom - top)
    places = [(x(at / 4), f"{at / 4:g}") for at in range(5)]
    _x_axis(svg, places, label, bottom)
    _add(svg, "line", "threshold", x1=x(tau), x2=x(tau), y1=top - 14, y2=bottom + 6)
    kind = "strong" if x(tau) < WIDTH / 2 else "strong end"
    _text(svg, x(tau) + (6 if kind == "strong" else -6), top - 8, f"τ = {number(tau)}", kind)
    return ET.tostring(svg, encoding="unicode")


def ticks(low: Number, high: Number, most: int = 5) -> list[float]:
    """Round values in ``[low, high]``, evenly spaced, about ``most`` of them. Expects values around 1."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def whole_ticks(count: int) -> list[Tick]:
    """Ticks for indices ``0 .. count - 1``; both ends are labelled."""
    last = max(count - 1, 0)
    step = next(step for scale in range(18) for step in (10**scale, 2 * 10**scale, 5 * 10**scale) if last / step <= 8)
    inner = [at for at in range(0, last, step) if at == 0 or last - at > step / 2]
    return [(at, str(at)) for at in [*inner, last]]


def visible(token: str) -> str:
    """A token as a label: white space shown where it is all there is, control characters left out, long ones cut."""
    text = "".join(c for c in token.strip() if unicodedata.category(c) not in ("Cc", "Cf", "Cs"))
    if not text:
        return "↵" if "\n" in token else "␣"
    return text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…"


def _unit(values: Sequence[Number]) -> tuple[Number, str]:
    """Power of ten that brings ``values`` near 1, and how an axis label names it."""
    top = max((abs(v) for v in values), default=0.0)
    if top < 1e-300 or 0.01 <= top < 1000:
        return 1.0, ""
    exponent = math.floor(math.log10(top))
    return 10.0**exponent, ", in " + power_of_ten(exponent)


def _from_zero(values: Sequence[Number]) -> tuple[Number, Number]:
    top = max(values, default=0.0)
    return 0.0, top * 1.05 if top > 1e-300 else 1.0


def _canvas(width: Number, height: Number, alt: str) -> ET.Element:
    return ET.Element("svg", {"viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": alt})


def _add(parent: ET.Element, tag: str, kind: str, **attributes: object) -> ET.Element:
    return ET.SubElement(parent, tag, {"class": kind} | {name: str(value) for name, value in attributes.items()})


def _text(parent: ET.Element, x: Number, y: Number, words: str, kind: str = "") -> ET.Element:
    element = _add(parent, "text", kind, x=round(x, 1), y=round(y, 1))
    element.text = words
    return element


def _titled(words: str) -> ET.Element:
    title = ET.Element("title")
    title.text = words
    return title


def _bar(svg: ET.Element, kind: str, center: Number, step: Number, y: Scale, value: Number) -> ET.Element:
    """Never thinner than a pixel or lower than one: a small value is not no value."""
    width, top = max(step * 0.72, 1), min(y(value), y.start - 1)
    return _add(
        svg, "rect", kind, x=round(center - width / 2, 1), y=top, width=round(width, 1), height=round(y.start - top, 1)
    )


def _y_axis(svg: ET.Element, y: Scale, label: str, width: Number) -> None:
    for value in ticks(y.low, y.high, 4):
        _add(svg, "line", "grid", x1=LEFT, x2=width - RIGHT, y1=y(value), y2=y(value))
        _text(svg, LEFT - 8, y(value) + 4, f"{value:.6g}".replace("-", "−"), "end")
    _text(svg, 0, 14, label, "label")


def _x_axis(svg: ET.Element, places: Sequence[Tick], label: str, bottom: Number = HEIGHT - BOTTOM) -> None:
    _add(svg, "line", "axis", x1=LEFT, x2=WIDTH - RIGHT, y1=bottom, y2=bottom)
    for at, words in places:
        _add(svg, "line", "axis", x1=at, x2=at, y1=bottom, y2=bottom + 4)
        _text(svg, at, bottom + 18, words, "middle")
    _text(svg, (LEFT + WIDTH - RIGHT) / 2, bottom + 38, label, "label middle")


def _point_out(svg: ET.Element, at: Number, words: str) -> None:
    _add(svg, "line", "threshold", x1=at, x2=at, y1=TOP - 14, y2=HEIGHT - BOTTOM)
    early = at < WIDTH / 2
    _text(svg, at + (6 if early else -6), TOP - 6, words, "strong" if early else "strong end")
