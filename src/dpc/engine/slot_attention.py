"""Attention whose rows stand each at a position of their own, for unmodified models, through transformers' interfaces.

https://huggingface.co/docs/transformers/en/attention_interface
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from dpc.capture import read_call
from dpc.position_mask import position_mask

IMPLEMENTATION = "dpc_slots"


def register() -> None:
    """Make the attention known to transformers, with the mask function without which causality would be lost."""
    AttentionInterface.register(IMPLEMENTATION, _attention)
    AttentionMaskInterface.register(IMPLEMENTATION, position_mask)


def _attention(
    module: torch.nn.Module,
    query: Float[Tensor, "row head time d"],
    key: Float[Tensor, "row kv_head position d"],
    value: Float[Tensor, "row kv_head position v"],
    attention_mask: Float[Tensor, "row 1 time position"],
    **keywords: Any,
) -> tuple[Tensor, None]:
    call = read_call(module, query, key, value, attention_mask, keywords)
    if call.softcap is not None or call.sinks is not None or key.shape[-1] != value.shape[-1]:
        return call.output().transpose(1, 2).contiguous(), None
    rows, heads, time, width = query.shape
    groups = heads // key.shape[1]
    # The heads of a group stand as more query rows of their one key-value head, which then need not be repeated.
    packed = query.reshape(rows, key.shape[1], groups * time, width)
    mask = attention_mask if time == 1 else attention_mask.repeat(1, 1, groups, 1)
    output = scaled_dot_product_attention(packed, key, value, attn_mask=mask, scale=call.scale)
    return output.view(rows, heads, time, width).transpose(1, 2).reshape(rows, time, heads, width), None
