"""What a model itself does with a soft prompt, one row at a time: answers, saliency (Eq 1), decision, loss gradient.

Nothing here is computed by the package. Answers come from ``generate`` with embeddings, saliency from the probabilities
of eager attention and their gradients, without a KV cache.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

# Several end tokens, so that lengths differ. An answer keeps none of them.
ENDS, NEW_TOKENS = [7, 9, 100, 101, 102], 16


def embedded(model: PreTrainedModel, vectors: Tensor, ids: Sequence[int]) -> Tensor:
    tokens: Tensor = model.get_input_embeddings()(torch.tensor([*ids], dtype=torch.long))
    return torch.cat([vectors.to(tokens), tokens])[None]


@torch.no_grad()
def answer(model: PreTrainedModel, vectors: Tensor, question: Sequence[int]) -> tuple[int, ...]:
    """Greedy, by the library's own loop, without the end token."""
    if "inputs_embeds" not in signature(model.prepare_inputs_for_generation).parameters:
        return _answer_without_cache(model, vectors, question)
    embeds = embedded(model, vectors, question)
    written = model.generate(
        inputs_embeds=embeds,
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=ENDS,
        pad_token_id=1,
    )
    assert isinstance(written, Tensor)
    ids = written[0].tolist()
    stop = next((at for at, token in enumerate(ids) if token in ENDS), len(ids))
    return tuple(ids[:stop])


def _answer_without_cache(model: PreTrainedModel, vectors: Tensor, question: Sequence[int]) -> tuple[int, ...]:
    """The same for an architecture whose ``generate`` takes no embeddings: a whole forward pass for each token."""
    written: list[int] = []
    while len(written) < NEW_TOKENS:
        token = int(all_logits(model, vectors, [*question, *written])[0, -1].argmax())
        if token in ENDS:
            break
        written.append(token)
    return tuple(written)


def rounded(values: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """``values``, changed at random by as much as ``dtype`` rounds them."""
    return values * (1 + torch.randn(values.shape, generator=generator) * torch.finfo(dtype).eps)


@torch.no_grad()
def all_logits(model: PreTrainedModel, vectors: Tensor, ids: Sequence[int], noise: int = 0) -> Tensor:
    """Logits at every position without a cache: one row, and ``noise`` copies of it, each rounded another way."""
    embeds, generator = embedded(model, vectors, ids), torch.Generator().manual_seed(4)
    copies = rounded(embeds.float().expand(noise, -1, -1), embeds.dtype, generator)
    logits: Tensor = model(inputs_embeds=torch.cat([embeds, copies.to(embeds)]), use_cache=False).logits
    return logits.float()


def rounding(model: PreTrainedModel, exact: PreTrainedModel, vectors: Tensor, ids: Sequence[int]) -> float:
    """Largest error of the logits of a row that rounding in the model's own computation causes.

    As a share of the largest logit of each position. exact: the same weights in float32.
    """
    truth = all_logits(exact, vectors, ids)
    errors = (all_logits(model, vectors, ids, noise=32) - truth).abs().amax(-1) / truth.abs().amax(-1)
    return float(errors.max())


def loss(model: PreTrainedModel, vectors: Tensor, question: Sequence[int], target: Sequence[int]) -> Tensor:
    """Cross-entropy of ``target`` with teacher forcing, summed over its tokens."""
    logits = model(inputs_embeds=embedded(model, vectors, [*question, *target]), use_cache=False).logits[0]
    start = len(vectors) + len(question)
    return cross_entropy(logits[start - 1 : -1].float(), torch.tensor(target), reduction="sum")


def loss_gradient(model: PreTrainedModel, vectors: Tensor, rows: Sequence[tuple[list[int], list[int]]]) -> Tensor:
    """The gradient of the summed loss of ``rows`` at the soft prompt."""
    leaf = vectors.clone().requires_grad_()
    total = torch.zeros_like(vectors)
    for question, target in rows:
        total += torch.autograd.grad(loss(model, leaf, question, target), leaf)[0]
    return total


def saliency(
    model: PreTrainedModel, vectors: Tensor, question: Sequence[int], rationale: Sequence[int]
) -> dict[int, Tensor]:
    """``| sum_h A * dL/dA |`` of each layer with softmax attention: rows after the prompt, columns of the prompt."""
    leaf, count = vectors.clone().requires_grad_(), len(vectors)
    with _eager(model) as seen:
        value = loss(model, leaf, question, rationale) / len(rationale)
    # A power of two, so that small gradients in 16 bits do not vanish.
    scale = 2.0**20
    gradients = torch.autograd.grad(value * scale, list(seen.values()))
    products = {
        layer: (a.detach().double() * g.double() / scale)[0, :, count:, :count].sum(0).abs()
        for (layer, a), g in zip(seen.items(), gradients, strict=True)
    }
    return {layer: products[layer] for layer in sorted(products)}


@contextmanager
def _eager(model: PreTrainedModel) -> Iterator[dict[int, Tensor]]:
    """Records the probabilities that the eager attention function of each layer returns."""
    seen: dict[int, Tensor] = {}
    running: list[int] = []
    blocks = getattr(model.get_decoder(), "layers", [])
    # Attention modules that are shared by blocks know no layer (Zamba).
    hooks = [b.register_forward_pre_hook(lambda *_, i=i: running.append(i)) for i, b in enumerate(blocks)]
    names = {type(module).__module__ for module in model.modules()}
    files = [sys.modules[name] for name in names if hasattr(sys.modules[name], "eager_attention_forward")]
    before = [(file, file.eager_attention_forward) for file in files]

    def recorded(function: Any) -> Any:
        def call(module: Any, *args: Any, **keywords: Any) -> Any:
            output, probabilities = function(module, *args, **keywords)
            layer = running[-1] if module.layer_idx in (None, -1) else module.layer_idx
            assert layer not in seen, "a layer ran twice"
            seen[layer] = probabilities
            return output, probabilities

        return call

    own = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        for file, function in before:
            file.eager_attention_forward = recorded(function)
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
        for file, function in before:
            file.eager_attention_forward = function
        model.set_attn_implementation(own)


@dataclass(frozen=True, slots=True)
class Judged:
    """The trigger's R (Eq 11) and the key token, with how near each is to being another one.

    unsure: share of late positions whose ``s_i`` is within ``margin`` of beta. runner_up: the second largest
    ``S_acc`` as a share of the largest.
    """

    ratio: float
    unsure: float
    key_token: int
    runner_up: float


def judged(layers: dict[int, Tensor], question: int, shallow: Sequence[int], margin: float) -> Judged:
    """R of the last layer with softmax attention; the key token of ``shallow``, counted among these layers."""
    each = list(layers.values())
    influence = each[-1][question:].mean(1)
    half = len(influence) // 2
    beta, late = influence[:half].mean(), influence[half:]
    profile = torch.stack([each[layer].mean(0) for layer in shallow]).mean(0)
    top = profile.topk(2).values
    return Judged(
        ratio=int((late > beta).sum()) / len(late),
        unsure=int(((late - beta).abs() <= margin * beta).sum()) / len(late),
        key_token=int(profile.argmax()),
        runner_up=float(top[1] / top[0]),
    )
