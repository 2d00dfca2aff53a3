"""Saliency (Eq 1) the slow way: eager attention, its matrices kept, and their gradients retained by autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from dpc.model.lm import FrozenLM
from tests.tiny_models import tiny_lm

Instance = tuple[Tensor, list[int], list[int]]
PROMPT, QUESTION, RATIONALE = 5, 5, 11


def instance(lm: FrozenLM, seed: int = 0, question: int = QUESTION, rationale: int = RATIONALE) -> Instance:
    """A random soft prompt as large as real embeddings, and random tokens."""
    generator = torch.Generator().manual_seed(seed)
    size = lm.embed(torch.arange(2, lm.vocab_size)).detach().double().std()
    prompt = torch.randn(PROMPT, lm.hidden_size, generator=generator, dtype=torch.float64) * size
    tokens = torch.randint(2, lm.vocab_size, (question + rationale,), generator=generator).tolist()
    return prompt, tokens[:question], tokens[question:]


def relative_error(ours: Tensor, truth: Tensor) -> float:
    return float((ours.double() - truth.double()).norm() / truth.double().norm())


def layer_errors(ours: Tensor, truth: Tensor) -> float:
    return max(relative_error(a, b) for a, b in zip(ours, truth, strict=True))


@contextmanager
def attention(lm: FrozenLM, implementation: str) -> Iterator[None]:
    before = lm.model.config._attn_implementation
    lm.model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        lm.model.set_attn_implementation(before)


def register_reference(nudge: Callable[[int, Tensor], Tensor] = lambda layer, probabilities: probabilities) -> str:
    """Textbook attention in the type of its input (the library's own rounds the softmax to float32)."""

    def reference(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor,
        scaling: float,
        softcap: float | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        groups = query.shape[1] // key.shape[1]
        logits = query @ key.repeat_interleave(groups, 1).mT * scaling
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        probabilities = nudge(module.layer_idx, torch.softmax(logits + attention_mask, dim=-1))
        return (probabilities @ value.repeat_interleave(groups, 1)).transpose(1, 2), probabilities

    AttentionInterface.register("test_reference", reference)
    AttentionMaskInterface.register("test_reference", eager_mask)
    return "test_reference"


class Norm(nn.Module):
    """RMS norm in the type of its input (the library's own rounds to float32)."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = weight, eps

    def forward(self, hidden: Tensor) -> Tensor:
        return self.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.eps)


def float64_lm(architecture: str) -> FrozenLM:
    """A model that computes in float64 throughout; only the table of rotary angles is rounded, once, to float32."""
    lm = tiny_lm(architecture, torch.float64)
    for parent in list(lm.model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                weight = 1 + child.weight if architecture == "gemma2" else child.weight
                eps = child.eps if hasattr(child, "eps") else child.variance_epsilon
                setattr(parent, name, Norm(weight.detach(), eps))
    return lm


def own_loss(lm: FrozenLM, case: Instance, **options: Any) -> tuple[Tensor, Any]:
    """Teacher-forced loss of the rationale, by the model itself."""
    prompt, question, rationale = case
    embedded = torch.cat([prompt.to(lm.dtype), lm.embed(torch.tensor([*question, *rationale]))])[None]
    out = lm.model(inputs_embeds=embedded.requires_grad_(), use_cache=False, **options)
    logits = out.logits[0, len(prompt) + len(question) - 1 : -1]
    return cross_entropy(logits, torch.tensor(rationale)), out


def oracle(lm: FrozenLM, case: Instance, implementation: str = "eager") -> Tensor:
    """``A * dL/dA`` of every layer and head, rows and columns of the whole sequence, through autograd."""
    with attention(lm, implementation):
        loss, out = own_loss(lm, case, output_attentions=True)
    for probabilities in out.attentions:
        probabilities.retain_grad()
    loss.backward()
    return torch.stack([(a.detach() * a.grad)[0] for a in out.attentions])


def prompt_columns(product: Tensor) -> Tensor:
    return product.sum(1).abs()[:, PROMPT:, :PROMPT]
