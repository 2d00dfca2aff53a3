"""Compare what every computation here rests on with the model's own forward pass. A model that differs is refused.

A soft prompt is a row of vectors, so passes are given embeddings in place of token ids; and rows run side by side.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from dpc.errors import UserError
from dpc.model.capture import SUPPORTED
from dpc.model.eager_check import pass_tolerance, require_equal
from dpc.model.lm import FrozenLM

_LENGTH = 12

# Models that passed. Weak references: the result belongs to the model object.
_PASSED: weakref.WeakSet[PreTrainedModel] = weakref.WeakSet()


def check_own_passes(lm: FrozenLM) -> None:
    """Compare passes with the model's own forward pass on token ids, once per model object.

    - A row of embeddings gives the logits of its token ids, and vectors that are no embeddings can be read.
    - A row is not changed by a neighbour at the end of the context: rotary embeddings do not depend on the longest row.

    The attention implementation is the one that the model was loaded with.

    Raises:
        UserError: the results differ, so a soft prompt or a batch would give other results; or a pass fails.
    """
    if lm.model in _PASSED:
        return
    ids = torch.randint(lm.vocab_size, (1, min(_LENGTH, lm.context)), generator=torch.Generator().manual_seed(0))
    ids = ids.to(lm.device)
    with torch.inference_mode(), named_failures(lm, "a pass on embeddings"):
        embedded = lm.embed(ids)
        own = lm.model(input_ids=ids, use_cache=False).logits
        logits = lm.model(inputs_embeds=embedded, use_cache=False).logits
        require_equal(lm, "a pass on embeddings", logits, own, pass_tolerance(lm.dtype))
        # Reversed: no token has these embeddings.
        lm.model(inputs_embeds=embedded.flip(-1), use_cache=False)
        if "position_ids" in signature(lm.model.forward).parameters:
            _require_independent_rows(lm, ids)
    _PASSED.add(lm.model)


def _require_independent_rows(lm: FrozenLM, ids: Int[Tensor, "1 time"]) -> None:
    count = ids.shape[1]
    near = torch.arange(count, device=lm.device)
    far = near + lm.context - count
    passes = []
    for neighbour in (near, far):
        with _rotary_outputs(lm.model) as rotary:
            output = lm.model(input_ids=ids.repeat(2, 1), position_ids=torch.stack([near, neighbour]), use_cache=False)
        passes.append((output.logits, rotary))
    (beside_near, rotary_near), (beside_far, rotary_far) = passes
    what = f"a row beside another at position {lm.context - 1}"
    require_equal(lm, what, beside_far[0], beside_near[0], pass_tolerance(lm.dtype))
    # In 16 bits logits may differ by rounding. Frequencies may not.
    for one, other in zip(rotary_near, rotary_far, strict=True):
        require_equal(lm, f"the rotary embedding of {what}", other, one, 1e-6)


@contextmanager
def _rotary_outputs(model: nn.Module) -> Iterator[list[Float[Tensor, "time d"]]]:
    """What rotary embeddings return for the first row in the passes inside."""
    found: list[Tensor] = []

    def keep(module: nn.Module, arguments: Any, output: Any) -> None:
        parts = output if isinstance(output, tuple | list) else (output,)
        found.extend(torch.view_as_real(part)[0] if part.is_complex() else part[0] for part in parts if len(part) == 2)

    with ExitStack() as stack:
        for module in model.modules():
            if "RotaryEmbedding" in type(module).__name__:
                stack.callback(module.register_forward_hook(keep).remove)
        yield found


@contextmanager
def named_failures(lm: FrozenLM, what: str) -> Iterator[None]:
    """Turn an error of the model's own code inside into a ``UserError`` that says that ``what`` fails."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    # Code of a model may raise anything where it is used in a way that it was not written for.
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:160]}"
        raise UserError(f"model {lm.name!r}: {what} fails ({reason}); {SUPPORTED}") from error
