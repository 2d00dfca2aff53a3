"""Observe every attention layer of a forward pass: queries, keys, values, mask and output, but no attention matrix.

Inside a context manager the model computes attention with a function of ours, registered with transformers'
``AttentionInterface``. Attention that this function cannot compute exactly is refused.
https://huggingface.co/docs/transformers/en/attention_interface
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from dpc.errors import UserError
from dpc.model.attention_call import AttentionCall
from dpc.model.attention_switch import AttentionImplementation
from dpc.model.blocks import running_block, tracked_blocks
from dpc.model.position_mask import position_mask

IMPLEMENTATION = "dpc_capture"
# The end of every message about an architecture that cannot be used.
SUPPORTED = "choose a model of another architecture; docs/models.md lists those that work"

# Keywords that models pass to attention functions and that do not change the attention.
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

Visit = Callable[[int, AttentionCall, Tensor], Tensor]
"""``visit(layer, call, output [batch head row v]) -> output``: sees one attention layer, may replace its output."""

Observe = Callable[[torch.nn.Module, dict[str, Any], AttentionCall, Tensor], Tensor]
"""``observe(module, keywords, call, output [batch head row v]) -> output``: the same, with the arguments as given."""

_OBSERVE: ContextVar[Observe | None] = ContextVar("dpc_capture_observe", default=None)


@contextmanager
def capture_attention(model: PreTrainedModel, layers: Collection[int] | None, visit: Visit) -> Iterator[None]:
    """Call ``visit`` for each attention layer in ``layers`` (None: every one) of the forward pass inside the block.

    The model's attention implementation is restored on exit, also after an error. One capture of a model at a time.

    Raises:
        UserError: attention that cannot be reproduced, or a layer of ``layers`` not seen exactly once.
        RuntimeError: the model is already being captured.
    """
    seen: list[int] = []

    def record(module: torch.nn.Module, keywords: dict[str, Any], call: AttentionCall, output: Tensor) -> Tensor:
        layer = layer_index(module)
        if layers is not None and layer not in layers:
            return output
        seen.append(layer)
        return visit(layer, call, output)

    with observed_attention(model, record):
        yield
    _require_once(model, seen, layers)


@contextmanager
def observed_attention(model: PreTrainedModel, observe: Observe) -> Iterator[None]:
    """Call ``observe`` for every attention layer, in however many forward passes run inside the block.

    Raises ``UserError`` for attention that cannot be exchanged, and ``RuntimeError`` for a model already captured.
    """
    require_interface(model)
    AttentionInterface.register(IMPLEMENTATION, _attention)
    AttentionMaskInterface.register(IMPLEMENTATION, _mask)
    implementation = AttentionImplementation(model)
    if IMPLEMENTATION in implementation.in_use():
        raise RuntimeError(f"{type(model).__name__} is already being captured")
    with implementation.switched(IMPLEMENTATION), tracked_blocks(model):
        token = _OBSERVE.set(observe)
        try:
            yield
        finally:
            _OBSERVE.reset(token)


def layer_index(module: torch.nn.Module) -> int:
    """The layer that an attention module belongs to. Raises ``UserError`` where the module does not record it."""
    running = running_block()
    layer = getattr(module, "layer_idx", None) if running is None else running
    if not isinstance(layer, int):
        raise UserError(f"{type(module).__name__} does not record its layer (layer_idx); {SUPPORTED}")
    return layer


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **keywords: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls; its signature is the interface's."""
    call = read_call(module, query, key, value, attention_mask, keywords)
    output, call = call.attend()
    observe = _OBSERVE.get()
    if observe is not None:
        output = observe(module, keywords, call, output)
    return output.transpose(1, 2).contiguous(), None


def _mask(*, q_length: int, kv_length: int, q_offset: int | Tensor, kv_offset: int, **keywords: Any) -> Tensor | None:
    """None for plain causal attention of the last ``q_length`` positions; otherwise the model's mask, True to attend.

    The library returns None only for as many rows as columns, so it is called for the whole sequence.
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
    """The arguments of an attention function as a value. Raises ``UserError`` for arguments that would be ignored."""
    given = {name: value for name, value in keywords.items() if value is not None and name not in _WITHOUT_EFFECT}
    scale, softcap, sinks = given.pop("scaling", None), given.pop("softcap", None), given.pop("s_aux", None)
    dropout, window = given.pop("dropout", 0.0), given.pop("sliding_window", None)
    causal = given.pop("is_causal", getattr(module, "is_causal", True))
    name = type(module).__name__
    if given:
        raise UserError(f"{name} uses {', '.join(sorted(given))}, which cannot be reproduced exactly; {SUPPORTED}")
    if dropout:
        raise UserError(f"{name} drops attention at random (dropout {dropout}), expected none; call model.eval()")
    heads, groups = query.shape[1], key.shape[1]
    if heads % groups:
        # Kernels on a CPU divide by the quotient, and end the process where it is zero.
        raise UserError(f"{name} has {heads} heads and {groups} of keys, expected a multiple of these; {SUPPORTED}")
    length = key.shape[2]
    if length < query.shape[2]:
        raise UserError(f"{name} attends to {length} positions from {query.shape[2]}, expected no fewer; {SUPPORTED}")
    if mask is None and (not causal or (window is not None and length > window)):
        raise UserError(f"{name} gave no mask although its attention is not plainly causal; {SUPPORTED}")
    scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
    return AttentionCall(query, key, value, mask, scale, None if softcap is None else float(softcap), sinks)


def require_interface(model: PreTrainedModel) -> None:
    """Raise ``UserError`` unless ``model`` is a causal language model."""
    name = type(model).__name__
    if model.config.is_encoder_decoder:
        raise UserError(f"{name} is an encoder-decoder, expected a causal language model; {SUPPORTED}")


def _require_once(model: PreTrainedModel, seen: list[int], layers: Collection[int] | None) -> None:
    name = type(model).__name__
    repeated = sorted({layer for layer in seen if seen.count(layer) > 1})
    if repeated:
        raise UserError(f"{name} ran attention layer {repeated[0]} more than once in a pass; {SUPPORTED}")
    missing = sorted(set(layers or ()) - set(seen))
    if missing:
        raise UserError(f"{name} has no softmax attention in layers {missing}; leave them out of the layers to trace")
