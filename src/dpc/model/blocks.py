"""The decoder blocks of a model, and a context manager that replaces their forward functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from dpc.errors import UserError

Forward = Callable[..., Any]
Around = Callable[[int, Forward], Forward]
"""``around(layer, forward) -> forward``: the function that replaces a block's own ``forward``."""


def decoder_blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The blocks of a causal language model, first to last.

    Raises ``UserError`` unless the model has exactly one list with one module per layer.
    """
    layers = int(model.config.get_text_config().num_hidden_layers)
    decoder = model.get_decoder()
    lists = [module for module in decoder.modules() if isinstance(module, nn.ModuleList) and len(module) == layers]
    outer = [each for each in lists if not any(each is not other and _holds(other, each) for other in lists)]
    if len(outer) != 1:
        raise UserError(
            f"{type(model).__name__}: {len(outer)} lists of {layers} modules, expected one list of decoder blocks; "
            "choose a model of another architecture"
        )
    return list(outer[0])


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


def pass_through(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    """A block that returns its input."""
    return hidden_states
