"""Slots without packed passes: for layers with convolution or recurrent states, or with attention of an unusual kind.

A state takes in every token of a pass, so no pass has padding: rows with equally many tokens form a batch. Drafts are
not verified, because a state cannot be taken back to where a draft was rejected.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DummyLayer, LinearAttentionAndFullAttentionLayer, LinearAttentionLayer

from dpc.engine.packed import Reading
from dpc.engine.slot_cache import PassLayout, SlotCache, SlotLayer
from dpc.engine.slot_model import SlotModel
from dpc.model.blocks import softmax_blocks
from dpc.model.lm import FrozenLM
from dpc.model.recurrent import (
    StateName,
    States,
    accepted,
    cache_arguments,
    full_layer,
    keeps_states,
    set_states,
    states_of,
)
from dpc.prompt.prefix import PromptPrefix


class _BothLayer(LinearAttentionLayer, SlotLayer):  # type: ignore[override]
    """The cache of a layer that has keys and values and other states."""

    is_compileable = False

    def __init__(self, slots: int, states: int) -> None:
        SlotLayer.__init__(self, slots, 0)
        LinearAttentionLayer.__init__(self, states)

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """Keys and values come as two positional arguments, other states by name."""
        (SlotLayer if args else LinearAttentionLayer).lazy_initialization(self, *args, **kwargs)


class _States:
    """The states of all slots: ``[slot, ...]`` each, allocated by the first pass."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._stored: dict[StateName, Tensor] = {}

    def of(self, rows: slice | Int[Tensor, " row"]) -> States:
        """Views of consecutive rows, which a pass changes in place, or copies of any rows."""
        return {name: state[rows] for name, state in self._stored.items()}

    def store(self, rows: slice | Int[Tensor, " row"], states: States) -> None:
        """Keep the states of some rows after a pass."""
        for name, state in states.items():
            if name not in self._stored:
                self._stored[name] = state.new_zeros(self._slots, *state.shape[1:])
            if isinstance(rows, Tensor) or self._stored[name].data_ptr() != state.data_ptr():
                self._stored[name][rows] = state

    def move(self, source: int, target: int) -> None:
        """Copy the states of one row to another."""
        for state in self._stored.values():
            state[target] = state[source]


class UnpackedSlotModel(SlotModel):
    """A model whose slots carry the states of each row, if it has any. Passes are not packed, compiled or recorded."""

    drafts = False

    def __init__(self, lm: FrozenLM, slots: int) -> None:
        super().__init__(lm, slots, recorded=False)
        # The trail holds keys and values, so it is whole only where the last block has softmax attention alone.
        self.offers_trail = type(self._cache.layers[-1]) is SlotLayer and lm.layers - 1 in softmax_blocks(lm.model)
        self._states = _States(slots)
        # Prefixes of rows that begin a sequence: their states enter with the question.
        self._begun: dict[int, PromptPrefix | None] = {}
        self._vectors: Tensor | None = None

    def _new_cache(self) -> SlotCache:
        layers = DynamicCache(config=self.lm.model.config).layers
        return SlotCache([_slot_layer(layer, self.slots) for layer in layers], self.slots, 0)

    @torch.inference_mode()
    def insert(self, rows: Sequence[int], prefixes: Sequence[PromptPrefix | None]) -> None:
        """Begin a new sequence in each row, with what its soft prompt left (None: without a prompt)."""
        self._begun.update(zip(rows, prefixes, strict=True))
        shared = [None if prefix is None or prefix.vectors is not None else prefix for prefix in prefixes]
        super().insert(rows, shared)

    @torch.inference_mode()
    def move(self, source: int, target: int, length: int, start: int = 0) -> None:
        """Copy the positions from ``start`` to ``length``, and the states, of one row to another."""
        super().move(source, target, length, start)
        self._begun.pop(target, None)
        self._states.move(source, target)

    def kept(self, row: int, length: int) -> PromptPrefix | None:
        """As ``SlotModel.kept``, or None: a state of fewer positions cannot be had from one of more."""
        return None if keeps_states(self.lm.model) else super().kept(row, length)

    @torch.inference_mode()
    def read(self, readings: Sequence[Reading], trail: bool, likelihood: bool = False) -> list[list[int]]:
        """For each reading the greedy successor of its last token. One forward pass for each of ``groups``."""
        logits = self.last_logits(readings, trail)
        if likelihood:
            rows, positions = torch.tensor([[each.row, each.stop - 1] for each in readings], device=logits.device).T
            self._keep_figures(rows, positions, logits)
        return [[token] for token in logits.argmax(-1).tolist()]

    @torch.inference_mode()
    def last_logits(self, readings: Sequence[Reading], trail: bool = False) -> Float[Tensor, "reading vocab"]:
        """Logits after the last token of each reading."""
        found: dict[int, Tensor] = {}
        for group in self.groups(readings):
            logits = self.group_logits([readings[index] for index in group], trail)[:, -1]
            found |= dict(zip(group, logits, strict=True))
        return torch.stack([found[index] for index in range(len(readings))])

    def groups(self, readings: Sequence[Reading]) -> Iterator[list[int]]:
        """Indices of the readings that run as one batch. Rows that go on come first: free slots may take part."""
        found: dict[tuple[bool, int, bool, int], list[int]] = {}
        for index, reading in enumerate(readings):
            joined = self.begins(reading.row)
            continued = joined == 0 and self._begun[reading.row] is not None
            key = (joined is not None, len(reading.tokens), continued, joined or 0)
            found.setdefault(key, []).append(index)
        yield from (found[key] for key in sorted(found))

    def begins(self, row: int) -> int | None:
        """How many virtual tokens run with the row's question; None for a row that goes on."""
        if row not in self._begun:
            return None
        prefix = self._begun[row]
        return 0 if prefix is None or prefix.vectors is None else len(prefix)

    def group_logits(self, readings: Sequence[Reading], trail: bool, kept: int = 1) -> Float[Tensor, "row kept vocab"]:
        """A forward pass over the tokens of one group, with logits at the last ``kept`` positions."""
        if readings[0].row not in self._begun:
            assert all(len(reading.tokens) == 1 for reading in readings)
            ids, positions, length = self.padded(readings)
            rows = [reading.row for reading in readings]
            return self.padded_logits(ids, positions, length, trail)[rows]
        device = self.lm.device
        prefixes = [self._begun.pop(reading.row) for reading in readings]
        tokens = torch.tensor([list(reading.tokens) for reading in readings], device=device)
        start = torch.tensor([[reading.start] for reading in readings], device=device)
        states: States | None = None
        if (first := prefixes[0]) is not None and first.vectors is None:
            each = [prefix.states for prefix in prefixes if prefix is not None]
            states = {name: torch.stack([own[name] for own in each]) for name in first.states}
        elif first is not None:
            vectors = [prefix.vectors for prefix in prefixes if prefix is not None and prefix.vectors is not None]
            self._vectors, start = torch.stack(vectors).to(device, self.lm.dtype), start - len(first)
            # Virtual tokens have no id.
            tokens = torch.cat([tokens.new_zeros(len(tokens), len(first)), tokens], dim=1)
        time = tokens.shape[1]
        positions = start + torch.arange(time, device=device)
        length = int(positions.max()) + 1
        self._reserve(length)
        chosen = torch.tensor([reading.row for reading in readings], device=device)
        layout = PassLayout(chosen.repeat_interleave(time), positions.flatten(), len(chosen), length, chosen)
        set_states(self._cache, states)
        try:
            logits = super()._forward(self.lm.model, tokens, positions, layout, kept, trail)
        finally:
            self._vectors = None
        self._states.store(chosen, states_of(self._cache))
        return logits

    def _forward(self, forward: Any, ids: Tensor, position_ids: Tensor, layout: PassLayout, *rest: Any) -> Tensor:
        """A decode step of the first rows, free slots among them."""
        rows = slice(0, layout.leading)
        set_states(self._cache, self._states.of(rows))
        logits = super()._forward(forward, ids, position_ids, layout, *rest)
        self._states.store(rows, states_of(self._cache))
        return logits

    def _arguments(self, ids: Tensor, position_ids: Tensor, keep: int | Tensor) -> dict[str, Any]:
        wanted = accepted(self.lm.model, {"position_ids": position_ids, "logits_to_keep": keep})
        tokens: dict[str, Any] = {"input_ids": ids}
        if self._vectors is not None:
            embedded = self.lm.embed(ids[:, self._vectors.shape[1] :])
            tokens = {"inputs_embeds": torch.cat([self._vectors, embedded], dim=1)}
        return tokens | cache_arguments(self.lm.model, self._cache) | wanted


def _slot_layer(layer: Any, slots: int) -> Any:
    """The cache in slots for a layer that transformers would give ``layer``."""
    kept = full_layer(layer)
    if isinstance(kept, LinearAttentionAndFullAttentionLayer):
        return _BothLayer(slots, kept.number_of_states)
    return kept if isinstance(kept, LinearAttentionLayer | DummyLayer) else SlotLayer(slots, 0)
