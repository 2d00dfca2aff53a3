"""States of layers that are not keys and values: convolutions, state space models, linear attention."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from inspect import signature
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import (
    DummyLayer,
    DynamicLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

from dpc.model.lm import FrozenLM

Keeping = Literal["keys", "states", "own"]
"""Where a model keeps what earlier positions leave.

keys: keys and values only. states: also convolution or recurrent states, all in transformers' ``Cache``. own: states in
a cache class of its own, or in its modules.
"""

StateName = tuple[int, str, int]
"""``(layer, "conv_states" or "recurrent_states", index in the layer)``."""

States = Mapping[StateName, Float[Tensor, "row ..."]]
"""The states of all layers, each of one shape for every row, whatever its length."""

_CACHE_ARGUMENTS = ("past_key_values", "cache_params", "state")
# The result belongs to the model object.
_KEEPING: weakref.WeakKeyDictionary[PreTrainedModel, Keeping] = weakref.WeakKeyDictionary()


def keeps_states(model: PreTrainedModel) -> bool:
    """Whether positions leave more than keys and values. By its configuration: works without weights."""
    stateful = bool(getattr(model, "_is_stateful", False))
    return stateful or any(True for _ in _state_layers(DynamicCache(config=model.config)))


def keeping(lm: FrozenLM) -> Keeping:
    """Where ``lm`` keeps what earlier positions leave, found by one pass of two tokens for each model object."""
    if lm.model not in _KEEPING:
        _KEEPING[lm.model] = _probed(lm) if keeps_states(lm.model) else "keys"
    return _KEEPING[lm.model]


@torch.no_grad()
def _probed(lm: FrozenLM) -> Keeping:
    cache = DynamicCache(config=lm.model.config)
    try:
        lm.model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=lm.device), **cache_arguments(lm.model, cache))
    except (ValueError, TypeError, AttributeError):
        # The model takes a cache class of its own.
        return "own"
    layers = [layer for _, layer in _state_layers(cache)]
    return "states" if layers and all(all(layer.has_previous_state.values()) for layer in layers) else "own"


def cache_name(model: PreTrainedModel) -> str:
    """The argument of the model's forward function that takes the cache; its output has the same name."""
    taken = signature(model.forward).parameters
    return next((name for name in _CACHE_ARGUMENTS if name in taken), _CACHE_ARGUMENTS[0])


def cache_arguments(model: PreTrainedModel, cache: Any) -> dict[str, Any]:
    """Keyword arguments for a pass with ``cache`` (None: one that the model makes)."""
    return {"use_cache": True} | ({} if cache is None else {cache_name(model): cache})


def accepted(model: PreTrainedModel, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments among ``keywords`` that the model's forward function names."""
    taken = signature(model.forward).parameters
    return {name: value for name, value in keywords.items() if name in taken}


def full_cache(model: PreTrainedModel) -> Cache:
    """An empty cache that keeps all positions: masks apply sliding windows."""
    if not keeps_states(model):
        return DynamicCache()
    return Cache(layers=[full_layer(layer) for layer in DynamicCache(config=model.config).layers])


def full_layer(layer: Any) -> Any:
    """A layer like ``layer`` of a cache, without a sliding window."""
    if isinstance(layer, DummyLayer):
        return DummyLayer()
    if not isinstance(layer, LinearAttentionCacheLayerMixin):
        return DynamicLayer()
    both = isinstance(layer, (LinearAttentionAndFullAttentionLayer, LinearAttentionAndSlidingWindowAttentionLayer))
    return (LinearAttentionAndFullAttentionLayer if both else LinearAttentionLayer)(layer.number_of_states)


def states_of(cache: Cache) -> dict[StateName, Tensor]:
    """The states in ``cache``, one entry for each."""
    return {
        (number, kind, index): state
        for number, layer in _state_layers(cache)
        for kind in ("conv_states", "recurrent_states")
        for index, state in getattr(layer, kind).items()
        if state is not None
    }


def set_states(cache: Cache, states: States | None) -> None:
    """Continue ``cache`` from ``states``, which passes change in place. None: from the start of a sequence."""
    layers = dict(_state_layers(cache))
    for layer in layers.values():
        # Not ``layer.reset()``, which would write zeros into the tensors of the pass before.
        for index in range(layer.number_of_states):
            layer.conv_states[index] = layer.recurrent_states[index] = None
            layer.is_conv_states_initialized[index] = layer.is_recurrent_states_initialized[index] = False
            layer.has_previous_state[index] = states is not None
    for (number, kind, index), state in (states or {}).items():
        layer = layers[number]
        getattr(layer, kind)[index] = state
        getattr(layer, f"is_{kind}_initialized")[index] = True
        layer.dtype, layer.device = state.dtype, state.device
        if kind == "conv_states":
            layer.conv_kernel_size[index] = state.shape[-1]


def _state_layers(cache: Cache) -> Iterator[tuple[int, Any]]:
    """The number and cache of each layer that has states beside keys and values, or instead of them."""
    for number, layer in enumerate(cache.layers):
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            yield number, layer
