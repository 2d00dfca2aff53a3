"""Attention masks for rows that stand each at a position of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


def position_mask(
    *,
    kv_length: int,
    q_offset: Int[Tensor, "row time"],
    mask_function: Callable[..., Tensor],
    dtype: torch.dtype,
    device: torch.device,
    **_: Any,
) -> Float[Tensor, "row 1 time position"]:
    """0 where a row may read, minus infinity elsewhere; the signature is that of transformers' mask functions.

    ``mask_function`` is the model's own rule (causal, sliding window), here asked about each token's own position.
    Numbers and not booleans, because fused kernels would turn booleans into numbers again in every layer.
    """
    zero = torch.zeros((), dtype=torch.long, device=device)
    columns = torch.arange(kv_length, device=device)
    readable = mask_function(zero, zero, q_offset[:, None, :, None], columns[None, None, None, :])
    return torch.zeros(readable.shape, dtype=dtype, device=device).masked_fill_(~readable, -torch.inf)
