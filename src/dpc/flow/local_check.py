"""For which models the trigger needs no pass through the network: a comparison with one, before first use."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from dpc.engine import Decoded, Request, Trail
from dpc.errors import UserError
from dpc.flow.block_walk import unchanged
from dpc.flow.local_influence import Influence, local_influence
from dpc.flow.measures import rationale_influence
from dpc.flow.saliency import prompt_saliency
from dpc.model.blocks import Forward, replaced_forward
from dpc.model.capture import capture_attention
from dpc.model.eager_check import check_length, pass_tolerance, require_equal, softmax_layers
from dpc.model.lm import FrozenLM
from dpc.model.recurrent import cache_arguments, full_cache
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.types import Generation

# A short question between prompt and answer, so that a sliding window does not end before the prompt.
_QUESTION = 3
# What running the last block on its own may raise, for a model whose block needs more than the trail.
_UNSUPPORTED = (UserError, ValueError, RuntimeError, TypeError, AttributeError, LookupError, AssertionError)

# The result belongs to the model object.
_EXACT: weakref.WeakKeyDictionary[PreTrainedModel, bool] = weakref.WeakKeyDictionary()


def local_is_exact(lm: FrozenLM) -> bool:
    """Whether ``local_influence`` equals the saliency of a whole pass on this model; computed once per model object.

    False if the last block has no softmax attention, or needs more than its input, keys and values (a convolution or
    a state space beside attention, a position that it reads from the KV cache). Two random answers of different length
    are compared. Raises ``UserError`` for a model whose attention cannot be reproduced.
    """
    if lm.model not in _EXACT:
        _EXACT[lm.model] = softmax_layers(lm)[-1] == lm.layers - 1 and _equals_whole_pass(lm)
    return _EXACT[lm.model]


def _equals_whole_pass(lm: FrozenLM) -> bool:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(lm.vocab_size, (check_length(lm),), generator=generator).tolist()
    half = len(ids) // 2
    prompt = SoftPrompt.of(lm.embed(torch.tensor(ids[: half - _QUESTION], device=lm.device)).float(), lm.name)
    question, longer, shorter = ids[half - _QUESTION : half], ids[half:], ids[half:-3]
    for_both = [question, question[:-1]], [longer, shorter]
    whole = prompt_saliency(lm, prompt.vectors, *for_both, softmax_layers(lm)[-1:])
    try:
        decoded = [_decoded(lm, prompt, *each) for each in zip(*for_both, strict=True)]
        for ours, truth in zip(local_influence(lm, decoded), whole, strict=True):
            theirs = Influence(rationale_influence(truth), rationale_influence(truth, "before"), truth.loss)
            for row in ("at", "before"):
                require_equal(lm, "influence", ours.values(row), theirs.values(row), pass_tolerance(lm.dtype))
            losses = torch.tensor(ours.loss), torch.tensor(theirs.loss)
            require_equal(lm, "loss", *losses, tolerance=pass_tolerance(lm.dtype))
    except _UNSUPPORTED:
        return False
    return True


def _decoded(lm: FrozenLM, prompt: SoftPrompt, question: list[int], rationale: list[int]) -> Decoded:
    """An answer with its trail, from one pass of the model over prompt, question and rationale."""
    last, kept, cache = lm.layers - 1, {}, full_cache(lm.model)

    def around(layer: int, forward: Forward) -> Forward:
        def block(hidden_states: Float[Tensor, "1 row d"], *rest: Any, **keywords: Any) -> Any:
            kept["hidden"] = hidden_states
            return forward(hidden_states, *rest, **keywords)

        return block if layer == last else forward

    ids = torch.tensor([*question, *rationale[:-1]], device=lm.device)
    embedded = torch.cat([prompt.vectors.to(lm.device, lm.dtype), lm.embed(ids).to(lm.dtype)])[None]
    with torch.no_grad(), capture_attention(lm.model, (), unchanged), replaced_forward(lm.model, around):
        lm.last_logits(embedded, 1, cache_arguments(lm.model, cache))
    request = Request(question, prompt)
    # As the cache keeps them: JetMoE repeats the heads of keys and values before it calls its attention.
    layer: Any = cache.layers[last]
    trail = Trail(kept["hidden"][0, len(request) - 1 :], layer.keys[0], layer.values[0])
    return Decoded(request, Generation(tuple(rationale), "", "length"), 0, 0.0, 0, trail)
