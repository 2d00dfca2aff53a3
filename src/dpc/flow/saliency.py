"""Saliency of attention (Eq 1), exactly, for the prompt columns of any layer, without a single attention matrix.

With ``O = A V`` the output of a head, ``dL/dA[i,j] = dL/dO[i] . V[j]``: queries, keys, values and one gradient a layer
suffice. See Wang et al. 2023, "Label words are anchors", for the measure, and the paper's section 3 for its use.
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
from dpc.flow.block_walk import Reduce, after, logits_of_hidden, unchanged, walk_backward, walk_forward
from dpc.model.attention_call import AttentionCall, grouped_matmul
from dpc.model.capture import capture_attention, check_reproduces
from dpc.model.lm import FrozenLM
from dpc.prompt.prefix import PromptPrefix, compute_prefixes
from dpc.types import HeadReduction, Saliency, Spans

SaliencyWay = Literal["auto", "by block", "one graph", "whole"]

_NO_LABEL = -100
# Numbers that a graph keeps in a block for each value of a hidden state, about; and how many in all are few (128 MB).
_KEPT_A_BLOCK, _SMALL_GRAPH = 32, 2**25
# Logits computed at a time, over a batch: more would outweigh the activations of a block, fewer leave a GPU waiting.
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
        prefix: keys and values of ``soft_prompt``, where they are at hand; computed here otherwise.
        way: ``by block`` or in ``one graph`` after the prefix, ``auto`` (by size), or ``whole``, prompt included.

    Returns:
        One ``Saliency`` an instance, scores ``[layer, question and rationale row, prompt column]`` on the model's
        device, float32 (float64 for a float64 model).

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
    # The loss of the first token after an empty question is found at the last soft token, which must run then.
    start = 0 if way == "whole" else len(soft_prompt) - (not all(questions))
    # Gradients are needed here even where the caller has switched them off.
    with torch.inference_mode(False), torch.enable_grad():
        batch = _pack(lm, soft_prompt, questions, rationales, start)
        rows, columns = slice(len(soft_prompt) - start, batch.embedded.shape[1]), slice(0, len(soft_prompt))

        def reduce(layer: int, call: AttentionCall, gradient: Tensor) -> None:
            blocks[layer] = saliency_block(call, gradient, rows, columns, head_reduction).to(lm.device)

        before = None if way == "whole" else _prefix(lm, soft_prompt, prefix, start)
        if before is not None and (way == "by block" or (way == "auto" and not _one_graph_is_small(lm, batch))):
            losses = _block_by_block(lm, batch, before, wanted, reduce)
        else:
            losses = _in_one_graph(lm, batch, before, wanted, reduce)
    scores = torch.stack([blocks[layer] for layer in wanted], dim=1)
    return [
        _instance(scores[index], spans, wanted, loss, head_reduction)
        for index, (spans, loss) in enumerate(zip(batch.spans, losses.tolist(), strict=True))
    ]


def walk_layers(
    lm: FrozenLM,
    soft_prompt: Float[Tensor, "prompt d"],
    question: Sequence[int],
    rationale: Sequence[int],
    layers: Sequence[int] | None,
    reduce: Reduce,
    *,
    prefix: PromptPrefix | None = None,
) -> float:
    """Hand each of ``layers`` of one instance to ``reduce``, the last one first; returns the rationale's loss in nats.

    ``reduce(layer, call, gradient [1 head row v])``: the last rows of the call are those of question and rationale, its
    columns the whole ``[p | q | r]``. Other arguments and errors are those of ``prompt_saliency``.
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
    walk = walk_forward(lm, batch.embedded, prefix, layers[0])
    losses, gradient = loss_gradient(lm, walk.hidden, batch.labels)
    scale = lm.gradient_scale
    walk_backward(lm, walk, gradient * scale, layers, lambda layer, call, scaled: reduce(layer, call, scaled / scale))
    return losses


def loss_gradient(
    lm: FrozenLM, hidden: Float[Tensor, "batch row d"], labels: Int[Tensor, "batch row"]
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch row d"]]:
    """The mean cross-entropy of each instance in nats a token, and its gradient at what comes out of the last block.

    labels: the token that each position is asked for, negative for none. Norm and head run over a few positions at a
    time, so that logits are never there for all of them.
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
    """Whether a graph of all blocks is too small for saving memory to be worth the time."""
    return batch.embedded.numel() * lm.layers * _KEPT_A_BLOCK <= _SMALL_GRAPH


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
        # Popped, so that this layer's queries, keys and values go before the next layer is reduced.
        output.register_hook(lambda scaled: reduce(layer, pending.pop(), scaled / scale))
        return output

    kept = slice(int((batch.labels >= 0).any(0).nonzero()[0]), batch.labels.shape[1])
    with capture_attention(lm.model, layers, visit):
        logits = lm.last_logits(batch.embedded, kept.stop - kept.start, after(prefix, batch.embedded))
    losses = _losses(logits, batch.labels, kept)
    torch.autograd.grad(losses.sum() * scale, leaf)
    return losses.detach()


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
    start: int,
) -> _Batch:
    """Embeddings and labels of all positions from ``start`` on."""
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
    embedded = torch.cat([prompt[start:].expand(len(spans), -1, -1), embedded], dim=1)
    return _Batch(embedded, labels[:, start:].to(lm.device), spans)


def _losses(
    logits: Float[Tensor, "batch kept vocab"], labels: Int[Tensor, "batch row"], kept: slice
) -> Float[Tensor, " batch"]:
    """What the positions ``kept`` add to each instance's mean cross-entropy, in nats per rationale token."""
    labels = labels.to(logits.device)
    targets = labels[:, kept]
    tokens = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=_NO_LABEL, reduction="none")
    return tokens.view_as(targets).sum(1) / (labels != _NO_LABEL).sum(1)


def _prefix(lm: FrozenLM, soft_prompt: Tensor, prefix: PromptPrefix | None, stop: int) -> PromptPrefix:
    """The first ``stop`` positions of the prompt's prefix."""
    if prefix is None:
        # With our attention, whose precision is the model's own even where the library's is not.
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
    """``scores`` as they are. Raises ``UserError`` where one of them is no finite number."""
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
                f"rationale) exceed the context of {lm.context}; shorten the question or the generation"
            )
        unknown = [token for token in (*question, *rationale) if not 0 <= token < lm.vocab_size]
        if unknown:
            raise UserError(
                f"instance {index}: token {unknown[0]} is not among the {lm.vocab_size} of model {lm.name!r}; "
                "encode it with this model's tokenizer"
            )
