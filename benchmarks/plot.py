"""Line charts with two logarithmic axes for ``benchmarks/README.md``, as SVG with inline style."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Number = int | float

WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 72, 34, 44
# Legible on white and on black.
INK, GRID, LINES = "#7d8590", "#7d859044", ("#2f81f7", "#db6d28")
FONT = "font-family:system-ui,sans-serif;font-size:12px"


@dataclass(frozen=True, slots=True)
class Series:
    """A line: its name, and positive values by x."""

    name: str
    values: Mapping[int, Number]


@dataclass(frozen=True, slots=True)
class _Axis:
    low: Number
    high: Number
    start: Number
    stop: Number

    def __call__(self, value: Number) -> float:
        share = (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return round(self.start + share * (self.stop - self.start), 1)


def log_chart(series: Sequence[Series], labels: tuple[str, str]) -> str:
    """A chart with a line per series and a dot per value. labels: of the x and the y axis."""
    columns = sorted({x for line in series for x in line.values})
    values = [y for line in series for y in line.values.values()]
    x = _Axis(columns[0], columns[-1], LEFT, WIDTH - RIGHT)
    low, high = 10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values)))
    y = _Axis(low, high, HEIGHT - BOTTOM, TOP)
    root = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {WIDTH} {HEIGHT}", "width": str(WIDTH)}
    svg = ET.Element("svg", root | {"role": "img", "style": FONT, "aria-label": f"{labels[1]} over {labels[0]}"})
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        at = y(10.0**power)
        _add(svg, "line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, stroke=GRID)
        _text(svg, LEFT - 8, at + 4, f"{10.0**power:,g}", "end")
    for column in columns:
        _text(svg, x(column), HEIGHT - BOTTOM + 18, str(column), "middle")
    _text(svg, 0, 16, labels[1], "start")
    _text(svg, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, labels[0], "middle")
    for line, colour in zip(series, LINES, strict=False):
        places = [(x(at), y(value)) for at, value in sorted(line.values.items())]
        path = " ".join(f"{px},{py}" for px, py in places)
        _add(svg, "polyline", points=path, fill="none", stroke=colour, **{"stroke-width": 2})
        for px, py in places:
            _add(svg, "circle", cx=px, cy=py, r=3, fill=colour)
        _text(svg, places[-1][0] + 8, places[-1][1] + 4, line.name, "start", colour)
    return ET.tostring(svg, encoding="unicode") + "\n"


def _add(parent: ET.Element, tag: str, **attributes: object) -> ET.Element:
    return ET.SubElement(parent, tag, {name: str(value) for name, value in attributes.items()})


def _text(parent: ET.Element, x: Number, y: Number, words: str, anchor: str, colour: str = INK) -> None:
    _add(parent, "text", x=x, y=y, fill=colour, **{"text-anchor": anchor}).text = words
