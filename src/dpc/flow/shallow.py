"""Which layers are shallow: a fraction of the depth of any model. Without torch."""

from __future__ import annotations


def shallow_layers(layers: int, start: float = 2 / 32, stop: float = 10 / 32) -> tuple[int, ...]:
    """Where the paper sees prompt information gather: layers ``round(start * n)`` to ``round(stop * n)``, inclusive.

    ``start`` and ``stop`` are fractions of the depth (section 2.1: layers 2 to 10 of 32).
    """
    return tuple(range(round(start * layers), min(round(stop * layers), layers - 1) + 1))
