"""The KV cache of a soft prompt: a prefix that is computed once and shared by all instances."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from dpc.model.lm import FrozenLM
from dpc.prompt.soft_prompt import SoftPrompt


@dataclass(frozen=True, slots=True, eq=False)
class PromptPrefix:
    """Keys and values of a soft prompt at positions ``0 .. prompt - 1``, one entry per layer."""

    keys: tuple[Float[Tensor, "kv_head prompt d"], ...]
    values: tuple[Float[Tensor, "kv_head prompt v"], ...]

    def __len__(self) -> int:
        return self.keys[0].shape[1]

    def cut(self, positions: int) -> PromptPrefix:
        """The first ``positions``."""
        keys, values = (tuple(part[:, :positions] for part in parts) for parts in (self.keys, self.values))
        return PromptPrefix(keys, values)


@torch.no_grad()
def compute_prefixes(lm: FrozenLM, prompts: Float[Tensor, "batch prompt d"]) -> list[PromptPrefix]:
    """Prefixes of soft prompts of equal length, in one forward pass. Keys are rotated, as attention reads them."""
    # Without the config, layers with a sliding window keep all positions too. Their masks apply the window.
    cache = DynamicCache()
    lm.model(inputs_embeds=prompts.to(lm.device, lm.dtype), past_key_values=cache, use_cache=True, logits_to_keep=1)
    layers = [(layer.keys, layer.values) for layer in cache.layers if isinstance(layer, DynamicLayer)]
    return [
        PromptPrefix(
            *(tuple(states[row] for states in part if states is not None) for part in zip(*layers, strict=True))
        )
        for row in range(len(prompts))
    ]


class PrefixStore:
    """Cache of the last ``capacity`` prefixes used, or of all in one call of ``get`` if these are more."""

    def __init__(self, lm: FrozenLM, capacity: int) -> None:
        self.computed = 0
        self._lm, self._capacity = lm, capacity
        self._kept: OrderedDict[str, PromptPrefix] = OrderedDict()

    def get(self, prompts: Sequence[SoftPrompt]) -> list[PromptPrefix]:
        """The prefix of each prompt. Missing ones are computed, those of equal length in one forward pass."""
        missing: dict[int, dict[str, SoftPrompt]] = {}
        for prompt in prompts:
            if prompt.sha256 not in self._kept:
                missing.setdefault(len(prompt.vectors), {})[prompt.sha256] = prompt
        for group in missing.values():
            made = compute_prefixes(self._lm, torch.stack([prompt.vectors for prompt in group.values()]))
            self._kept.update(zip(group, made, strict=True))
            self.computed += len(made)
        found = []
        for prompt in prompts:
            self._kept.move_to_end(prompt.sha256)
            found.append(self._kept[prompt.sha256])
        while len(self._kept) > self._capacity:
            self._kept.popitem(last=False)
        return found
