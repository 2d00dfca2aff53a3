"""See every attention layer of one forward pass: its queries, keys, values, mask and output, never an attention matrix.

The model is switched to an attention function of ours through transformers' ``AttentionInterface`` for as long as a
``with`` block lasts. What that function cannot compute exactly as the model itself does, it refuses.
https://huggingface.co/docs/transformers/en/attention_interface
"""

from __future__ import annotations

import math
import sys
import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from dpc.errors import UserError
from dpc.lm import FrozenLM

IMPLEMENTATION = "dpc_capture"
_MEND = "choose a model of another architecture (Llama, Mistral, Qwen, Gemma2, GPT-2, GPT-NeoX, Phi-3 and OLMo2 work)"

# One block of rows against all columns: at most this many elements, and few enough rows to stay linear in length.
_BLOCK_ELEMENTS, _BLOCK_ROWS = 2**24, 64

# Keywords that models hand down to attention functions and that change nothing about the attention itself.
_WITHOUT_EFFECT = frozenset(
    {
        "cache_position",
        "num_items_in_batch",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "position_ids",
        "return_dict",
        "use_cache",
    }
)

# Largest relative Frobenius error against the model's own attention: one layer on equal inputs, in float32 or better;
_LAYER_TOLERANCE = 1e-4
# and a whole forward pass, where rounding accumulates and, in 16 bits, may send a token to another expert.
_PASS_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3}
_PASS_TOLERANCE_16_BITS = 0.5
_CHECK_LENGTH = 24


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One layer's attention over whole sequences, as the model asked for it.

    mask: True (or 0) where a row may read a column, False (or very negative) elsewhere; None is causal.
    softcap: logits become ``softcap * tanh(logits / softcap)``. sinks: an extra logit a head, whose share goes nowhere.
    """

    query: Float[Tensor, "batch head row d"]
    key: Float[Tensor, "batch kv_head row d"]
    value: Float[Tensor, "batch kv_head row v"]
    mask: Shaped[Tensor, "#batch #head row row"] | None
    scale: float
    softcap: float | None = None
    sinks: Float[Tensor, " head"] | None = None

    @property
    def precision(self) -> torch.dtype:
        """What probabilities are computed in: float32, or float64 for a float64 model."""
        return torch.float64 if self.query.dtype == torch.float64 else torch.float32

    def detach(self) -> AttentionCall:
        """The same numbers outside the autograd graph."""
        sinks = None if self.sinks is None else self.sinks.detach()
        query, key, value = self.query.detach(), self.key.detach(), self.value.detach()
        return replace(self, query=query, key=key, value=value, sinks=sinks)

    def row_blocks(self, rows: slice) -> Iterator[slice]:
        """Consecutive parts of ``rows`` whose logits over all columns have bounded size."""
        batch, heads, length, _ = self.query.shape
        size = max(1, min(_BLOCK_ROWS, _BLOCK_ELEMENTS // (batch * heads * length)))
        for start in range(rows.start, rows.stop, size):
            yield slice(start, min(start + size, rows.stop))

    def probabilities(self, rows: slice, columns: slice) -> Float[Tensor, "batch head block_row block_column"]:
        """``A[i,j] = exp(logit[i,j] - lse_i)``: the softmax runs over every column, the block is what is returned."""
        visible = self.query.shape[2] if self.mask is not None else max(rows.stop, columns.stop)
        query, key = self.query[:, :, rows].to(self.precision), self.key[:, :, :visible].to(self.precision)
        logits = grouped_matmul(query * self.scale, key)
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        logits = self._masked(logits, rows)
        lse = torch.logsumexp(logits, dim=-1, keepdim=True)
        if self.sinks is not None:
            lse = torch.logaddexp(lse, self.sinks.to(lse).view(1, -1, 1, 1))
        return torch.exp(logits[..., columns] - lse)

    def output(self) -> Float[Tensor, "batch head row v"]:
        """``O = A V``, differentiable; what is kept for the backward pass is linear in the sequence length."""
        fused = self.softcap is None and self.sinks is None and self.key.shape[-1] == self.value.shape[-1]
        if fused and self.mask is None:
            return self._fused()
        if fused:
            # The fused kernels keep a float copy of an explicit mask in every layer: compute it again instead.
            return _again_in_backward(self._fused)
        blocks = self.row_blocks(slice(0, self.query.shape[2]))
        return torch.cat([_again_in_backward(self._output_rows, rows) for rows in blocks], dim=2)

    def _fused(self) -> Tensor:
        groups = self.query.shape[1] // self.key.shape[1]
        key, value = (part.repeat_interleave(groups, dim=1) if groups > 1 else part for part in (self.key, self.value))
        causal = self.mask is None
        return scaled_dot_product_attention(
            self.query, key, value, attn_mask=self.mask, is_causal=causal, scale=self.scale
        )

    def _output_rows(self, rows: slice) -> Tensor:
        visible = slice(0, self.query.shape[2] if self.mask is not None else rows.stop)
        value = self.value[:, :, visible].to(self.precision)
        return grouped_matmul(self.probabilities(rows, visible), value.mT).to(self.value.dtype)

    def _masked(self, logits: Tensor, rows: slice) -> Tensor:
        if self.mask is None:
            row = torch.arange(rows.start, rows.stop, device=logits.device)
            column = torch.arange(logits.shape[-1], device=logits.device)
            return logits.masked_fill(column[None, :] > row[:, None], -torch.inf)
        mask = self.mask[:, :, rows]
        return logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask.to(logits.dtype)


def grouped_matmul(
    left: Float[Tensor, "batch head row d"], right: Float[Tensor, "batch kv_head column d"]
) -> Float[Tensor, "batch head row column"]:
    """``left @ right.mT`` where several heads share one key-value head, without repeating it."""
    batch, heads, rows, width = left.shape
    kv_heads = right.shape[1]
    product = left.reshape(batch, kv_heads, heads // kv_heads * rows, width) @ right.mT
    return product.view(batch, heads, rows, right.shape[2])


def _again_in_backward(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    if not torch.is_grad_enabled():
        return function(*arguments)
    return cast(Tensor, checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False))


Visit = Callable[[int, AttentionCall, Tensor], Tensor]
"""``visit(layer, call, output [batch head row v]) -> output``: sees one attention layer, may replace its output."""

_Observe = Callable[[torch.nn.Module, dict[str, Any], AttentionCall, Tensor], Tensor]
_OBSERVE: ContextVar[_Observe | None] = ContextVar("dpc_capture_observe", default=None)


@contextmanager
def capture_attention(model: PreTrainedModel, layers: Collection[int] | None, visit: Visit) -> Iterator[None]:
    """Call ``visit`` for each attention layer in ``layers`` (None: every one) of the forward pass made inside.

    The model's attention implementation is restored on exit, also after an error. One capture of a model at a time.

    Raises:
        UserError: attention that cannot be reproduced, or a layer of ``layers`` not seen exactly once.
        RuntimeError: the model is already being captured.
    """
    seen: list[int] = []

    def record(module: torch.nn.Module, keywords: dict[str, Any], call: AttentionCall, output: Tensor) -> Tensor:
        layer = _layer_index(module)
        if layers is not None and layer not in layers:
            return output
        seen.append(layer)
        return visit(layer, call, output)

    with _observed(model, record):
        yield
    _require_once(model, seen, layers)


@contextmanager
def _observed(model: PreTrainedModel, observe: _Observe) -> Iterator[None]:
    _require_interface(model)
    AttentionInterface.register(IMPLEMENTATION, _attention)
    AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
    with _implementation(model, IMPLEMENTATION):
        token = _OBSERVE.set(observe)
        try:
            yield
        finally:
            _OBSERVE.reset(token)


def check_reproduces(lm: FrozenLM) -> None:
    """Compare our attention with the model's own eager one: each layer on equal inputs, and a whole forward pass.

    One short random sequence, once per model object: a model that has passed is not checked again.

    Raises:
        UserError: the attention of this architecture cannot be reproduced; or the model is in training mode.
    """
    model = lm.model
    if model.training:
        raise UserError(f"model {lm.name!r}: training mode drops values at random, expected none; call model.eval()")
    if model in _REPRODUCED:
        return
    _require_interface(model)
    attention: dict[int, Tensor] = {}

    def compare(module: torch.nn.Module, keywords: dict[str, Any], call: AttentionCall, output: Tensor) -> Tensor:
        layer = _layer_index(module)
        _require_equal_to_eager(lm, layer, module, keywords, call)
        attention[layer] = _whole(call)
        return output

    ids = torch.randint(lm.vocab_size, (1, min(_CHECK_LENGTH, lm.context)), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(False), torch.no_grad():
        embedded = lm.embed(ids.to(lm.device))
        with _observed(model, compare):
            logits = model(inputs_embeds=embedded, use_cache=False).logits
        with _implementation(model, "eager"):
            own = model(inputs_embeds=embedded, use_cache=False, output_attentions=True)
    own_attention = [layer for layer in own.attentions or () if layer is not None]
    if len(own_attention) != len(attention):
        seen = f"{len(attention)} attention layers seen where the model itself reports {len(own_attention)}"
        raise UserError(f"model {lm.name!r}: {seen}; {_MEND}")
    tolerance = _PASS_TOLERANCE.get(lm.dtype, _PASS_TOLERANCE_16_BITS)
    for index, layer in enumerate(sorted(attention)):
        _require_equal(lm, f"attention of layer {layer}", attention[layer], own_attention[index], tolerance)
    _require_equal(lm, "the logits", logits, own.logits, tolerance)
    _REPRODUCED.add(model)


# Models that passed, held weakly: the check is a property of a model object and dies with it.
_REPRODUCED: weakref.WeakSet[PreTrainedModel] = weakref.WeakSet()


def _require_equal_to_eager(
    lm: FrozenLM, layer: int, module: torch.nn.Module, keywords: dict[str, Any], call: AttentionCall
) -> None:
    """Our probabilities and output against the eager function that stands beside the attention class."""
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if eager is None:
        raise UserError(f"{type(module).__name__} has no eager attention to be compared with; {_MEND}")
    query, key, value = (part.to(call.precision) for part in (call.query, call.key, call.value))
    call = replace(call, query=query, key=key, value=value)
    length = query.shape[2]
    visible = torch.zeros(1, 1, length, length, dtype=query.dtype, device=query.device)
    mask = call._masked(visible, slice(0, length)).clamp(min=torch.finfo(query.dtype).min)
    output, attention = eager(module, query, key, value, mask, **keywords)
    _require_equal(lm, f"attention of layer {layer}", _whole(call), attention, _LAYER_TOLERANCE)
    _require_equal(lm, f"output of layer {layer}", call.output(), output.transpose(1, 2), _LAYER_TOLERANCE)


def _whole(call: AttentionCall) -> Tensor:
    rows = slice(0, call.query.shape[2])
    return call.probabilities(rows, rows)


def _require_equal(lm: FrozenLM, what: str, ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    precision = torch.promote_types(ours.dtype, torch.float32)
    ours, theirs = ours.to(precision), theirs.to(device=ours.device, dtype=precision)
    error = float((ours - theirs).norm() / theirs.norm()) if ours.shape == theirs.shape else math.inf
    # Written so that a NaN is refused too.
    if not error <= tolerance:
        raise UserError(
            f"model {lm.name!r}: {what} differs from the model's own by {error:.1e} where at most {tolerance:.0e} was "
            f"expected, so its saliency would be wrong; {_MEND}"
        )


def _layer_index(module: torch.nn.Module) -> int:
    layer = getattr(module, "layer_idx", None)
    if not isinstance(layer, int):
        raise UserError(f"{type(module).__name__} does not say which layer it is (layer_idx); {_MEND}")
    return layer


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **keywords: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls in place of its own; its signature is the interface's."""
    call = _read_call(module, query, key, value, attention_mask, keywords)
    output = call.output()
    observe = _OBSERVE.get()
    if observe is not None:
        output = observe(module, keywords, call, output)
    return output.transpose(1, 2).contiguous(), None


def _read_call(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, keywords: dict[str, Any]
) -> AttentionCall:
    given = {name: value for name, value in keywords.items() if value is not None and name not in _WITHOUT_EFFECT}
    scale, softcap, sinks = given.pop("scaling", None), given.pop("softcap", None), given.pop("s_aux", None)
    dropout, window = given.pop("dropout", 0.0), given.pop("sliding_window", None)
    causal = given.pop("is_causal", getattr(module, "is_causal", True))
    name = type(module).__name__
    if given:
        raise UserError(f"{name} uses {', '.join(sorted(given))}, which cannot be reproduced exactly; {_MEND}")
    if dropout:
        raise UserError(f"{name} drops attention at random (dropout {dropout}), expected none; call model.eval()")
    length = query.shape[2]
    if key.shape[2] != length:
        raise UserError(f"{name} reads {key.shape[2]} positions from {length}, expected one whole sequence; {_MEND}")
    if mask is None and (not causal or (window is not None and length > window)):
        raise UserError(f"{name} gave no mask where its attention is not plainly causal; {_MEND}")
    scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
    return AttentionCall(query, key, value, mask, scale, None if softcap is None else float(softcap), sinks)


def _require_interface(model: PreTrainedModel) -> None:
    name = type(model).__name__
    if not getattr(model, "_supports_attention_backend", False):
        raise UserError(f"{name} has no exchangeable attention (AttentionInterface), so it cannot be traced; {_MEND}")
    if model.config.is_encoder_decoder:
        raise UserError(f"{name} is an encoder-decoder, expected a causal language model; {_MEND}")


def _require_once(model: PreTrainedModel, seen: list[int], layers: Collection[int] | None) -> None:
    name = type(model).__name__
    repeated = sorted({layer for layer in seen if seen.count(layer) > 1})
    if repeated:
        raise UserError(f"{name} ran attention layer {repeated[0]} more than once in a pass; {_MEND}")
    missing = sorted(set(layers or ()) - set(seen))
    if missing:
        raise UserError(f"{name} has no softmax attention in layers {missing}; leave them out of the layers to trace")


@contextmanager
def _implementation(model: PreTrainedModel, name: str) -> Iterator[None]:
    before = [(config, config._attn_implementation) for config in _configs(model)]
    if any(implementation == IMPLEMENTATION for _, implementation in before):
        raise RuntimeError(f"{type(model).__name__} is already being captured")
    try:
        model.set_attn_implementation(name)
        yield
    finally:
        # Setting a config sets its sub-configs too, so parents come first.
        for config, implementation in before:
            config._attn_implementation = implementation


def _configs(model: PreTrainedModel) -> list[PreTrainedConfig]:
    """Every config that says which attention is used, each once, parents before their sub-configs."""
    queue = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    found: dict[int, PreTrainedConfig] = {}
    while queue:
        config = queue.pop(0)
        if id(config) in found:
            continue
        found[id(config)] = config
        queue = [sub for key in config.sub_configs if (sub := getattr(config, key, None)) is not None] + queue
    return list(found.values())
