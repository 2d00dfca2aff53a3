"""The registry of points. A new point is a ``Point`` and one line here."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from benchmarks.figures import Point
from dpc.errors import UserError

POINTS = {
    "saliency-2048": "benchmarks.saliency:LONG",
    "saliency-512": "benchmarks.saliency:SHORT",
    "saliency-length": "benchmarks.saliency:LENGTH",
    "trigger": "benchmarks.trigger:POINT",
    "decode": "benchmarks.decoding:DECODE",
    "second-pass": "benchmarks.decoding:SECOND_PASS",
    "pipeline": "benchmarks.pipeline:POINT",
    "tuning": "benchmarks.tuning:POINT",
    "gpu-decode": "benchmarks.gpu:POINT",
    "gpu-pipeline": "benchmarks.gpu_pipeline:POINT",
}


def check_points(names: Sequence[str]) -> None:
    """Raise ``UserError`` for a name that is not in ``POINTS``."""
    unknown = [name for name in names if name not in POINTS]
    if unknown:
        raise UserError(f"unknown point {unknown[0]!r}: expected {', '.join(POINTS)}")


def get_point(name: str) -> Point:
    """The point called ``name``, one of ``POINTS``."""
    module, _, attribute = POINTS[name].partition(":")
    point: Point = getattr(import_module(module), attribute)
    return point
