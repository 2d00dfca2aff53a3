"""Attention calibration (ACT): in chosen heads, attention is taken from sinks and given to the rest of the row.

Yu et al. 2024, "Unveiling and Harnessing Hidden Attention Sinks", https://arxiv.org/abs/2406.15765. A sink is a token,
other than the first, that the rows which can see it read with more than ``alpha / N`` on average, N being the tokens so
far. Soft prompt and question are one block: each of their rows knows the sinks of the whole block, as in the authors'
code. A generated token adds its own row to the averages and is calibrated by them; rows before it stay as they were.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.masking_utils import sdpa_mask

from dpc.errors import UserError
from dpc.model.attention_call import AttentionCall
from dpc.model.attention_switch import AttentionImplementation
from dpc.model.capture import read_call
from dpc.model.eager_check import keeps_only_keys, softmax_layers
from dpc.model.lm import FrozenLM

IMPLEMENTATION = "dpc_act"
Head = tuple[int, int]
"""Layer and head, from 0."""

# Attention values of chosen heads that are held at a time.
_ELEMENTS = 2**26


@dataclass(frozen=True, slots=True)
class SinkCalibration:
    """Which heads are calibrated, from what average attention on (``alpha / N``), and what is left on sinks."""

    heads: tuple[Head, ...]
    alpha: float
    beta: float


def calibrate_attention(
    attention: Float[Tensor, "*batch row column"], sinks: Bool[Tensor, "*batch #row column"], beta: float
) -> Float[Tensor, "*batch row column"]:
    """``beta`` of the attention on sinks stays; the rest goes to the row's other tokens in proportion to theirs.

    Every row keeps its sum. A row whose attention is all on sinks is not changed.
    """
    taken = (1 - beta) * attention.masked_fill(~sinks, 0.0).sum(-1, keepdim=True)
    others = attention.masked_fill(sinks, 0.0)
    total = others.sum(-1, keepdim=True)
    # Shares first: what others read may be too small to divide by.
    given = attention + taken * (others / total.masked_fill(total == 0, 1.0))
    return torch.where(total > 0, torch.where(sinks, beta * attention, given), attention)


class ActCache(DynamicCache):
    """Keys and values of every position and, for each calibrated head, how much each position was read so far.

    block: leading rows of the first pass that are one block, prompt and question; None: all rows of a pass.
    """

    def __init__(self, calibration: SinkCalibration) -> None:
        # Without the model's config: layers with a sliding window keep all positions too, their masks do the sliding.
        super().__init__()
        self.calibration = calibration
        self.block: int | None = None
        self.heads: dict[int, list[int]] = {}
        for layer, head in sorted(set(calibration.heads)):
            self.heads.setdefault(layer, []).append(head)
        self._start: Int[Tensor, " batch"] | None = None
        self._received: dict[int, Float[Tensor, "batch head column"]] = {}
        self._readers: dict[int, Float[Tensor, "batch 1 column"]] = {}

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some instances of the batch."""
        super().batch_select_indices(indices)
        if self._start is not None:
            self._start = self._start[indices]
        for sums in (self._received, self._readers):
            sums.update({layer: values[indices] for layer, values in sums.items()})

    def calibrated_output(self, layer: int, call: AttentionCall) -> Float[Tensor, "batch chosen row v"]:
        """What the chosen heads of a layer read, in ascending order; adds the rows of this pass to the averages."""
        chosen, (batch, heads, rows, _), columns = self.heads[layer], call.query.shape, call.key.shape[2]
        assert call.mask is not None
        visible = call.mask.expand(batch, 1, rows, columns)
        if self._start is None:
            self._start = visible.any(2)[:, 0].int().argmax(-1)
        together = self.block if self.block is not None and layer not in self._received else rows
        limits = self._limits(rows, columns, together)
        readers = _so_far(visible.to(call.precision), self._readers.get(layer), together)
        outputs, received = [], []
        size = max(1, _ELEMENTS // (batch * rows * columns))
        for start in range(0, len(chosen), size):
            part = chosen[start : start + size]
            attention, value = _attention_of(call, part, heads)
            before = self._received[layer][:, start : start + size] if layer in self._received else None
            total = _so_far(attention, before, together)
            sinks = (total / readers.clamp(min=1) > limits).expand_as(attention)
            outputs.append(calibrate_attention(attention, sinks, self.calibration.beta) @ value)
            received.append(total[:, :, -1])
        self._received[layer], self._readers[layer] = torch.cat(received, dim=1), readers[:, :, -1]
        return torch.cat(outputs, dim=1).to(call.value.dtype)

    def _limits(self, rows: int, columns: int, together: int) -> Float[Tensor, "batch 1 row column"]:
        """``alpha / N`` of each row; infinite for the first token, which is never calibrated."""
        assert self._start is not None
        row = torch.arange(rows, device=self._start.device).clamp(min=together - 1)
        tokens = (columns - rows + 1 + row)[None] - self._start[:, None]
        limits = (self.calibration.alpha / tokens.clamp(min=1))[:, None, :, None].expand(-1, 1, -1, columns)
        first = torch.arange(columns, device=self._start.device) == self._start[:, None]
        return limits.masked_fill(first[:, None, None], torch.inf)


def _so_far(
    values: Float[Tensor, "batch head row column"], before: Float[Tensor, "batch head earlier"] | None, together: int
) -> Float[Tensor, "batch head row column"]:
    """Column sums over all rows up to each row; the first ``together`` rows of this pass count as one."""
    block = values[:, :, :together].sum(2, keepdim=True)
    if before is not None:
        block = block + pad(before, (0, values.shape[3] - before.shape[2]))[:, :, None]
    after = block + values[:, :, together:].cumsum(2)
    return torch.cat([block.expand(-1, -1, together, -1), after], dim=2)


def _attention_of(call: AttentionCall, chosen: Sequence[int], heads: int) -> tuple[Tensor, Tensor]:
    """Attention ``[batch, chosen, row, column]`` and values ``[batch, chosen, column, v]`` of some heads."""
    groups = heads // call.key.shape[1]
    shared = [head // groups for head in chosen]
    picked = replace(
        call,
        query=call.query[:, chosen],
        key=call.key[:, shared],
        value=call.value[:, shared],
        sinks=None if call.sinks is None else call.sinks[chosen],
    )
    assert call.mask is not None
    # Rows of padding see nothing, and their softmax is no number.
    attention = picked.probabilities(picked.rows, picked.columns).masked_fill(~call.mask, 0.0)
    return attention, picked.value.to(call.precision)


def layers_to_calibrate(lm: FrozenLM) -> tuple[int, ...]:
    """All layers. Raises ``UserError`` unless each has softmax attention and keeps nothing but keys and values.

    ACT decodes padded batches, and padding on the left would change a recurrent state.
    """
    if not keeps_only_keys(lm):
        raise UserError(
            f"method act: {type(lm.model).__name__} has layers that keep states beside keys and values (convolution, "
            "state space or linear attention), expected softmax attention alone; leave act out, other methods work"
        )
    return softmax_layers(lm)


@contextmanager
def calibrated_attention(lm: FrozenLM, calibration: SinkCalibration) -> Iterator[ActCache]:
    """Inside, forward passes with the cache that is yielded have the sinks of chosen heads calibrated.

    One batch a cache: its first pass holds soft prompts and questions, padded on the left. The model's own attention
    is restored on exit, also after an error.

    Raises ``UserError`` for a head that the model doesn't have, attention that cannot be reproduced, or a model that
    ``layers_to_calibrate`` refuses.
    """
    layers_to_calibrate(lm)
    heads = int(lm.config.num_attention_heads)
    for layer, head in calibration.heads:
        if not (0 <= layer < lm.layers and 0 <= head < heads):
            raise UserError(
                f"head {head} of layer {layer}: {lm.name} has {lm.layers} layers of {heads} heads; "
                "run `dpc calibrate --method act` for this model"
            )
    AttentionInterface.register(IMPLEMENTATION, _attention)
    AttentionMaskInterface.register(IMPLEMENTATION, _mask)
    cache = ActCache(calibration)
    token = _CACHE.set(cache)
    try:
        with AttentionImplementation(lm.model).switched(IMPLEMENTATION):
            yield cache
    finally:
        _CACHE.reset(token)


_CACHE: ContextVar[ActCache] = ContextVar("dpc_act_cache")


def _attention(
    module: torch.nn.Module,
    query: Float[Tensor, "batch head row d"],
    key: Float[Tensor, "batch kv_head column d"],
    value: Float[Tensor, "batch kv_head column v"],
    attention_mask: Bool[Tensor, "batch 1 row column"],
    **keywords: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls in place of its own; its signature is the interface's."""
    call, cache = read_call(module, query, key, value, attention_mask, keywords), _CACHE.get()
    layer: int = getattr(module, "layer_idx", -1)
    output = call.output().masked_fill(~attention_mask.any(-1, keepdim=True), 0.0)
    if layer in cache.heads:
        output[:, cache.heads[layer]] = cache.calibrated_output(layer, call)
    return output.transpose(1, 2).contiguous(), None


def _mask(**keywords: Any) -> Bool[Tensor, "batch 1 row column"]:
    """True where a row may read; never None, for the averages need to know who could read."""
    mask = sdpa_mask(**keywords | {"allow_is_causal_skip": False})
    assert mask is not None
    return mask
