"""Attention for slots, where each row has its own length; registered with transformers for unmodified models.

https://huggingface.co/docs/transformers/en/attention_interface
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from dpc.engine.packed import Pack
from dpc.model.capture import read_call
from dpc.model.position_mask import position_mask

# Two names rather than one function that reads the context variable: torch.compile cannot trace such a read.
ROWS, PACKED = "dpc_slots", "dpc_packed_slots"
_PACK: ContextVar[Pack] = ContextVar("dpc_slots_pack")


def register() -> None:
    """Register the attention functions with transformers, and their mask function: without one, causality is lost."""
    AttentionInterface.register(ROWS, _rows)
    AttentionInterface.register(PACKED, _packed)
    for name in (ROWS, PACKED):
        AttentionMaskInterface.register(name, position_mask)


@contextmanager
def packed_as(pack: Pack) -> Iterator[None]:
    """Set the layout of forward passes with the attention ``PACKED`` inside the block."""
    token = _PACK.set(pack)
    try:
        yield
    finally:
        _PACK.reset(token)


def _rows(
    module: torch.nn.Module,
    query: Float[Tensor, "row head time d"],
    key: Float[Tensor, "row kv_head position d"],
    value: Float[Tensor, "row kv_head position v"],
    attention_mask: Float[Tensor, "row 1 time position"],
    **keywords: Any,
) -> tuple[Tensor, None]:
    return _attend(module, query, key, value, attention_mask, keywords), None


def _packed(
    module: torch.nn.Module,
    query: Float[Tensor, "1 head token d"],
    key: Float[Tensor, "slot kv_head position d"],
    value: Float[Tensor, "slot kv_head position v"],
    attention_mask: Float[Tensor, "1 1 token seen"],
    **keywords: Any,
) -> tuple[Tensor, None]:
    pack = _PACK.get()
    tokens, parts = query[0].transpose(0, 1), []
    for grid, mask in zip(pack.grids, pack.masks(attention_mask), strict=True):
        keys, values = (part[grid.rows, :, : grid.length] for part in (key, value))
        output = _attend(module, tokens[grid.tokens].transpose(1, 2), keys, values, mask, keywords)
        parts.append(output.flatten(0, 1)[grid.unpadded])
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[None], None


def _attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, keywords: dict[str, Any]
) -> Float[Tensor, "row time head v"]:
    call = read_call(module, query, key, value, mask, keywords)
    # A mask that differs between heads (Doge) does not allow query heads to be grouped.
    unusual = call.softcap is not None or call.sinks is not None or mask.shape[1] > 1
    if unusual or key.shape[-1] != value.shape[-1]:
        return call.output().transpose(1, 2).contiguous()
    rows, heads, time, width = query.shape
    groups = heads // key.shape[1]
    if groups > 1:
        # Grouped query heads become further query rows of their key-value head, which is then not repeated.
        query = query.reshape(rows, key.shape[1], groups * time, width)
        mask = mask if time == 1 else mask.repeat(1, 1, groups, 1)
    output = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=call.scale)
    return output.reshape(rows, heads, time, width).transpose(1, 2).contiguous()
