"""Attention masks for batches whose rows are at different positions."""

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
    """An additive mask: 0 where a token may attend, minus infinity elsewhere. A mask function for transformers.

    ``mask_function`` is the model's own rule (causal, sliding window). It gets each token's position, ``q_offset``.
    The mask is not boolean, because fused kernels would convert a boolean mask to numbers in every layer.
    """
    zero = torch.zeros((), dtype=torch.long, device=device)
    columns = torch.arange(kv_length, device=device)
    readable = mask_function(zero, zero, q_offset[:, None, :, None], columns[None, None, None, :])
    return torch.zeros(readable.shape, dtype=dtype, device=device).masked_fill_(~readable, -torch.inf)
