"""Dynamic corruption of a soft prompt: the key token is masked, the other vectors are pruned. Pure functions."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from jaxtyping import Float
from torch import Tensor

from dpc.errors import UserError
from dpc.types import MaskValue, PruneBy, PruneScope, Rounding

GAMMA = 10.0


def corrupt(
    vectors: Float[Tensor, "prompt d"],
    key_token: int,
    gamma: float = GAMMA,
    prune_scope: PruneScope = "vector",
    mask_key: bool = True,
    *,
    prune_by: PruneBy = "magnitude",
    prune_rounding: Rounding = "floor",
    mask_value: MaskValue = "zero",
) -> Float[Tensor, "prompt d"]:
    """Corrupted soft prompt p' (Dynamic Prompt Corruption, arXiv 2503.13208, section 3.2, stage 2).

    The vector of ``key_token`` is set to zero (or not changed, with ``mask_key=False``). In every other vector the
    smallest ``gamma`` percent of values are set to zero. The input is not modified.

    vectors: ``[prompt, d]``. key_token: position in ``[0, prompt)``. gamma: percent in ``[0, 100]``.
    prune_scope: ``vector`` ranks the values of each vector alone, ``prompt`` those of all other vectors together.
    prune_by, prune_rounding: see ``prune`` and ``pruned_count``. mask_value: ``zero``, or ``mean`` of all vectors.
    Returns ``[prompt, d]``, same type and device. Values that are not pruned are bitwise equal.
    Raises ``UserError`` if key_token, gamma or prune_scope is outside of its range.
    """
    length, width = vectors.shape
    if not 0 <= key_token < length:
        raise UserError(f"key token {key_token}: expected a position in the prompt, 0 to {length - 1}")
    others = torch.arange(length, device=vectors.device) != key_token
    corrupted = vectors.detach().clone()
    if prune_scope == "vector":
        corrupted[others] = prune(corrupted[others], gamma, prune_by, prune_rounding)
    elif prune_scope == "prompt":
        flat = corrupted[others].reshape(1, (length - 1) * width)
        corrupted[others] = prune(flat, gamma, prune_by, prune_rounding).reshape(length - 1, width)
    else:
        raise UserError(f"prune scope '{prune_scope}': expected 'vector' or 'prompt'")
    if mask_key:
        corrupted[key_token] = 0.0 if mask_value == "zero" else vectors.detach().mean(0)
    return corrupted


def prune(
    rows: Float[Tensor, "row value"], gamma: float, by: PruneBy = "magnitude", rounding: Rounding = "floor"
) -> Float[Tensor, "row value"]:
    """Each row with its ``pruned_count`` smallest values set to zero; of equal ones, the first.

    by: ``magnitude``, because a large negative value contributes as much to a vector as a large positive one; or
    ``value``, the signed numbers.

    Raises ``UserError`` if gamma is not a percentage.
    """
    ascending = (rows.abs() if by == "magnitude" else rows).argsort(dim=1, stable=True)
    smallest = ascending[:, : pruned_count(rows.shape[1], gamma, rounding)]
    return rows.masked_fill(torch.zeros_like(rows, dtype=torch.bool).scatter_(1, smallest, True), 0.0)


def pruned_count(values: int, gamma: float, rounding: Rounding = "floor") -> int:
    """``gamma / 100 * values``, rounded, in exact decimal arithmetic: 29% of 100 is 29, where floats give 28.

    rounding: ``floor``, ``ceil``, or ``round`` (a half to the even number).

    Raises ``UserError`` if gamma is outside of ``[0, 100]``.
    """
    if not 0 <= gamma <= 100:
        raise UserError(f"gamma {gamma}: expected a percentage of values to prune, 0 to 100")
    exact = Fraction(repr(float(gamma))) * values / 100
    if rounding == "round":
        return round(exact)
    return math.floor(exact) if rounding == "floor" else math.ceil(exact)
