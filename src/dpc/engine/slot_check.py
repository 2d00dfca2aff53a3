"""Compare decoding in slots with the model's own eager attention before first use. A model that differs is refused.

The passes are those of ``SlotModel``: a prompt prefix, packed and padded layouts, drafts of several tokens, rows at
different positions, and a slot that is used again; or those of ``UnpackedSlotModel``. The reference is one eager
forward pass of each row alone, without any cache.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from dpc.engine.packed import Reading, pack
from dpc.engine.slot_model import SlotModel
from dpc.engine.unpacked_slots import UnpackedSlotModel
from dpc.errors import UserError
from dpc.model.blocks import decoder_blocks, replaced_forward, softmax_blocks
from dpc.model.capture import SUPPORTED
from dpc.model.eager_check import (
    attention_modules,
    check_length,
    eager_reference,
    pass_tolerance,
    require_equal,
)
from dpc.model.lm import FrozenLM
from dpc.model.recurrent import keeps_states
from dpc.model.short_windows import short_windows
from dpc.prompt.prefix import PromptPrefix, compute_prefixes

# Largest relative Frobenius error of an attention module's output, over the tokens of one row and on equal inputs.
_LAYER_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3}
_LAYER_TOLERANCE_16_BITS = 0.05
# Virtual tokens of the prompt, and the shortest context that the check fits into.
_PROMPT, _CONTEXT = 3, 17


@dataclass(frozen=True, slots=True)
class SlotWay:
    """How a model is decoded in slots.

    packed: as ``SlotModel`` does; otherwise as ``UnpackedSlotModel`` does. shared: whether the prefix of a prompt is
    computed once; a model that cannot continue its states with several tokens prefills the prompt with each question.
    """

    packed: bool
    shared: bool


# Models that passed. The result belongs to the model object.
_REPRODUCED: weakref.WeakKeyDictionary[PreTrainedModel, SlotWay] = weakref.WeakKeyDictionary()


def check_slots_reproduce(lm: FrozenLM) -> SlotWay:
    """Compare passes in slots with the model's own eager attention on each row alone, once per model object.

    Compared are what enters every block, the output of every module with attention or another state, and the logits.
    Each block continues with the hidden states of the reference, so that rounding does not accumulate and 16 bits allow
    a small tolerance. Compiled passes and CUDA graphs are not run.

    Returns:
        The way that gives equal results: packed, if layers keep only keys and values.

    Raises:
        UserError: decoding in slots would differ from the model itself in all ways; or the model is in training mode.
    """
    # A model without softmax attention has nothing to be traced. Its states are compared all the same.
    softmax = {} if keeps_states(lm.model) and not softmax_blocks(lm.model) else attention_modules(lm)
    if lm.model in _REPRODUCED:
        return _REPRODUCED[lm.model]
    if lm.context < _CONTEXT:
        raise UserError(f"model {lm.name!r}: a context of {lm.context} tokens, expected at least {_CONTEXT}")
    modules = {f"attention of layer {layer}": module for layer, module in softmax.items()}
    comparison = _Comparison(lm, modules | (_state_modules(lm, softmax) if keeps_states(lm.model) else {}))
    with torch.inference_mode(), short_windows(lm.model):
        _REPRODUCED[lm.model] = _way(comparison, sorted(set(range(lm.layers)) - set(softmax)))
    return _REPRODUCED[lm.model]


def _way(comparison: _Comparison, missing: list[int]) -> SlotWay:
    """The first way whose passes are equal. ``missing``: layers without softmax attention."""
    lm, states = comparison.lm, keeps_states(comparison.lm.model)
    if missing and not states:
        raise UserError(f"model {lm.name!r}: neither softmax attention nor a state in layers {missing}; {SUPPORTED}")
    ways = [SlotWay(packed=not states, shared=True), SlotWay(packed=False, shared=not states)]
    errors: list[Exception] = []
    for way in ways:
        try:
            if way.packed:
                _compare_passes(comparison)
            else:
                _compare_unpacked_passes(comparison, shared=way.shared)
        except torch.OutOfMemoryError:
            raise
        # Packed passes that run are equal or refused. Attention that reads the cache itself (Doge) fails in them.
        except Exception as error:
            if way.packed and isinstance(error, UserError):
                raise
            errors.append(error)
        else:
            return way
    # What the usual way does wrong tells most: packed passes, or states without a shared prefix.
    found = errors[-1 if states else 0]
    if isinstance(found, UserError):
        raise found
    reason = f"{type(found).__name__}: {str(found).partition(chr(10))[0]}"
    raise UserError(f"model {lm.name!r}: a pass in slots fails ({reason}); {SUPPORTED}") from found


def _compare_passes(comparison: _Comparison) -> None:
    lm, length = comparison.lm, check_length(comparison.lm)
    generator = torch.Generator().manual_seed(0)
    counts = (_PROMPT, length - _PROMPT, 12 + 3 + 1 + 1)
    ids = [torch.randint(lm.vocab_size, (count,), generator=generator).tolist() for count in counts]
    # Reversed: virtual tokens are not embeddings of tokens.
    vectors = lm.embed(torch.tensor(ids[0], device=lm.device)).flip(-1)
    long, short = comparison.alone(vectors, ids[1]), comparison.alone(vectors[:0], ids[2])
    slots, prefix = SlotModel(lm, 4, recorded=False), comparison.prefix(vectors, long)
    slots.insert([3, 0], [prefix, None])
    # The long row has eight tokens left after its question.
    left = length - 8
    comparison.packed(slots, "questions", [long.part(3, _PROMPT, left - _PROMPT), short.part(0, 0, 12)])
    # The short row goes on in another slot. The first tokens of the long row enter the slot that it leaves.
    slots.move(0, 1, 12)
    slots.insert([0], [prefix])
    parts = [long.part(3, left, 4), short.part(1, 12, 3), long.part(0, _PROMPT, 3)]
    comparison.packed(slots, "drafts and a question", parts)
    parts = [long.part(3, left + 4, 3), short.part(1, 15, 1), long.part(0, _PROMPT + 3, 2)]
    comparison.padded(slots, "drafts", parts)
    parts = [long.part(3, left + 7, 1), short.part(1, 16, 1), long.part(0, _PROMPT + 5, 1)]
    comparison.padded(slots, "single tokens", parts)


def _compare_unpacked_passes(comparison: _Comparison, *, shared: bool) -> None:
    lm, length = comparison.lm, check_length(comparison.lm)
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(lm.vocab_size, (count,), generator=generator).tolist() for count in (_PROMPT, length, 17)]
    vectors = lm.embed(torch.tensor(ids[0], device=lm.device)).flip(-1)
    long, short = comparison.alone(vectors, ids[1][_PROMPT:]), comparison.alone(vectors[:0], ids[2])
    slots, left = UnpackedSlotModel(lm, 4), length - 8
    prefix = comparison.prefix(vectors, long) if shared else PromptPrefix.uncomputed(vectors)
    if prefix.states:
        comparison.require_continued(prefix, ids[2][:3])
    slots.insert([3, 1, 0], [prefix, None, None])
    parts = [long.part(3, _PROMPT, left - _PROMPT), short.part(1, 0, 12), short.part(0, 0, 12)]
    comparison.unpacked(slots, "questions", parts)
    # Slot 2 is free and takes part in the step, as slot 1 does later.
    comparison.unpacked(slots, "decode step", [long.part(3, left, 1), short.part(1, 12, 1), short.part(0, 12, 1)])
    slots.move(0, 2, 13)
    slots.insert([0], [prefix])
    parts = [long.part(3, left + 1, 1), short.part(2, 13, 1), long.part(0, _PROMPT, 4)]
    comparison.unpacked(slots, "decode step and question in a used slot", parts)
    parts = [long.part(3, left + 2, 1), short.part(2, 14, 1), long.part(0, _PROMPT + 4, 1)]
    comparison.unpacked(slots, "decode step", parts)
    slots.insert([1], [None])
    comparison.unpacked(slots, "question of one token", [short.part(2, 15, 1), short.part(1, 0, 1)])
    comparison.unpacked(slots, "decode step", [short.part(1, 1, 1), short.part(2, 16, 1)])


@dataclass(frozen=True, slots=True, eq=False)
class _Alone:
    """The reference: one row alone, under the model's own eager attention.

    ids: of the tokens, which follow ``prompt`` virtual tokens. entered: for each layer, what entered its block.
    attended: what each module with attention or another state returned.
    """

    ids: list[int]
    prompt: int
    entered: Mapping[int, Float[Tensor, "position d"]]
    attended: Mapping[str, Float[Tensor, "position d"]]
    logits: Float[Tensor, "position vocab"]

    def part(self, slot: int, start: int, count: int) -> tuple[_Alone, Reading]:
        """This row with the reading of ``count`` tokens from position ``start`` on, logits for all of them."""
        first = start - self.prompt
        return self, Reading(slot, start, self.ids[first : first + count], kept=count)


_Parts = Sequence[tuple[_Alone, Reading]]
_Place = tuple[_Alone, Int[Tensor, " _"], slice]
"""A row, which tokens of a pass are its own, and their positions in the row."""


@dataclass(frozen=True, slots=True, eq=False)
class _Comparison:
    """Passes of one model, each compared with the rows alone. Every method raises ``UserError`` for a difference."""

    lm: FrozenLM
    modules: Mapping[str, nn.Module]

    def alone(self, vectors: Float[Tensor, "prompt d"], ids: list[int]) -> _Alone:
        """The reference for the row ``[vectors | ids]``."""
        lm, recorder = self.lm, _Recorder()
        embedded = torch.cat([vectors, lm.embed(torch.tensor(ids, device=lm.device))])
        with eager_reference(lm.model), _observed(lm, self.modules, recorder):
            logits = lm.model(inputs_embeds=embedded[None], use_cache=False).logits
        return _Alone(ids, len(vectors), recorder.entered, recorder.attended, logits[0])

    def prefix(self, vectors: Float[Tensor, "prompt d"], row: _Alone) -> PromptPrefix:
        """The prefix of a soft prompt, compared with the first positions of ``row``."""
        lm, places = self.lm, [(row, torch.arange(len(vectors)), slice(0, len(vectors)))]
        # The model computes a prefix with its own choice of attention, which may round more in 16 bits.
        with _observed(lm, self.modules, _Comparer(lm, "the prompt prefix", places, pass_tolerance(lm.dtype))):
            [prefix] = compute_prefixes(lm, vectors[None])
        if len(prefix.keys) != lm.layers and not keeps_states(lm.model):
            kept = f"keys and values are cached in {len(prefix.keys)} of {lm.layers} layers, expected all"
            raise UserError(f"model {lm.name!r}: {kept}; {SUPPORTED}")
        return prefix

    def require_continued(self, prefix: PromptPrefix, ids: list[int]) -> None:
        """Require that a pass of several tokens reads the states of ``prefix``, also where they change little.

        Each kind of state is changed in turn. Blocks get the inputs of the pass before, so every layer shows it itself.
        """
        before = self._after_states(prefix, ids, {})
        for kind in ("conv_states", "recurrent_states"):
            layers = {layer for layer, name, _ in prefix.states if name == kind}
            changed = {name: state + 1 if name[1] == kind else state for name, state in prefix.states.items()}
            after = self._after_states(replace(prefix, states=changed), ids, before.entered).attended if layers else {}
            for name in (f"state of layer {layer}" for layer in layers):
                if name in after and torch.equal(after[name], before.attended[name]):
                    raise UserError(f"model {self.lm.name!r}: a pass of several tokens does not read the {name}")

    def _after_states(self, prefix: PromptPrefix, ids: list[int], inputs: Mapping[int, Tensor]) -> _Recorder:
        slots, recorder = UnpackedSlotModel(self.lm, 1), _Recorder(inputs)
        slots.insert([0], [prefix])
        with _observed(self.lm, self.modules, recorder):
            slots.group_logits([Reading(0, len(prefix), ids)], trail=False)
        return recorder

    def packed(self, slots: SlotModel, name: str, parts: _Parts) -> None:
        """A pass without padding."""
        what, layout = f"a packed pass ({name})", pack([reading for _, reading in parts], self.lm.device)
        tokens = [(layout.rows == reading.row).nonzero().flatten() for _, reading in parts]
        with self._compared(what, parts, tokens):
            logits = slots.packed_logits(layout, trail=False)
        self._require_logits(what, parts, [logits[share] for share in layout.shares])

    def padded(self, slots: SlotModel, name: str, parts: _Parts) -> None:
        """A pass of a padded batch."""
        what, (ids, positions, length) = f"a padded pass ({name})", slots.padded([reading for _, reading in parts])
        width = ids.shape[1]
        tokens = [reading.row * width + torch.arange(len(reading.tokens)) for _, reading in parts]
        with self._compared(what, parts, tokens):
            logits = slots.padded_logits(ids, positions, length, trail=False)
        self._require_logits(what, parts, [logits[reading.row, : len(reading.tokens)] for _, reading in parts])

    def unpacked(self, slots: UnpackedSlotModel, name: str, parts: _Parts) -> None:
        """One pass for each group of rows."""
        readings = [reading for _, reading in parts]
        for group in slots.groups(readings):
            chosen, what = [parts[index] for index in group], f"a pass without padding ({name})"
            joined, count = slots.begins(chosen[0][1].row), len(chosen[0][1].tokens)
            places: list[_Place] = []
            for index, (row, part) in enumerate(chosen):
                first = part.start - (joined or 0)
                width = part.stop - first
                own = torch.tensor([part.row]) if joined is None else index * width + torch.arange(width)
                places.append((row, own, slice(first, part.stop)))
            with _observed(self.lm, self.modules, _Comparer(self.lm, what, places, _layer_tolerance(self.lm.dtype))):
                logits = slots.group_logits([part for _, part in chosen], trail=False, kept=count)
            self._require_logits(what, chosen, list(logits[:, -count:]))

    def _compared(self, what: str, parts: _Parts, tokens: Sequence[Int[Tensor, " _"]]) -> AbstractContextManager[None]:
        places = [(row, own, slice(part.start, part.stop)) for (row, part), own in zip(parts, tokens, strict=True)]
        comparer = _Comparer(self.lm, what, places, _layer_tolerance(self.lm.dtype))
        return _observed(self.lm, self.modules, comparer)

    def _require_logits(self, what: str, parts: _Parts, logits: Sequence[Float[Tensor, "_ vocab"]]) -> None:
        expected = torch.cat([row.logits[reading.start : reading.stop] for row, reading in parts])
        tolerance = pass_tolerance(self.lm.dtype)
        require_equal(self.lm, f"the logits of {what}", torch.cat(list(logits)), expected, tolerance)


class _Recorder:
    """Records a pass of one row: the inputs of blocks, and the outputs of modules. inputs: what blocks get instead."""

    def __init__(self, inputs: Mapping[int, Float[Tensor, "time d"]] | None = None) -> None:
        self.inputs = inputs or {}
        self.entered: dict[int, Tensor] = {}
        self.attended: dict[str, Tensor] = {}

    def enter(self, layer: int, hidden: Float[Tensor, "1 time d"]) -> Float[Tensor, "1 time d"]:
        self.entered[layer] = hidden[0]
        return self.inputs[layer][None] if layer in self.inputs else hidden

    def leave(self, name: str, output: Float[Tensor, "1 time d"]) -> None:
        self.attended[name] = output[0]


@dataclass(frozen=True, slots=True, eq=False)
class _Comparer:
    """Compares a pass with the reference, and continues each block with the input that it has in the reference.

    tolerance: for the output of attention modules.
    """

    lm: FrozenLM
    what: str
    places: Sequence[_Place]
    tolerance: float

    def enter(self, layer: int, hidden: Float[Tensor, "batch time d"]) -> Float[Tensor, "batch time d"]:
        flat = hidden.flatten(0, 1).clone()
        tokens = torch.cat([own for _, own, _ in self.places])
        expected = torch.cat([row.entered[layer][positions] for row, _, positions in self.places])
        # Embeddings are equal. What a block adds is rounded, and in 16 bits a token may go to another expert.
        tolerance = (pass_tolerance if layer else _layer_tolerance)(self.lm.dtype)
        require_equal(self.lm, f"the input of block {layer} in {self.what}", flat[tokens], expected, tolerance)
        flat[tokens] = expected
        return flat.view_as(hidden)

    def leave(self, name: str, output: Float[Tensor, "batch time d"]) -> None:
        flat, what = output.flatten(0, 1), f"{name} in {self.what}"
        for row, tokens, positions in self.places:
            require_equal(self.lm, what, flat[tokens], row.attended[name][positions], self.tolerance)


def _layer_tolerance(dtype: torch.dtype) -> float:
    return _LAYER_TOLERANCE.get(dtype, _LAYER_TOLERANCE_16_BITS)


@contextmanager
def _observed(lm: FrozenLM, modules: Mapping[str, nn.Module], observer: _Recorder | _Comparer) -> Iterator[None]:
    """Let ``observer`` see the blocks of the passes inside, and ``modules``."""
    with ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(partial(_leave, observer, name)).remove)
        stack.enter_context(replaced_forward(lm.model, lambda *block: partial(_enter, observer, *block)))
        yield


def _enter(
    observer: _Recorder | _Comparer,
    layer: int,
    forward: Callable[..., Any],
    hidden: Tensor,
    *arguments: Any,
    **keywords: Any,
) -> Any:
    return forward(observer.enter(layer, hidden), *arguments, **keywords)


def _leave(observer: _Recorder | _Comparer, name: str, module: nn.Module, arguments: Any, output: Any) -> None:
    observer.leave(name, output[0] if isinstance(output, tuple) else output)


def _state_modules(lm: FrozenLM, softmax: Mapping[int, nn.Module]) -> dict[str, nn.Module]:
    """The modules that compute with states: the outermost in each block that know their layer and hold no attention."""
    found: dict[str, nn.Module] = {}
    for layer, block in enumerate(decoder_blocks(lm.model)):
        for module in list(block.modules())[1:]:
            knows = getattr(module, "layer_idx", None) == layer
            if knows and not any(part is own for part in module.modules() for own in softmax.values()):
                found.setdefault(f"state of layer {layer}", module)
    return found
