"""Saliency of attention (Eq 1) for the prompt columns of any layer: exact, without attention matrices.

With ``O = A V`` the output of a head, ``dL/dA[i,j] = dL/dO[i] . V[j]``, so queries, keys, values and one gradient for
each layer suffice. The measure is from Wang et al. 2023, "Label words are anchors"; section 3 of the paper uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from dpc.errors import UserError
from dpc.flow.block_walk import (
    Reduce,
    backward_by_block,
    forward_by_block,
    logits_of_hidden,
    prefix_arguments,
    unchanged,
)
from dpc.model.attention_call import AttentionCall, grouped_matmul
from dpc.model.capture import capture_attention
from dpc.model.eager_check import check_reproduces
from dpc.model.lm import FrozenLM
from dpc.model.own_check import check_own_passes
from dpc.prompt.prefix import PromptPrefix, compute_prefixes
from dpc.types import IGNORED_LABEL, HeadReduction, Saliency, Spans

SaliencyWay = Literal["auto", "by block", "one graph", "whole"]

# A graph stores about this many numbers in each block for each number of a hidden state. A graph of all blocks with at
# most _SMALL_GRAPH numbers (128 MB) is small.
_STORED_IN_BLOCK, _SMALL_GRAPH = 32, 2**25
# Logits computed at a time, for a batch. More take more memory than the activations of a block; fewer leave a GPU idle.
_LOGITS_ON_CPU, _LOGITS_ON_GPU = 2**22, 2**26


def prompt_saliency(
    lm: FrozenLM,
    soft_prompt: Float[Tensor, "prompt d"],
    questions: Sequence[Sequence[int]],
    rationales: Sequence[Sequence[int]],
    layers: Sequence[int] | None = None,
    head_reduction: HeadReduction = "abs_of_sum",
    *,
    prefix: PromptPrefix | None = None,
    way: SaliencyWay = "auto",
    end_ids: Sequence[int | None] | None = None,
) -> list[Saliency]:
    """``I_l[i,j] = | sum_h A_h[i,j] * dL/dA_h[i,j] |`` (Eq 1) for the prompt columns j of each instance.

    L is the mean cross-entropy of the instance's own rationale tokens in nats, with teacher forcing. A batch takes one
    forward and one backward pass, and no instance depends on the others.

    Args:
        lm: the model, in evaluation mode.
        soft_prompt: virtual tokens before every question, in any float type.
        questions: token ids of each instance; may be empty.
        rationales: token ids that the model wrote after each question.
        layers: which layers, None for all; the result has them in ascending order.
        head_reduction: ``abs_of_sum`` is Eq 1; ``sum_of_abs`` takes absolute values before the sum over heads.
        prefix: keys and values of ``soft_prompt`` if they are known; otherwise they are computed.
        way: ``by block`` (activation checkpointing) or in ``one graph``, both after the prefix; ``auto``: by size;
            ``whole``: one graph of the whole sequence, prompt included.
        end_ids: the end token of each rationale, where it counts in the loss; None where it does not.

    Returns:
        One ``Saliency`` per instance, on the model's device, in float32 (float64 for a float64 model).

    Raises:
        UserError: an empty rationale, a sequence longer than the context, an unknown layer or token, a prompt of
            another width, or a model whose attention cannot be reproduced exactly.
    """
    wanted = _sorted_layers(lm, layers)
    check_head_reduction(head_reduction)
    _require_ready(lm, soft_prompt, questions, rationales)
    if not questions:
        return []
    blocks: dict[int, Tensor] = {}
    # The last virtual token predicts the first token after an empty question, so it is not part of the prefix then.
    start = 0 if way == "whole" else len(soft_prompt) - (not all(questions))
    # Gradients are needed even if the caller has disabled them.
    with torch.inference_mode(False), torch.enable_grad():
        batch = _pack(lm, soft_prompt, questions, rationales, start, end_ids)
        rows, columns = slice(len(soft_prompt) - start, batch.embedded.shape[1]), slice(0, len(soft_prompt))

        def reduce(layer: int, call: AttentionCall, gradient: Tensor) -> None:
            blocks[layer] = saliency_block(call, gradient, rows, columns, head_reduction).to(lm.device)

        before = None if way == "whole" else _prefix(lm, soft_prompt, prefix, start)
        if before is not None and (way == "by block" or (way == "auto" and not _one_graph_is_small(lm, batch))):
            losses = _block_by_block(lm, batch, before, wanted, reduce)
        else:
            losses = _in_one_graph(lm, batch, before, wanted, reduce)
    scores = torch.stack([blocks[layer] for layer in wanted], dim=1)
    each = zip(scores, batch.spans, losses.tolist(), strict=True)
    return [_instance(own, spans, wanted, loss, head_reduction) for own, spans, loss in each]


def visit_layers(
    lm: FrozenLM,
    soft_prompt: Float[Tensor, "prompt d"],
    question: Sequence[int],
    rationale: Sequence[int],
    layers: Sequence[int] | None,
    reduce: Reduce,
    *,
    prefix: PromptPrefix | None = None,
) -> float:
    """Call ``reduce`` for each of ``layers`` of one instance, from last to first; returns the rationale's loss in nats.

    ``reduce(layer, call, gradient [1 head row v])``: the last rows of the call are those of question and rationale, its
    columns are the whole ``[p | q | r]``. Other arguments and errors are those of ``prompt_saliency``.
    """
    wanted = _sorted_layers(lm, layers)
    _require_ready(lm, soft_prompt, [question], [rationale])
    start = len(soft_prompt) - (not question)
    with torch.inference_mode(False), torch.enable_grad():
        batch = _pack(lm, soft_prompt, [question], [rationale], start)
        losses = _block_by_block(lm, batch, _prefix(lm, soft_prompt, prefix, start), wanted, reduce)
    return float(losses[0])


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
    for chunk in call.row_blocks(rows, columns):
        sensitivity = grouped_matmul(gradient[:, :, chunk].to(call.precision), value)
        product = call.probabilities(chunk, columns) * sensitivity
        parts.append(product.sum(1).abs() if head_reduction == "abs_of_sum" else product.abs().sum(1))
    return torch.cat(parts, dim=1)


def _block_by_block(
    lm: FrozenLM, batch: _Batch, prefix: PromptPrefix, layers: tuple[int, ...], reduce: Reduce
) -> Float[Tensor, " batch"]:
    forward = forward_by_block(lm, batch.embedded, prefix, layers[0])
    losses, gradient = loss_gradient(lm, forward.hidden, batch.labels)
    scale = lm.gradient_scale

    def unscaled(layer: int, call: AttentionCall, scaled: Tensor) -> None:
        reduce(layer, call, scaled / scale)

    backward_by_block(lm, forward, gradient * scale, layers, unscaled)
    return losses


def loss_gradient(
    lm: FrozenLM, hidden: Float[Tensor, "batch row d"], labels: Int[Tensor, "batch row"]
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch row d"]]:
    """The mean cross-entropy of each instance in nats per token, and its gradient at the output of the last block.

    labels: the token that each position predicts, negative for none. Final norm and head run over a few positions at a
    time, so the logits of all positions never exist together.
    """
    labelled = (labels >= 0).any(0).nonzero().flatten().tolist()
    most = _LOGITS_ON_CPU if lm.device.type == "cpu" else _LOGITS_ON_GPU
    size = max(1, most // (len(hidden) * lm.vocab_size))
    losses, gradient = hidden.new_zeros(len(hidden)).float(), torch.zeros_like(hidden)
    for at in range(0, len(labelled), size):
        part = slice(labelled[at], labelled[min(at + size, len(labelled)) - 1] + 1)
        leaf = hidden[:, part].detach().requires_grad_()
        logits = logits_of_hidden(lm, leaf)
        loss = _losses(logits, labels, part)
        [gradient[:, part]] = torch.autograd.grad(loss.sum(), leaf)
        losses = losses + loss.detach().to(losses.device)
    return losses, gradient


def _one_graph_is_small(lm: FrozenLM, batch: _Batch) -> bool:
    """Whether a graph of all blocks takes so little memory that checkpointing would only cost time."""
    return batch.embedded.numel() * lm.layers * _STORED_IN_BLOCK <= _SMALL_GRAPH


def _in_one_graph(
    lm: FrozenLM, batch: _Batch, prefix: PromptPrefix | None, layers: tuple[int, ...], reduce: Reduce
) -> Float[Tensor, " batch"]:
    leaf: list[Tensor] = []
    scale = lm.gradient_scale

    def visit(layer: int, call: AttentionCall, output: Tensor) -> Tensor:
        if layer == layers[0]:
            output = output.detach().requires_grad_()
            leaf.append(output)
        if output.shape[2] != batch.embedded.shape[1] or not output.requires_grad:
            raise UserError(
                f"attention layer {layer} does not run on the whole sequence after layer {layers[0]}; "
                "choose a model of another architecture"
            )
        pending = [call.detach()]
        # Popped, so that this layer's queries, keys and values are freed before the next layer is reduced.
        output.register_hook(lambda scaled: reduce(layer, pending.pop(), scaled / scale))
        return output

    kept = slice(int((batch.labels >= 0).any(0).nonzero()[0]), batch.labels.shape[1])
    with capture_attention(lm.model, layers, visit):
        logits = lm.last_logits(batch.embedded, kept.stop - kept.start, prefix_arguments(prefix, batch.embedded))
    losses = _losses(logits, batch.labels, kept)
    torch.autograd.grad(losses.sum() * scale, leaf)
    return losses.detach()


@dataclass(frozen=True, slots=True)
class _Batch:
    """Sequences padded on the right. Attention is causal, so no token attends to the padding after it."""

    embedded: Float[Tensor, "batch row d"]
    labels: Int[Tensor, "batch row"]
    spans: tuple[Spans, ...]


def _pack(
    lm: FrozenLM,
    soft_prompt: Tensor,
    questions: Sequence[Sequence[int]],
    rationales: Sequence[Sequence[int]],
    start: int,
    end_ids: Sequence[int | None] | None = None,
) -> _Batch:
    """Embeddings and labels of all positions from ``start`` on."""
    prompt = soft_prompt.detach().to(device=lm.device, dtype=lm.dtype)
    spans = tuple(Spans.of(len(prompt), len(q), len(r)) for q, r in zip(questions, rationales, strict=True))
    length = max(span.rationale.stop for span in spans)
    ids = torch.zeros(len(spans), length - len(prompt), dtype=torch.long)
    labels = torch.full((len(spans), length), IGNORED_LABEL)
    for row, (question, rationale, span) in enumerate(zip(questions, rationales, spans, strict=True)):
        tokens = torch.tensor([*question, *rationale])
        ids[row, : len(tokens)] = tokens
        # Each position predicts the token after it.
        labels[row, span.rationale.start - 1 : span.rationale.stop - 1] = tokens[len(question) :]
        if end_ids is not None and (end := end_ids[row]) is not None:
            labels[row, span.rationale.stop - 1] = end
    embedded = lm.embed(ids.to(lm.device)).detach().to(lm.dtype)
    embedded = torch.cat([prompt[start:].expand(len(spans), -1, -1), embedded], dim=1)
    return _Batch(embedded, labels[:, start:].to(lm.device), spans)


def _losses(
    logits: Float[Tensor, "batch kept vocab"], labels: Int[Tensor, "batch row"], kept: slice
) -> Float[Tensor, " batch"]:
    """The part of each instance's mean cross-entropy from the positions ``kept``, in nats per rationale token."""
    labels = labels.to(logits.device)
    targets = labels[:, kept]
    tokens = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED_LABEL, reduction="none")
    return tokens.view_as(targets).sum(1) / (labels != IGNORED_LABEL).sum(1)


def _prefix(lm: FrozenLM, soft_prompt: Tensor, prefix: PromptPrefix | None, stop: int) -> PromptPrefix:
    """The first ``stop`` positions of the prompt's prefix."""
    if prefix is None:
        # With our attention, which computes probabilities in float64 for a float64 model; the library's may not.
        with capture_attention(lm.model, (), unchanged):
            [prefix] = compute_prefixes(lm, soft_prompt.detach()[None])
    if len(prefix) != len(soft_prompt):
        raise UserError(
            f"prefix of {len(prefix)} positions, soft prompt of {len(soft_prompt)} vectors: expected the prefix of "
            "this prompt; compute it with compute_prefixes"
        )
    keys, values = (tuple(part[:, :stop] for part in parts) for parts in (prefix.keys, prefix.values))
    return PromptPrefix(keys, values)


def _instance(
    scores: Float[Tensor, "layer row prompt"],
    spans: Spans,
    layers: tuple[int, ...],
    loss: float,
    head_reduction: HeadReduction,
) -> Saliency:
    own = scores[:, : spans.rationale.stop - spans.question.start].clone()
    return Saliency(require_finite(own), spans, layers, loss, head_reduction)


def require_finite(scores: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``scores``, unchanged. Raises ``UserError`` if one of them is not a finite number."""
    if not bool(torch.isfinite(scores).all()):
        raise UserError("saliency is not finite: numbers overflow in this model's type, load it in float32 or bfloat16")
    return scores


def check_head_reduction(head_reduction: str) -> None:
    """Raise ``UserError`` unless ``head_reduction`` is one of ``HeadReduction``."""
    if head_reduction not in get_args(HeadReduction):
        raise UserError(f"head_reduction {head_reduction!r}: expected one of {', '.join(get_args(HeadReduction))}")


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


def _require_ready(
    lm: FrozenLM,
    soft_prompt: Tensor,
    questions: Sequence[Sequence[int]],
    rationales: Sequence[Sequence[int]],
) -> None:
    check_own_passes(lm)
    check_reproduces(lm)
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
                f"rationale) exceed the context of {lm.context_limit}; shorten the question or the generation"
            )
        unknown = [token for token in (*question, *rationale) if not 0 <= token < lm.vocab_size]
        if unknown:
            raise UserError(
                f"instance {index}: token {unknown[0]} is not among the {lm.vocab_size} of model {lm.name!r}; "
                "encode it with this model's tokenizer"
            )
