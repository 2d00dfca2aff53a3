"""Through a model block by block and back: only what is dear to compute is kept, and one block's graph at a time.

Rows are those after a soft prompt, whose keys and values are given: constants, since nothing that follows changes them.
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
"""``reduce(layer, call, gradient [batch head row v])``: is handed a layer's attention and ``dL/dO`` at its output."""

_aten = torch.ops.aten
# Products with weights and fused attention are kept, everything between them is computed again.
_PRODUCTS = {_aten.mm.default, _aten.addmm.default}
_FUSED = {
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
}
# In one block of so many, wide products are computed again too: about a tenth less memory for a thirtieth more time.
_WIDE_AGAIN = 3


@dataclass(frozen=True, slots=True, eq=False)
class Walk:
    """What a forward pass leaves for the way back: the blocks from ``first`` on, and what came out of the last one."""

    hidden: Float[Tensor, "batch row d"]
    first: int
    steps: list[_Step]


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """One block: ``forward(hidden)``, and what was kept of its operations."""

    forward: Callable[[Tensor], Tensor]
    hidden: Tensor
    kept: _Kept


def walk_forward(lm: FrozenLM, embedded: Float[Tensor, "batch row d"], prefix: PromptPrefix, first_layer: int) -> Walk:
    """One forward pass over the rows after ``prefix``; blocks from ``first_layer`` on can be walked back.

    embedded: input embeddings, padded on the right. Raises ``UserError`` where blocks do not simply follow each other,
    or for attention that cannot be captured.
    """
    steps: list[_Step] = []
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

            kept, states = _Kept(wide=layer % _WIDE_AGAIN != 0), hidden_states.detach().requires_grad_()
            with kept.recorded():
                output = forward(states, *arguments, **keywords)
            hidden = _hidden(output).detach()
            steps.append(_Step(forward_hidden, states, kept))
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return block

    with torch.no_grad(), capture_attention(lm.model, (), unchanged), replaced_forward(lm.model, around):
        lm.last_logits(embedded, 0, after(prefix, embedded))
    return Walk(hidden, first_layer, steps)


def walk_backward(
    lm: FrozenLM,
    walk: Walk,
    gradient: Float[Tensor, "batch row d"],
    layers: Collection[int],
    reduce: Reduce,
) -> None:
    """From ``dL/d hidden`` after the last block back to the first one; ``reduce`` sees each of ``layers`` on the way.

    What the walk keeps of a block is freed as soon as it has been passed.
    """
    seen: list[tuple[AttentionCall, Tensor]] = []

    def visit(layer: int, call: AttentionCall, output: Tensor) -> Tensor:
        if layer == walk.first:
            output = output.detach().requires_grad_()
        seen.append((call.detach(), output))
        return output

    with torch.enable_grad(), capture_attention(lm.model, layers, visit):
        while walk.steps:
            step = walk.steps.pop()
            layer = walk.first + len(walk.steps)
            with step.kept.replayed():
                output = step.forward(step.hidden)
            wanted = [attended for _, attended in seen] + ([step.hidden] if walk.steps else [])
            gradients = torch.autograd.grad(output, wanted, gradient)
            del output, wanted
            for call, _ in seen:
                reduce(layer, call, gradients[0])
            seen.clear()
            gradient = gradients[-1]


def logits_of_hidden(lm: FrozenLM, hidden: Float[Tensor, "batch row d"]) -> Float[Tensor, "batch row vocab"]:
    """Logits of what comes out of the last block, differentiable: the model's own norm and head, and no block."""

    def around(layer: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *_, **__: hidden

    with replaced_forward(lm.model, around):
        return lm.last_logits(torch.zeros_like(hidden), hidden.shape[1])


def after(prefix: PromptPrefix | None, embedded: Float[Tensor, "batch row d"]) -> dict[str, Any]:
    """What a model is told so that rows stand after ``prefix``; nothing for rows that begin a sequence."""
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
    """A visit that leaves everything as it is."""
    return output


def _hidden(output: Any) -> Tensor:
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


class _Kept(TorchDispatchMode):
    """Results of dear operations: taken down in order while recorded, handed out instead of them later.

    wide: also of products with more columns than their input has, which fill much for what they cost.
    """

    def __init__(self, wide: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._wide = wide
        self._results: deque[Any] = deque()
        self._recording, self._saved = False, 0

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record one forward pass. Its graph keeps nothing: it is there so that the same operations run both times."""
        self._recording = True
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(self._count, _no_way_back), self:
            yield
        self._recording = False
        if self._results and not self._saved:
            # No gradient needs the last product's numbers, which the block's output has taken in: its shape will do.
            self._results[-1] = tree_map_only(Tensor, lambda t: t.new_zeros(()).expand(t.shape), self._results[-1])

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Run the same forward pass again, with a graph. What was recorded is used up."""
        with torch.enable_grad(), self:
            yield
        if self._results:
            raise RuntimeError(f"{len(self._results)} recorded results were not asked for: the passes differ")

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        dear = operation in _FUSED or (operation in _PRODUCTS and (self._wide or _narrow(*args)))
        if not (dear and self._recording):
            return self._results.popleft() if dear else operation(*args, **(kwargs or {}))
        result, self._saved = operation(*args, **(kwargs or {})), 0
        # Without the graph that the caller is about to attach.
        self._results.append(tree_map_only(Tensor, Tensor.detach, result))
        return result

    def _count(self, tensor: Tensor) -> None:
        self._saved += 1


def _narrow(*operands: Tensor) -> bool:
    inner, columns = operands[-1].shape
    return columns <= inner


def _no_way_back(nothing: None) -> Tensor:
    raise AssertionError("the graph of the recorded pass is not for a backward pass")


class _PrefixLayer(CacheLayerMixin):
    """A prefix in front of whatever is new. Remembers nothing new, so that a block can be computed twice."""

    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values, self.is_initialized = keys, values, True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is left to initialize."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keys and values of the prefix and of the new rows."""
        assert self.keys is not None
        assert self.values is not None
        return torch.cat([self.keys, key_states], dim=2), torch.cat([self.values, value_states], dim=2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many columns ``query_length`` new rows see, and the position of the first."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Positions of the prefix."""
        assert self.keys is not None
        return self.keys.shape[2]

    def get_max_length(self) -> int:
        """No limit."""
        return -1
