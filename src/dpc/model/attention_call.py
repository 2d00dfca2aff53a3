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

# Logits made at a time: at most this many, and, against all columns, few enough rows to stay linear in length.
_BLOCK_ELEMENTS, _BLOCK_ROWS = 2**22, 64


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One layer's attention as the model asked for it: rows read, columns are read, and there may be more columns.

    mask: True (or 0) where a row may read a column, False (or very negative) elsewhere. None is causal: the rows are
    the last of the columns. softcap: logits become ``softcap * tanh(logits / softcap)``. sinks: an extra logit a head,
    whose share goes nowhere. lse: log-sum-exp of every row's logits, where it is known already.
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
        """What probabilities are computed in: float32, or float64 for a float64 model."""
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
        """The same numbers outside the autograd graph."""
        sinks = None if self.sinks is None else self.sinks.detach()
        query, key, value = self.query.detach(), self.key.detach(), self.value.detach()
        return replace(self, query=query, key=key, value=value, sinks=sinks)

    def row_blocks(self, rows: slice, columns: slice) -> Iterator[slice]:
        """Consecutive parts of ``rows`` for which the probabilities of ``columns`` take a bounded number of logits."""
        batch, heads, length, _ = self.query.shape
        known = self.lse is not None
        width, most = (columns.stop - columns.start, length) if known else (self.key.shape[2], _BLOCK_ROWS)
        size = max(1, min(most, _BLOCK_ELEMENTS // (batch * heads * width)))
        for start in range(rows.start, rows.stop, size):
            yield slice(start, min(start + size, rows.stop))

    def probabilities(self, rows: slice, columns: slice) -> Float[Tensor, "batch head block_row block_column"]:
        """``A[i,j] = exp(logit[i,j] - lse_i)``: the softmax runs over every column, the block is what is returned."""
        if self.lse is not None:
            return torch.exp(self._logits(rows, columns) - self.lse[:, :, rows, None])
        visible = slice(0, max(self._visible(rows), columns.stop))
        logits = self._logits(rows, visible)
        lse = torch.logsumexp(logits, dim=-1, keepdim=True)
        if self.sinks is not None:
            lse = torch.logaddexp(lse, self.sinks.to(lse).view(1, -1, 1, 1))
        return torch.exp(logits[..., columns] - lse)

    def output(self) -> Float[Tensor, "batch head row v"]:
        """``O = A V``, differentiable; what is kept for the backward pass is linear in the sequence length."""
        return self.attend()[0]

    def attend(self) -> tuple[Float[Tensor, "batch head row v"], AttentionCall]:
        """The output, and this call with the log-sum-exp that the fused kernel found on the way, where it tells."""
        fused = self.softcap is None and self.sinks is None and self.key.shape[-1] == self.value.shape[-1]
        if fused and self.mask is None:
            output, lse = self._fused()
            return output, replace(self, lse=lse)
        if fused:
            # The fused kernels keep a float copy of an explicit mask in every layer: compute it again instead.
            output, lse = _again_in_backward(self._fused)
            return output, replace(self, lse=lse)
        blocks = self.row_blocks(self.rows, self.columns)
        return torch.cat([_again_in_backward(self._output_rows, rows) for rows in blocks], dim=2), self

    def _fused(self) -> tuple[Tensor, Tensor | None]:
        query, mask, before = self.query, self.mask, self._before if self.mask is None else 0
        # The kernels align causal rows with the first columns: rows that nobody reads stand for those before ours.
        query = pad(query, (0, 0, before, 0)) if before else query
        if query.device.type == "cpu":
            mask = None if mask is None else _as_float(mask, query.dtype).expand(*query.shape[:1], -1, -1, -1)
            output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                query, self.key, self.value, is_causal=mask is None, attn_mask=mask, scale=self.scale
            )
            return output[:, :, before:], lse[:, :, before:].detach()
        groups = query.shape[1] // self.key.shape[1]
        key, value = (part.repeat_interleave(groups, dim=1) if groups > 1 else part for part in (self.key, self.value))
        if _cuda_tells_lse(query):
            mask = None if mask is None else _aligned(_as_float(mask, query.dtype)).expand(*query.shape[:2], -1, -1)
            output, lse, _, _ = torch.ops.aten._scaled_dot_product_efficient_attention(
                query, key, value, mask, compute_log_sumexp=True, is_causal=mask is None, scale=self.scale
            )
            # The kernel rounds the number of rows up.
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
        """Columns before the first row's own."""
        return self.key.shape[2] - self.query.shape[2]

    def _visible(self, rows: slice) -> int:
        """How many columns ``rows`` may read."""
        return self.key.shape[2] if self.mask is not None else self._before + int(rows.stop)

    def _logits(self, rows: slice, columns: slice) -> Tensor:
        query, key = self.query[:, :, rows].to(self.precision), self.key[:, :, columns].to(self.precision)
        logits = grouped_matmul(query * self.scale, key)
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits + self.additive_mask(rows, columns)

    def additive_mask(self, rows: slice, columns: slice) -> Float[Tensor, "#batch #head block_row block_column"]:
        """What is added to the logits of a block: 0 where a row may read a column, minus infinity elsewhere."""
        if self.mask is not None:
            return _as_float(self.mask[:, :, rows, columns], self.precision)
        row = torch.arange(rows.start, rows.stop, device=self.query.device) + self._before
        column = torch.arange(columns.start, columns.stop, device=self.query.device)
        return _as_float((column[None, :] <= row[:, None])[None, None], self.precision)


def grouped_matmul(
    left: Float[Tensor, "batch head row d"], right: Float[Tensor, "batch kv_head column d"]
) -> Float[Tensor, "batch head row column"]:
    """``left @ right.mT`` where several heads share one key-value head, without repeating it."""
    batch, heads, rows, width = left.shape
    kv_heads = right.shape[1]
    product = left.reshape(batch, kv_heads, heads // kv_heads * rows, width) @ right.mT
    return product.view(batch, heads, rows, right.shape[2])


def _as_float(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)


def _cuda_tells_lse(query: Tensor) -> bool:
    """Whether the fused kernel that tells the log-sum-exp takes such queries on their device."""
    if query.device.type != "cuda" or query.dtype == torch.float64 or query.shape[-1] % 8:
        return False
    return query.dtype != torch.bfloat16 or torch.cuda.get_device_capability(query.device) >= (8, 0)


def _aligned(mask: Tensor) -> Tensor:
    """The same numbers, rows 16 numbers apart or a multiple of that: the fused kernel of CUDA reads no others."""
    columns = mask.shape[-1]
    return pad(mask, (0, -columns % 16))[..., :columns]


def _again_in_backward(function: Callable[..., Any], *arguments: Any) -> Any:
    if not torch.is_grad_enabled():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
