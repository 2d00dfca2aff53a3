"""Saliency of attention (Eq 1), exactly, for the prompt columns of any layer, without a single attention matrix.

With ``O = A V`` the output of a head, ``dL/dA[i,j] = dL/dO[i] . V[j]``: queries, keys, values and one gradient a layer
suffice. See Wang et al. 2023, "Label words are anchors", for the measure, and the paper's section 3 for its use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from dpc.capture import AttentionCall, capture_attention, check_reproduces, grouped_matmul
from dpc.errors import UserError
from dpc.lm import FrozenLM
from dpc.types import HeadReduction, Saliency, Spans

_NO_LABEL = -100


def prompt_saliency(
    lm: FrozenLM,
    soft_prompt: Float[Tensor, "prompt d"],
    questions: Sequence[Sequence[int]],
    rationales: Sequence[Sequence[int]],
    layers: Sequence[int] | None = None,
    head_reduction: HeadReduction = "abs_of_sum",
) -> list[Saliency]:
    """``I_l[i,j] = | sum_h A_h[i,j] * dL/dA_h[i,j] |`` (Eq 1) for the prompt columns j of each instance.

    L is the mean cross-entropy of the instance's own rationale tokens in nats; one forward and one backward pass serve
    the whole batch, and no instance depends on its neighbours.

    Args:
        lm: the model, in evaluation mode.
        soft_prompt: vectors in front of every question, in any float type.
        questions: token ids, one sequence an instance; may be empty.
        rationales: token ids that the model wrote after each question.
        layers: which layers, None for all; the result has them in ascending order.
        head_reduction: ``abs_of_sum`` is Eq 1; ``sum_of_abs`` takes absolute values before the sum over heads.

    Returns:
        One ``Saliency`` an instance, scores ``[layer, question and rationale row, prompt column]`` on the model's
        device, float32 (float64 for a float64 model).

    Raises:
        UserError: an empty rationale, a sequence longer than the context, an unknown layer or token, a prompt of
            another width, or a model whose attention cannot be reproduced exactly.
    """
    if head_reduction not in get_args(HeadReduction):
        raise UserError(f"head_reduction {head_reduction!r}: expected one of {', '.join(get_args(HeadReduction))}")
    wanted = _sorted_layers(lm, layers)
    check_reproduces(lm)
    _require_valid(lm, soft_prompt, questions, rationales)
    if not questions:
        return []
    # Gradients are needed here even where the caller has switched them off.
    with torch.inference_mode(False), torch.enable_grad():
        batch = _pack(lm, soft_prompt, questions, rationales)
        reducer = _Reducer(wanted[0], len(soft_prompt), batch.embedded.shape[1], head_reduction)
        with capture_attention(lm.model, wanted, reducer):
            losses = _rationale_losses(lm, batch)
        assert reducer.leaf is not None
        torch.autograd.grad(losses.sum(), reducer.leaf)
    scores = torch.stack([reducer.blocks[layer].to(lm.device) for layer in wanted], dim=1)
    return [
        _instance(scores[index], spans, wanted, loss, head_reduction)
        for index, (spans, loss) in enumerate(zip(batch.spans, losses.detach().tolist(), strict=True))
    ]


def saliency_block(
    call: AttentionCall,
    gradient: Float[Tensor, "batch head row v"],
    rows: slice,
    columns: slice,
    head_reduction: HeadReduction = "abs_of_sum",
) -> Float[Tensor, "batch block_row block_column"]:
    """Any block of one layer's saliency (Eq 1) from its attention call and ``dL/dO``, in chunks of rows."""
    value = call.value[:, :, columns].to(call.precision)
    parts = []
    for chunk in call.row_blocks(rows):
        sensitivity = grouped_matmul(gradient[:, :, chunk].to(call.precision), value)
        product = call.probabilities(chunk, columns) * sensitivity
        parts.append(product.sum(1).abs() if head_reduction == "abs_of_sum" else product.abs().sum(1))
    return torch.cat(parts, dim=1)


class _Reducer:
    """Cuts the graph at the shallowest layer and turns each layer's gradient into its block as soon as it arrives."""

    def __init__(self, shallowest: int, prompt: int, length: int, head_reduction: HeadReduction) -> None:
        self.blocks: dict[int, Tensor] = {}
        self.leaf: Tensor | None = None
        self._shallowest = shallowest
        self._rows, self._columns = slice(prompt, length), slice(0, prompt)
        self._head_reduction = head_reduction

    def __call__(self, layer: int, call: AttentionCall, output: Tensor) -> Tensor:
        if layer == self._shallowest:
            output = output.detach().requires_grad_()
            self.leaf = output
        if output.shape[2] != self._rows.stop or not output.requires_grad:
            raise UserError(
                f"attention layer {layer} does not run on the whole sequence after layer {self._shallowest}; "
                "choose a model of another architecture"
            )
        pending = [call.detach()]

        def reduce(gradient: Tensor) -> None:
            # Popped, so that this layer's queries, keys and values go before the next layer is reduced.
            self.blocks[layer] = saliency_block(
                pending.pop(), gradient, self._rows, self._columns, self._head_reduction
            )

        output.register_hook(reduce)
        return output


@dataclass(frozen=True, slots=True)
class _Batch:
    """Right-padded sequences: attention is causal, so no real position ever sees what follows its instance."""

    embedded: Float[Tensor, "batch row d"]
    labels: Int[Tensor, "batch row"]
    spans: tuple[Spans, ...]


def _pack(
    lm: FrozenLM,
    soft_prompt: Tensor,
    questions: Sequence[Sequence[int]],
    rationales: Sequence[Sequence[int]],
) -> _Batch:
    prompt = soft_prompt.detach().to(device=lm.device, dtype=lm.dtype)
    spans = tuple(Spans.of(len(prompt), len(q), len(r)) for q, r in zip(questions, rationales, strict=True))
    length = max(span.rationale.stop for span in spans)
    ids = torch.zeros(len(spans), length - len(prompt), dtype=torch.long)
    labels = torch.full((len(spans), length), _NO_LABEL)
    for row, (question, rationale, span) in enumerate(zip(questions, rationales, spans, strict=True)):
        tokens = torch.tensor([*question, *rationale])
        ids[row, : len(tokens)] = tokens
        # A token is predicted at the position before it.
        labels[row, span.rationale.start - 1 : span.rationale.stop - 1] = tokens[len(question) :]
    embedded = lm.embed(ids.to(lm.device)).detach().to(lm.dtype)
    embedded = torch.cat([prompt.expand(len(spans), -1, -1), embedded], dim=1)
    return _Batch(embedded, labels.to(lm.device), spans)


def _rationale_losses(lm: FrozenLM, batch: _Batch) -> Float[Tensor, " batch"]:
    """Mean cross-entropy of each instance's rationale, in nats per token."""
    first = min(span.rationale.start for span in batch.spans) - 1
    last = max(span.rationale.stop for span in batch.spans) - 1
    logits = lm.logits_at(batch.embedded, torch.arange(first, last))
    labels = batch.labels[:, first:last].to(logits.device)
    tokens = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=_NO_LABEL, reduction="none")
    return tokens.view_as(labels).sum(1) / (labels != _NO_LABEL).sum(1)


def _instance(
    scores: Float[Tensor, "layer row prompt"],
    spans: Spans,
    layers: tuple[int, ...],
    loss: float,
    head_reduction: HeadReduction,
) -> Saliency:
    own = scores[:, : spans.rationale.stop - spans.question.start].clone()
    if not bool(torch.isfinite(own).all()):
        raise UserError("saliency is not finite: numbers overflow in this model's type, load it in float32 or bfloat16")
    return Saliency(own, spans, layers, loss, head_reduction)


def _sorted_layers(lm: FrozenLM, layers: Sequence[int] | None) -> tuple[int, ...]:
    wanted = tuple(range(lm.layers)) if layers is None else tuple(sorted(set(layers)))
    if not wanted:
        raise UserError(
            f"layers: expected at least one of 0 to {lm.layers - 1}, or none given for all, got an empty list"
        )
    outside = [layer for layer in wanted if not 0 <= layer < lm.layers]
    if outside:
        raise UserError(f"layer {outside[0]}: model {lm.name!r} has layers 0 to {lm.layers - 1}; choose among them")
    return wanted


def _require_valid(
    lm: FrozenLM,
    soft_prompt: Tensor,
    questions: Sequence[Sequence[int]],
    rationales: Sequence[Sequence[int]],
) -> None:
    prompt, width = soft_prompt.shape
    if width != lm.hidden_size or not prompt:
        raise UserError(
            f"soft prompt of {prompt} vectors of width {width}: model {lm.name!r} expects at least one vector of width "
            f"{lm.hidden_size}; use a prompt tuned on this model"
        )
    if len(questions) != len(rationales):
        raise UserError(
            f"{len(questions)} questions and {len(rationales)} rationales: expected one rationale a question"
        )
    for index, (question, rationale) in enumerate(zip(questions, rationales, strict=True)):
        if not rationale:
            raise UserError(f"instance {index}: empty rationale, expected at least one token; leave the instance out")
        length = prompt + len(question) + len(rationale)
        if length > lm.context:
            raise UserError(
                f"instance {index}: {length} positions ({prompt} prompt, {len(question)} question, {len(rationale)} "
                f"rationale) exceed the context of {lm.context}; shorten the question or the generation"
            )
        unknown = [token for token in (*question, *rationale) if not 0 <= token < lm.vocab_size]
        if unknown:
            raise UserError(
                f"instance {index}: token {unknown[0]} is not among the {lm.vocab_size} of model {lm.name!r}; "
                "encode it with this model's tokenizer"
            )
