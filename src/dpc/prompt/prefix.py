"""What a soft prompt leaves in the cache: a prefix that is computed once and shared by all instances."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from dpc.model.lm import FrozenLM
from dpc.model.recurrent import States, accepted, cache_arguments, full_cache, states_of
from dpc.prompt.soft_prompt import SoftPrompt


@dataclass(frozen=True, slots=True, eq=False)
class PromptPrefix:
    """Keys and values of a soft prompt at positions ``0 .. prompt - 1``, one entry for each layer that has them.

    states: what the prompt leaves in layers with other states (convolutions, state space models, linear attention).
    vectors: the soft prompt itself, for a model that cannot continue such states with several tokens; there is nothing
    else then, and the prompt is prefilled with each question.
    """

    keys: tuple[Float[Tensor, "kv_head prompt d"], ...]
    values: tuple[Float[Tensor, "kv_head prompt v"], ...]
    states: States = field(default_factory=dict)
    vectors: Float[Tensor, "prompt d"] | None = None
    positions: int = 0

    def __len__(self) -> int:
        return self.keys[0].shape[1] if self.keys else self.positions

    @classmethod
    def uncomputed(cls, vectors: Float[Tensor, "prompt d"]) -> PromptPrefix:
        """A prefix that is prefilled with each question."""
        return cls((), (), vectors=vectors, positions=len(vectors))

    def cut(self, positions: int) -> PromptPrefix:
        """The first ``positions``."""
        keys, values = (tuple(part[:, :positions] for part in parts) for parts in (self.keys, self.values))
        return PromptPrefix(keys, values)


@torch.no_grad()
def compute_prefixes(lm: FrozenLM, prompts: Float[Tensor, "batch prompt d"]) -> list[PromptPrefix]:
    """Prefixes of soft prompts of equal length, in one forward pass. Keys are rotated, as attention reads them."""
    count, length, _ = prompts.shape
    cache = full_cache(lm.model)
    kept = accepted(lm.model, {"logits_to_keep": 1})
    lm.model(inputs_embeds=prompts.to(lm.device, lm.dtype), **cache_arguments(lm.model, cache), **kept)
    layers = [layer for layer in cache.layers if isinstance(layer, DynamicLayer) and layer.keys is not None]
    keys, values = ([getattr(layer, part) for layer in layers] for part in ("keys", "values"))
    states = states_of(cache)
    return [
        PromptPrefix(
            tuple(part[row] for part in keys),
            tuple(part[row] for part in values),
            {name: state[row] for name, state in states.items()},
            positions=length,
        )
        for row in range(count)
    ]


class PrefixStore:
    """Cache of the last ``capacity`` prefixes used, or of all in one call of ``get`` if these are more.

    shared: whether prefixes are computed once; otherwise each is prefilled with the question.
    """

    def __init__(self, lm: FrozenLM, capacity: int, *, shared: bool = True) -> None:
        self.computed, self.shared = 0, shared
        self._lm, self._capacity = lm, capacity
        self._kept: OrderedDict[str, PromptPrefix] = OrderedDict()

    def get(self, prompts: Sequence[SoftPrompt]) -> list[PromptPrefix]:
        """The prefix of each prompt. Missing ones are computed, those of equal length in one forward pass."""
        if not self.shared:
            return [PromptPrefix.uncomputed(prompt.vectors) for prompt in prompts]
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
