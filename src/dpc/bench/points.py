"""The points by name. A new one is a ``Point`` and one line here."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from dpc.bench.figures import Point
from dpc.errors import UserError

POINTS = {
    "saliency-2048": "dpc.bench.saliency:LONG",
    "saliency-512": "dpc.bench.saliency:SHORT",
    "saliency-length": "dpc.bench.saliency:LENGTH",
    "trigger": "dpc.bench.trigger:POINT",
    "decode": "dpc.bench.decoding:DECODE",
    "second-pass": "dpc.bench.decoding:SECOND_PASS",
    "pipeline": "dpc.bench.pipeline:POINT",
    "tuning": "dpc.bench.tuning:POINT",
    "gpu-decode": "dpc.bench.gpu:POINT",
    "gpu-pipeline": "dpc.bench.gpu_pipeline:POINT",
}


def check_points(names: Sequence[str]) -> None:
    """Raise ``UserError`` unless every name is one of ``POINTS``."""
    unknown = [name for name in names if name not in POINTS]
    if unknown:
        raise UserError(f"unknown point {unknown[0]!r}: expected {', '.join(POINTS)}")


def get_point(name: str) -> Point:
    """The point called ``name``, one of ``POINTS``."""
    module, _, attribute = POINTS[name].partition(":")
    point: Point = getattr(import_module(module), attribute)
    return point
