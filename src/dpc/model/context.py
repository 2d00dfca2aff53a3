"""How many tokens a sequence may have, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

# Tokenizers without a limit state 1e30. A position must fit an integer of the model.
_NO_LIMIT = 2**20


@dataclass(frozen=True, slots=True)
class Context:
    """The longest sequence in tokens, soft prompt included.

    reason: None where it is what the model can represent; else why longer sequences, which it can represent as well,
    would not be computed exactly.
    """

    tokens: int
    reason: str | None = None

    def __str__(self) -> str:
        return f"{self.tokens} tokens" + (f" ({self.reason})" if self.reason else "")


def context_of(config: PreTrainedConfig, otherwise: int) -> Context:
    """The context of a language model with this configuration; ``otherwise`` tokens where it states none.

    transformers chooses the frequencies of rotary embeddings of type longrope and dynamic by the largest position of a
    batch. Past the length at which they change, a row would change its shorter neighbours, and keys that were cached
    before are not rotated again. Up to that length, every row is what it would be alone.
    """
    stated = getattr(config, "max_position_embeddings", None)
    context = Context(min(otherwise, _NO_LIMIT) if stated is None else int(stated))
    for parameters in _rope_parameters(getattr(config, "rope_parameters", None)):
        kind = str(parameters.get("rope_type", parameters.get("type")))
        if kind == "longrope":
            field, length = "original_max_position_embeddings", parameters.get("original_max_position_embeddings")
        elif "dynamic" in kind:
            field, length = "max_position_embeddings", stated
        else:
            continue
        # A model that is longer than its longrope's original length changes its frequencies; others never do.
        if length is not None and (length < context.tokens or "dynamic" in kind):
            context = Context(
                min(int(length), context.tokens),
                f"{field}: past it, rope_type {kind} changes the rotary frequencies of all rows of a batch",
            )
    floor = getattr(config, "floor_scale", None)
    if getattr(config, "attn_temperature_tuning", None) and floor and floor <= context.tokens:
        # Scaled are positions p with p + 1 >= floor_scale.
        reason = "floor_scale: past it, attn_temperature_tuning scales queries by their place in the batch"
        context = Context(int(floor) - 1, reason)
    kept = getattr(config, "keep_window_size", None)
    if kept and kept < context.tokens:
        reason = "keep_window_size: past it, tokens are masked by their values, and padding counts among them"
        context = Context(int(kept), reason)
    return context


def without_temperature(model: nn.Module) -> None:
    """Leave out the attention temperature of Llama 4, which is 1 within the context that ``context_of`` gives.

    The model counts places in the cache in place of positions, so padding and other rows would change it.
    """
    for module in model.modules():
        if getattr(module, "attn_temperature_tuning", None):
            module.__dict__["attn_temperature_tuning"] = False


def _rope_parameters(given: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The parameters of each kind of rotary embedding: one, or one for each type of layer."""
    if not given:
        return
    if "rope_type" in given or "type" in given:
        yield given
    else:
        yield from (each for each in given.values() if isinstance(each, Mapping))
