"""Dynamic corruption of a soft prompt: the key token masked, the other vectors pruned. Pure functions."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from jaxtyping import Float
from torch import Tensor

from dpc.errors import UserError
from dpc.types import PruneScope

GAMMA = 10.0


def corrupt(
    vectors: Float[Tensor, "prompt d"],
    key_token: int,
    gamma: float = GAMMA,
    prune_scope: PruneScope = "vector",
    mask_key: bool = True,
) -> Float[Tensor, "prompt d"]:
    """Corrupted soft prompt p' (Dynamic Prompt Corruption, arXiv 2503.13208, section 3.2, stage 2).

    The vector of ``key_token`` becomes zero (or stays as it is with ``mask_key=False``); every other vector loses its
    smallest-magnitude ``gamma`` percent of values. The input is left as it is.

    vectors: ``[prompt, d]``. key_token: position in ``[0, prompt)``. gamma: percent in ``[0, 100]``.
    prune_scope: ``vector`` ranks the values of each vector alone, ``prompt`` those of all other vectors together.
    Returns ``[prompt, d]``, same type and device; what is not pruned keeps its bits.
    Raises ``UserError`` where key_token, gamma or prune_scope is outside of these.
    """
    length, width = vectors.shape
    if not 0 <= key_token < length:
        raise UserError(f"key token {key_token}: expected a position in the prompt, 0 to {length - 1}")
    others = torch.arange(length, device=vectors.device) != key_token
    corrupted = vectors.detach().clone()
    if prune_scope == "vector":
        corrupted[others] = prune(corrupted[others], gamma)
    elif prune_scope == "prompt":
        corrupted[others] = prune(corrupted[others].reshape(1, (length - 1) * width), gamma).reshape(length - 1, width)
    else:
        raise UserError(f"prune scope '{prune_scope}': expected 'vector' or 'prompt'")
    if mask_key:
        corrupted[key_token] = 0.0
    return corrupted


def prune(rows: Float[Tensor, "row value"], gamma: float) -> Float[Tensor, "row value"]:
    """Each row with its ``pruned_count`` smallest-magnitude values set to zero; of equal ones the first go.

    Magnitude, not signed size: a large negative value carries as much of a vector as a large positive one.

    Raises ``UserError`` where gamma is no percentage.
    """
    ascending = rows.abs().argsort(dim=1, stable=True)
    smallest = ascending[:, : pruned_count(rows.shape[1], gamma)]
    return rows.masked_fill(torch.zeros_like(rows, dtype=torch.bool).scatter_(1, smallest, True), 0.0)


def pruned_count(values: int, gamma: float) -> int:
    """``floor(gamma / 100 * values)``, with gamma taken as the decimal that was written (29% of 100 is 29, not 28).

    Raises ``UserError`` where gamma is outside of ``[0, 100]``.
    """
    if not 0 <= gamma <= 100:
        raise UserError(f"gamma {gamma}: expected a percentage of values to prune, 0 to 100")
    return math.floor(Fraction(repr(float(gamma))) * values / 100)
