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
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from dpc.errors import UserError
from dpc.model.attention_call import AttentionCall
from dpc.model.attention_switch import AttentionImplementation
from dpc.model.lm import FrozenLM
from dpc.model.position_mask import position_mask

IMPLEMENTATION = "dpc_capture"
_MEND = "choose a model of another architecture (Llama, Mistral, Qwen, Gemma2, GPT-2, GPT-NeoX, Phi-3 and OLMo2 work)"

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
    AttentionMaskInterface.register(IMPLEMENTATION, _mask)
    implementation = AttentionImplementation(model)
    if IMPLEMENTATION in implementation.in_use():
        raise RuntimeError(f"{type(model).__name__} is already being captured")
    with implementation.switched(IMPLEMENTATION):
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
        with AttentionImplementation(model).switched("eager"):
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
    mask = call.additive_mask(call.rows, call.columns).clamp(min=torch.finfo(query.dtype).min)
    output, attention = eager(module, query, key, value, mask, **keywords)
    _require_equal(lm, f"attention of layer {layer}", _whole(call), attention, _LAYER_TOLERANCE)
    _require_equal(lm, f"output of layer {layer}", call.output(), output.transpose(1, 2), _LAYER_TOLERANCE)


def _whole(call: AttentionCall) -> Tensor:
    return call.probabilities(call.rows, call.columns)


def _require_equal(lm: FrozenLM, what: str, ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    precision = torch.promote_types(ours.dtype, torch.float32)
    ours, theirs = ours.to(precision), theirs.to(device=ours.device, dtype=precision)
    error = float((ours - theirs).norm() / theirs.norm()) if ours.shape == theirs.shape else math.inf
    # Written so that a NaN is refused too.
    if not error <= tolerance:
        raise UserError(
            f"model {lm.name!r}: {what} differs from the model's own by {error:.1e} where at most {tolerance:.0e} was "
            f"expected, so results would be wrong; {_MEND}"
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
    call = read_call(module, query, key, value, attention_mask, keywords)
    output, call = call.attend()
    observe = _OBSERVE.get()
    if observe is not None:
        output = observe(module, keywords, call, output)
    return output.transpose(1, 2).contiguous(), None


def _mask(*, q_length: int, kv_length: int, q_offset: int | Tensor, kv_offset: int, **keywords: Any) -> Tensor | None:
    """None where rows at the end of the columns read causally, the model's mask elsewhere, True where a row may read.

    The library says None only where there are as many rows as columns, so it is asked for the whole sequence.
    """
    if isinstance(q_offset, Tensor):
        return position_mask(kv_length=kv_length, q_offset=q_offset, **keywords)
    if q_offset + q_length != kv_offset + kv_length:
        return sdpa_mask(q_length=q_length, kv_length=kv_length, q_offset=q_offset, kv_offset=kv_offset, **keywords)
    mask = sdpa_mask(q_length=kv_length, kv_length=kv_length, q_offset=kv_offset, kv_offset=kv_offset, **keywords)
    return None if mask is None else mask[:, :, -q_length:]


def read_call(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, keywords: dict[str, Any]
) -> AttentionCall:
    """What a model handed to its attention function, as a value. Raises ``UserError`` for what we would ignore."""
    given = {name: value for name, value in keywords.items() if value is not None and name not in _WITHOUT_EFFECT}
    scale, softcap, sinks = given.pop("scaling", None), given.pop("softcap", None), given.pop("s_aux", None)
    dropout, window = given.pop("dropout", 0.0), given.pop("sliding_window", None)
    causal = given.pop("is_causal", getattr(module, "is_causal", True))
    name = type(module).__name__
    if given:
        raise UserError(f"{name} uses {', '.join(sorted(given))}, which cannot be reproduced exactly; {_MEND}")
    if dropout:
        raise UserError(f"{name} drops attention at random (dropout {dropout}), expected none; call model.eval()")
    length = key.shape[2]
    if length < query.shape[2]:
        raise UserError(f"{name} reads {length} positions from {query.shape[2]}, expected no fewer; {_MEND}")
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
