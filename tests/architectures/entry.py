"""``Architecture``: one configuration of a tiny model, and the checkpoints that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import cycle, islice
from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

HIDDEN, HEADS, KV_HEADS, CONTEXT, WINDOW = 32, 4, 2, 512, 10
# Weights this large make attention far from uniform, so that scale, soft cap, window and grouping all matter.
WEIGHT_STD = 0.25
_SIZES: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": CONTEXT,
    "initializer_range": WEIGHT_STD,
}


@dataclass(frozen=True, slots=True)
class Cycle:
    """A value for each layer: ``kinds`` over and over."""

    kinds: tuple[Any, ...]

    def of(self, layers: int) -> list[Any]:
        return list(islice(cycle(self.kinds), layers))


@dataclass(frozen=True, slots=True)
class Architecture:
    """One configuration of a tiny model.

    model_type: as in config.json. models: checkpoints that people know. own: keywords beside the common sizes, a
    ``Cycle`` for values by layer, an ``Architecture`` for the configuration of a part. layers: enough for every kind of
    layer. small_weights: the architecture does not draw its weights with ``initializer_range``.
    """

    model_type: str
    models: str
    own: Mapping[str, Any] = field(default_factory=dict)
    layers: int = 3
    small_weights: bool = False

    def config(self, vocab: int, layers: int | None = None) -> PreTrainedConfig:
        """The configuration, with ``vocab`` tokens, of which 0 ends an answer and 1 is padding."""
        kind, count = CONFIG_MAPPING[self.model_type], layers or self.layers
        known = {each.name for each in fields(kind)} | set(kind.attribute_map)
        sizes = {name: value for name, value in _SIZES.items() if name in known}
        own = {name: _value(value, vocab, count) for name, value in self.own.items()}
        tokens = {"vocab_size": vocab, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}
        config = kind(**tokens | {"num_hidden_layers": count} | sizes | own)
        assert isinstance(config, PreTrainedConfig)
        return config


def _value(value: Any, vocab: int, layers: int) -> Any:
    if isinstance(value, Architecture):
        return value.config(vocab, layers)
    return value.of(layers) if isinstance(value, Cycle) else value


def by_layer(*kinds: Any) -> Cycle:
    return Cycle(kinds)
