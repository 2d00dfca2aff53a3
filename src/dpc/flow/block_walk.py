"""Selective activation checkpointing: forward and backward through a model, with the graph of one block at a time.

The forward pass stores the results of expensive operations; the backward pass recomputes the rest. Rows are the
positions after a soft prompt, whose keys and values are constants: no later position changes them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from dpc.errors import UserError
from dpc.model.attention_call import AttentionCall
from dpc.model.blocks import replaced_forward
from dpc.model.capture import capture_attention
from dpc.model.lm import FrozenLM
from dpc.prompt.prefix import PromptPrefix

Reduce = Callable[[int, AttentionCall, Tensor], None]
"""``reduce(layer, call, gradient [batch head row v])``: gets the attention of a layer, and ``dL/dO`` at its output."""

_aten = torch.ops.aten
# Matrix products with weights, and fused attention, are stored. Everything else is recomputed.
_PRODUCTS = {_aten.mm.default, _aten.addmm.default}
_FUSED = {
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
}
# In one block of three, wide products are recomputed too: about a tenth less memory for a thirtieth more time.
_RECOMPUTE_WIDE = 3


@dataclass(frozen=True, slots=True, eq=False)
class ForwardPass:
    """A forward pass, ready for its backward pass.

    hidden: the output of the last block. first: the first block with a gradient. blocks: that block and those after it.
    """

    hidden: Float[Tensor, "batch row d"]
    first: int
    blocks: list[_Block]


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """One block: the output is ``forward(hidden)``. stored: results of its expensive operations."""

    forward: Callable[[Tensor], Tensor]
    hidden: Tensor
    stored: _Stored


def forward_by_block(
    lm: FrozenLM, embedded: Float[Tensor, "batch row d"], prefix: PromptPrefix, first_layer: int
) -> ForwardPass:
    """One forward pass over the rows after ``prefix``, with gradients from block ``first_layer`` on.

    embedded: input embeddings, padded on the right.

    Raises ``UserError`` where a block's input is not the output of the block before, or attention cannot be captured.
    """
    blocks: list[_Block] = []
    hidden = embedded

    def around(layer: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        def block(hidden_states: Tensor, *arguments: Any, **keywords: Any) -> Any:
            nonlocal hidden
            if layer and hidden_states is not hidden:
                raise UserError(
                    f"{type(lm.model).__name__} changes hidden states between its blocks, which is not supported here; "
                    "choose a model of another architecture, or the plain computation"
                )
            if layer < first_layer:
                with torch.no_grad():
                    output = forward(hidden_states, *arguments, **keywords)
                hidden = _hidden(output)
                return output

            def forward_hidden(states: Tensor) -> Tensor:
                return _hidden(forward(states, *arguments, **keywords))

            stored, states = _Stored(wide=layer % _RECOMPUTE_WIDE != 0), hidden_states.detach().requires_grad_()
            with stored.record():
                output = forward(states, *arguments, **keywords)
            hidden = _hidden(output).detach()
            blocks.append(_Block(forward_hidden, states, stored))
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return block

    with torch.no_grad(), capture_attention(lm.model, (), unchanged), replaced_forward(lm.model, around):
        lm.last_logits(embedded, 0, prefix_arguments(prefix, embedded))
    return ForwardPass(hidden, first_layer, blocks)


def backward_by_block(
    lm: FrozenLM,
    forward: ForwardPass,
    gradient: Float[Tensor, "batch row d"],
    layers: Collection[int],
    reduce: Reduce,
) -> None:
    """The backward pass of ``forward``: calls ``reduce`` for each of ``layers``, from last to first.

    gradient: ``dL/d hidden`` at the output of the last block. The graph and stored results of a block are freed before
    the next block is computed, so ``forward`` can be used once.
    """
    seen: list[tuple[AttentionCall, Tensor]] = []

    def visit(layer: int, call: AttentionCall, output: Tensor) -> Tensor:
        if layer == forward.first:
            output = output.detach().requires_grad_()
        seen.append((call.detach(), output))
        return output

    with torch.enable_grad(), capture_attention(lm.model, layers, visit):
        while forward.blocks:
            block = forward.blocks.pop()
            layer = forward.first + len(forward.blocks)
            with block.stored.replay():
                output = block.forward(block.hidden)
            wanted = [attended for _, attended in seen] + ([block.hidden] if forward.blocks else [])
            gradients = torch.autograd.grad(output, wanted, gradient)
            del output, wanted
            for call, _ in seen:
                reduce(layer, call, gradients[0])
            seen.clear()
            gradient = gradients[-1]


def logits_of_hidden(lm: FrozenLM, hidden: Float[Tensor, "batch row d"]) -> Float[Tensor, "batch row vocab"]:
    """Logits for the output of the last block, differentiable: the model's own final norm and head."""

    def around(layer: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *_, **__: hidden

    with replaced_forward(lm.model, around):
        # Embeddings may be narrower than hidden states.
        return lm.last_logits(hidden.new_zeros(*hidden.shape[:2], lm.hidden_size), hidden.shape[1])


def prefix_arguments(prefix: PromptPrefix | None, embedded: Float[Tensor, "batch row d"]) -> dict[str, Any]:
    """Keyword arguments for a forward pass of ``embedded`` after ``prefix`` (None: at the start of a sequence)."""
    if prefix is None:
        return {"use_cache": False}
    batch, length, _ = embedded.shape
    start, device = len(prefix), embedded.device
    pairs = zip(prefix.keys, prefix.values, strict=True)
    return {
        "attention_mask": torch.ones(batch, start + length, dtype=torch.long, device=device),
        "position_ids": torch.arange(start, start + length, device=device).expand(batch, -1),
        "past_key_values": Cache(
            layers=[_PrefixLayer(*(part.expand(batch, -1, -1, -1) for part in pair)) for pair in pairs]
        ),
        "use_cache": True,
    }


def unchanged(layer: int, call: AttentionCall, output: Tensor) -> Tensor:
    """A visit that does not change the output."""
    return output


def _hidden(output: Any) -> Tensor:
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


class _Stored(TorchDispatchMode):
    """Stores the results of expensive operations in one pass, and returns them in the same order in the next.

    wide: store also products with more columns than their input, which take much memory for their computing time.
    """

    def __init__(self, wide: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._wide = wide
        self._results: deque[Any] = deque()
        self._recording, self._saved = False, 0

    @contextmanager
    def record(self) -> Iterator[None]:
        """Store the results of one forward pass. It has a graph, so that the same operations run in both passes."""
        self._recording = True
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(self._count, _no_backward), self:
            yield
        self._recording = False
        if self._results and not self._saved:
            # The last product is only added to the output of the block, so no gradient needs its values.
            self._results[-1] = tree_map_only(Tensor, lambda t: t.new_zeros(()).expand(t.shape), self._results[-1])

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Run the same forward pass again, with a graph that can be used. Stored results are used up."""
        with torch.enable_grad(), self:
            yield
        if self._results:
            raise RuntimeError(f"{len(self._results)} stored results were not used: the passes differ")

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        expensive = operation in _FUSED or (operation in _PRODUCTS and (self._wide or _narrow(*args)))
        if expensive and not self._recording:
            return self._results.popleft()
        if operation._schema.is_mutable and self._recording:
            self._keep_apart(args[0])
        result = operation(*args, **(kwargs or {}))
        if expensive:
            self._saved = 0
            # Aliases: autograd attaches the graph of this pass to the result that is returned.
            self._results.append(tree_map_only(Tensor, _alias, result))
        return result

    def _keep_apart(self, changed: Tensor) -> None:
        """Before ``changed`` is written to in place: stored results of the same memory get memory of their own."""

        def apart(stored: Tensor) -> Tensor:
            if _memory(stored) != _memory(changed):
                return stored
            self._saved += 1
            return stored.clone()

        self._results = deque(tree_map_only(Tensor, apart, stored) for stored in self._results)

    def _count(self, tensor: Tensor) -> None:
        self._saved += 1


def _alias(tensor: Tensor) -> Tensor:
    """The same memory, and for autograd no view, so that the pass that gets it may write to it in place."""
    alias = tensor.new_empty(0)
    alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())
    return alias


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _narrow(*operands: Tensor) -> bool:
    inner, columns = operands[-1].shape
    return columns <= inner


def _no_backward(nothing: None) -> Tensor:
    raise AssertionError("the graph of the recorded pass has no saved tensors for a backward pass")


class _PrefixLayer(CacheLayerMixin):
    """A prefix before new keys and values, which are not stored, so that a block can be computed twice."""

    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values, self.is_initialized = keys, values, True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to initialize."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keys and values of the prefix and of the new rows."""
        assert self.keys is not None
        assert self.values is not None
        return torch.cat([self.keys, key_states], dim=2), torch.cat([self.values, value_states], dim=2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The number of positions that ``query_length`` new rows attend to, and the first of them."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Positions of the prefix."""
        assert self.keys is not None
        return self.keys.shape[2]

    def get_max_length(self) -> int:
        """No limit."""
        return -1
