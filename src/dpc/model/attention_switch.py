"""A context manager that changes the attention function of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedConfig, PreTrainedModel


class AttentionImplementation:
    """The attention function of one model. It collects the configs that name it once, because that is slow.

    configs: each once, parents before their sub-configs.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.configs = _configs(model)

    def in_use(self) -> set[str | None]:
        """The names of the implementations that parts of the model use now."""
        return {config._attn_implementation for config in self.configs}

    @contextmanager
    def switched(self, name: str) -> Iterator[None]:
        """Use the registered implementation ``name``. Restored on exit, also on an error."""
        before = [(config, config._attn_implementation) for config in self.configs]
        try:
            for config in self.configs:
                config._attn_implementation = name
            yield
        finally:
            # Setting a config also sets its sub-configs, so parents come first.
            for config, implementation in before:
                config._attn_implementation = implementation


def _configs(model: PreTrainedModel) -> list[PreTrainedConfig]:
    """Every config that names an attention implementation, each once, parents before their sub-configs."""
    queue = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    found: dict[int, PreTrainedConfig] = {}
    while queue:
        config = queue.pop(0)
        if id(config) in found:
            continue
        found[id(config)] = config
        queue = [sub for key in config.sub_configs if (sub := getattr(config, key, None)) is not None] + queue
    return list(found.values())
