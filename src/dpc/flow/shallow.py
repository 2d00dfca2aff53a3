"""Which layers are shallow: a fraction of the depth of any model. Without torch."""

from __future__ import annotations

from collections.abc import Sequence


def shallow_layers(layers: Sequence[int], start: float = 2 / 32, stop: float = 10 / 32) -> tuple[int, ...]:
    """Where the paper sees prompt information gather: the n layers' ``round(start * n)`` to ``round(stop * n)``.

    layers: those with softmax attention, ascending; others are not counted. ``start`` and ``stop`` are fractions of the
    depth (section 2.1: layers 2 to 10 of 32).
    """
    count = len(layers)
    return tuple(layers[round(start * count) : min(round(stop * count), count - 1) + 1])


def name_layers(layers: Sequence[int]) -> str:
    """Ascending layer numbers in words: ``layer 3``, ``layers 2 to 10``, or ``layers 3, 7 and 11``."""
    if len(layers) == 1:
        return f"layer {layers[0]}"
    if layers[-1] - layers[0] == len(layers) - 1:
        return f"layers {layers[0]} to {layers[-1]}"
    return f"layers {', '.join(map(str, layers[:-1]))} and {layers[-1]}"
