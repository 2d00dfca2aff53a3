"""The decoder blocks of a model, and a context manager that replaces their forward functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from inspect import unwrap
from typing import Any

from torch import nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from dpc.errors import UserError

Forward = Callable[..., Any]
Around = Callable[[int, Forward], Forward]
"""``around(layer, forward) -> forward``: the function that replaces a block's own ``forward``."""


def decoder_blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The blocks of a causal language model, first to last.

    Raises ``UserError`` unless the model has exactly one list with one module per layer.
    """
    layers = int(model.config.get_text_config().num_hidden_layers)
    # What a class calls its decoder may be its head (ModernBERT).
    outer = _outer_lists(model.get_decoder(), layers) or _outer_lists(model, layers)
    if len(outer) != 1:
        raise UserError(
            f"{type(model).__name__}: {len(outer)} lists of {layers} modules, expected one list of decoder blocks; "
            "choose a model of another architecture"
        )
    return list(outer[0])


def _outer_lists(root: nn.Module, length: int) -> list[nn.ModuleList]:
    lists = [module for module in root.modules() if isinstance(module, nn.ModuleList) and len(module) == length]
    return [each for each in lists if not any(each is not other and _holds(other, each) for other in lists)]


def _holds(outer: nn.Module, inner: nn.Module) -> bool:
    return any(module is inner for module in outer.modules())


@contextmanager
def replaced_forward(model: PreTrainedModel, around: Around) -> Iterator[None]:
    """Replace the forward function of every block by ``around(layer, forward)``. Restored on exit, also on an error."""
    blocks = decoder_blocks(model)
    try:
        for layer, block in enumerate(blocks):
            own = block.forward
            # On the instance: it hides the method of the class until it is deleted.
            block.__dict__["forward"] = around(layer, own)
        yield
    finally:
        for block in blocks:
            block.__dict__.pop("forward", None)


_RUNNING: ContextVar[int | None] = ContextVar("dpc_running_block", default=None)


def running_block() -> int | None:
    """The block that runs now, where it is known: inside ``as_block`` and ``tracked_blocks``."""
    return _RUNNING.get()


@contextmanager
def as_block(layer: int) -> Iterator[None]:
    """Inside, block ``layer`` runs."""
    token = _RUNNING.set(layer)
    try:
        yield
    finally:
        _RUNNING.reset(token)


@contextmanager
def tracked_blocks(model: PreTrainedModel) -> Iterator[None]:
    """Inside, ``running_block`` is known if an attention module does not record its block: blocks share it (Zamba)."""
    with ExitStack() as stack:
        found = enumerate(_attention_of_blocks(model))
        if any(getattr(module, "layer_idx", None) != layer for layer, modules in found for module in modules):
            stack.enter_context(as_block(-1))
            for layer, block in enumerate(decoder_blocks(model)):
                handle = block.register_forward_pre_hook(lambda *_, layer=layer: (_RUNNING.set(layer), None)[1])
                stack.callback(handle.remove)
        yield


def softmax_blocks(model: PreTrainedModel) -> tuple[int, ...]:
    """The blocks with an attention module that calls transformers' ``AttentionInterface``, by its source code.

    Runs nothing, so it works for a model without weights. ``eager_check.softmax_layers`` says what really ran.
    """
    return tuple(layer for layer, found in enumerate(_attention_of_blocks(model)) if found)


def has_states(model: PreTrainedModel) -> bool:
    """Whether a block keeps more than keys and values: the state of a convolution, a recurrence or linear attention.

    By source code and configuration: runs nothing.
    """
    every = len(softmax_blocks(model)) == int(model.config.get_text_config().num_hidden_layers)
    layers = DynamicCache(config=model.config).layers
    return not every or any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)


def _attention_of_blocks(model: PreTrainedModel) -> list[list[nn.Module]]:
    """The attention modules in each block; nothing where the model has no list of blocks."""
    try:
        blocks = decoder_blocks(model)
    except UserError:
        return []
    return [[module for module in block.modules() if _calls_interface(type(module))] for block in blocks]


def _calls_interface(kind: type[nn.Module]) -> bool:
    code = getattr(unwrap(kind.forward), "__code__", None)
    return code is not None and "ALL_ATTENTION_FUNCTIONS" in code.co_names
