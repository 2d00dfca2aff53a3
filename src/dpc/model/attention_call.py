"""One layer's attention as a value: any block of its probabilities, and its output, without an attention matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

# Most logits computed at a time; and most rows against all columns, so that memory stays linear in the length.
_BLOCK_ELEMENTS, _BLOCK_ROWS = 2**22, 64


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """The arguments of one layer's attention. Rows are query positions, columns are key positions (as many or more).

    mask: True (or 0) where a row may attend to a column, False (or very negative) elsewhere. None is causal attention,
    in which the rows are the last of the columns. softcap: logits become ``softcap * tanh(logits / softcap)``.
    sinks: an extra logit per head, whose probability is dropped. lse: log-sum-exp of every row's logits, if known.
    """

    query: Float[Tensor, "batch head row d"]
    key: Float[Tensor, "batch kv_head column d"]
    value: Float[Tensor, "batch kv_head column v"]
    mask: Shaped[Tensor, "#batch #head row column"] | None
    scale: float
    softcap: float | None = None
    sinks: Float[Tensor, " head"] | None = None
    lse: Float[Tensor, "batch head row"] | None = None

    @property
    def precision(self) -> torch.dtype:
        """Type in which probabilities are computed: float32, or float64 for a float64 model."""
        return torch.float64 if self.query.dtype == torch.float64 else torch.float32

    @property
    def rows(self) -> slice:
        """All rows."""
        return slice(0, self.query.shape[2])

    @property
    def columns(self) -> slice:
        """All columns."""
        return slice(0, self.key.shape[2])

    def detach(self) -> AttentionCall:
        """The same call, detached from the autograd graph."""
        mask, sinks = (None if part is None else part.detach() for part in (self.mask, self.sinks))
        query, key, value = self.query.detach(), self.key.detach(), self.value.detach()
        return replace(self, query=query, key=key, value=value, mask=mask, sinks=sinks)

    def row_blocks(self, rows: slice, columns: slice) -> Iterator[slice]:
        """Consecutive parts of ``rows``, so small that few logits are needed for the probabilities of ``columns``."""
        batch, heads, length, _ = self.query.shape
        known = self.lse is not None
        width, most = (columns.stop - columns.start, length) if known else (self.key.shape[2], _BLOCK_ROWS)
        size = max(1, min(most, _BLOCK_ELEMENTS // (batch * heads * width)))
        for start in range(rows.start, rows.stop, size):
            yield slice(start, min(start + size, rows.stop))

    def probabilities(self, rows: slice, columns: slice) -> Float[Tensor, "batch head block_row block_column"]:
        """A block of ``A[i,j] = exp(logit[i,j] - lse_i)``. The softmax is over all columns."""
        if self.lse is not None:
            return torch.exp(self._logits(rows, columns) - self.lse[:, :, rows, None])
        visible = slice(0, max(self._visible(rows), columns.stop))
        logits = self._logits(rows, visible)
        lse = torch.logsumexp(logits, dim=-1, keepdim=True)
        if self.sinks is not None:
            lse = torch.logaddexp(lse, self.sinks.to(lse).view(1, -1, 1, 1))
        return torch.exp(logits[..., columns] - lse)

    def output(self) -> Float[Tensor, "batch head row v"]:
        """``O = A V``, differentiable. Memory for the backward pass is linear in the sequence length."""
        return self.attend()[0]

    def attend(self) -> tuple[Float[Tensor, "batch head row v"], AttentionCall]:
        """The output, and this call with the log-sum-exp if the fused kernel returns one."""
        fused = self.softcap is None and self.sinks is None and self.key.shape[-1] == self.value.shape[-1]
        # A mask that is computed from hidden states (Doge) needs a gradient, which fused kernels don't give.
        fused = fused and not (self.mask is not None and self.mask.requires_grad)
        if fused and self.mask is None:
            output, lse = self._fused()
            return output, replace(self, lse=lse)
        if fused:
            # For an explicit mask, fused kernels save a float copy per layer. Recomputation saves that memory.
            output, lse = _recomputed(self._fused)
            return output, replace(self, lse=lse)
        blocks = self.row_blocks(self.rows, self.columns)
        return torch.cat([_recomputed(self._output_rows, rows) for rows in blocks], dim=2), self

    def _fused(self) -> tuple[Tensor, Tensor | None]:
        query, mask, before = self.query, self.mask, self._before if self.mask is None else 0
        # The kernels align causal rows with the first columns, so padding rows come before the rows of this call.
        query = pad(query, (0, 0, before, 0)) if before else query
        if query.device.type == "cpu":
            mask = None if mask is None else _as_float(mask, query.dtype).expand(*query.shape[:1], -1, -1, -1)
            output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                query, self.key, self.value, is_causal=mask is None, attn_mask=mask, scale=self.scale
            )
            return output[:, :, before:], lse[:, :, before:].detach()
        groups = query.shape[1] // self.key.shape[1]
        key, value = (part.repeat_interleave(groups, dim=1) if groups > 1 else part for part in (self.key, self.value))
        if _cuda_returns_lse(query):
            mask = None if mask is None else _aligned(_as_float(mask, query.dtype)).expand(*query.shape[:2], -1, -1)
            output, lse, _, _ = torch.ops.aten._scaled_dot_product_efficient_attention(
                query, key, value, mask, compute_log_sumexp=True, is_causal=mask is None, scale=self.scale
            )
            # The kernel rounds the number of rows in lse up.
            return output[:, :, before:], lse[:, :, before : query.shape[2]].detach()
        output = scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, scale=self.scale
        )
        return output[:, :, before:], None

    def _output_rows(self, rows: slice) -> Tensor:
        visible = slice(0, self._visible(rows))
        value = self.value[:, :, visible].to(self.precision)
        return grouped_matmul(self.probabilities(rows, visible), value.mT).to(self.value.dtype)

    @property
    def _before(self) -> int:
        """Number of columns before the first row's own."""
        return self.key.shape[2] - self.query.shape[2]

    def _visible(self, rows: slice) -> int:
        """Number of columns that ``rows`` may attend to."""
        return self.key.shape[2] if self.mask is not None else self._before + int(rows.stop)

    def _logits(self, rows: slice, columns: slice) -> Tensor:
        query, key = self.query[:, :, rows].to(self.precision), self.key[:, :, columns].to(self.precision)
        logits = grouped_matmul(query * self.scale, key)
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits + self.additive_mask(rows, columns)

    def additive_mask(self, rows: slice, columns: slice) -> Float[Tensor, "#batch #head block_row block_column"]:
        """The additive mask of a block of logits: 0 where a row may attend to a column, minus infinity elsewhere."""
        if self.mask is not None:
            return _as_float(self.mask[:, :, rows, columns], self.precision)
        row = torch.arange(rows.start, rows.stop, device=self.query.device) + self._before
        column = torch.arange(columns.start, columns.stop, device=self.query.device)
        return _as_float((column[None, :] <= row[:, None])[None, None], self.precision)


def grouped_matmul(
    left: Float[Tensor, "batch head row d"], right: Float[Tensor, "batch kv_head column d"]
) -> Float[Tensor, "batch head row column"]:
    """``left @ right.mT`` for several query heads per key-value head, without a copy of the key-value heads."""
    batch, heads, rows, width = left.shape
    kv_heads = right.shape[1]
    product = left.reshape(batch, kv_heads, heads // kv_heads * rows, width) @ right.mT
    return product.view(batch, heads, rows, right.shape[2])


def _as_float(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)


def _cuda_returns_lse(query: Tensor) -> bool:
    """Whether the fused CUDA kernel that returns the log-sum-exp supports these queries."""
    if query.device.type != "cuda" or query.dtype == torch.float64 or query.shape[-1] % 8:
        return False
    return query.dtype != torch.bfloat16 or torch.cuda.get_device_capability(query.device) >= (8, 0)


def _aligned(mask: Tensor) -> Tensor:
    """The same mask with a row stride that is a multiple of 16, as the fused CUDA kernel requires."""
    columns = mask.shape[-1]
    return pad(mask, (0, -columns % 16))[..., :columns]


def _recomputed(function: Callable[..., Any], *arguments: Any) -> Any:
    if not torch.is_grad_enabled():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
