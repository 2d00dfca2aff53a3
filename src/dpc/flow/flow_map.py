"""Flow maps: saliency and attention of every layer and all columns of one instance, for pages and figures.

The method itself needs only the prompt columns. A map has ``layers * T^2`` numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dpc.files import write_atomically
from dpc.flow.saliency import check_head_reduction, require_finite, saliency_block, visit_layers
from dpc.model.attention_call import AttentionCall
from dpc.model.lm import FrozenLM
from dpc.prompt.prefix import PromptPrefix
from dpc.types import HeadReduction, Saliency, Spans

# The most numbers in one array of a map: 64 MB, or a sequence of 700 positions in a model of 32 layers.
_LARGEST = 2**24


@dataclass(frozen=True, slots=True, eq=False)
class FlowMap:
    """Saliency and attention between the positions of one instance ``[p | q | r]``.

    saliency: Eq 1. attention: post-softmax, mean over heads; rows sum to 1 (less in a model with attention sinks).
    Rows are the positions of question and rationale; columns are all positions of ``spans``.
    layers: the model layer of each entry of the first axis, ascending. loss: of the rationale, in nats per token.
    """

    saliency: Float[Tensor, "layer row column"]
    attention: Float[Tensor, "layer row column"]
    spans: Spans
    layers: tuple[int, ...]
    loss: float
    head_reduction: HeadReduction

    def prompt_columns(self) -> Saliency:
        """The result of ``prompt_saliency`` for the same instance and layers."""
        scores = self.saliency[:, :, self.spans.prompt]
        return Saliency(scores, self.spans, self.layers, self.loss, self.head_reduction)


def flow_map(
    lm: FrozenLM,
    soft_prompt: Float[Tensor, "prompt d"],
    question: Sequence[int],
    rationale: Sequence[int],
    layers: Sequence[int] | None = None,
    head_reduction: HeadReduction = "abs_of_sum",
    *,
    prefix: PromptPrefix | None = None,
) -> FlowMap:
    """Saliency (Eq 1) and attention of one instance in ``layers`` (None: every one), in one forward and backward pass.

    Arguments and errors are those of ``prompt_saliency``. The arrays are on the model's device, float32 (float64 for a
    float64 model), each ``[layer, |q| + |r|, P + |q| + |r|]``.
    """
    check_head_reduction(head_reduction)
    length = len(question) + len(rationale)
    saliency: dict[int, Tensor] = {}
    attention: dict[int, Tensor] = {}

    def reduce(layer: int, call: AttentionCall, gradient: Tensor) -> None:
        rows = slice(call.rows.stop - length, call.rows.stop)
        [scores] = saliency_block(call, gradient, rows, call.columns, head_reduction)
        saliency[layer], attention[layer] = scores.to(lm.device), _mean_attention(call, rows).to(lm.device)

    loss = visit_layers(lm, soft_prompt, question, rationale, layers, reduce, prefix=prefix)
    ascending = sorted(saliency)
    return FlowMap(
        saliency=require_finite(torch.stack([saliency[layer] for layer in ascending])),
        attention=torch.stack([attention[layer] for layer in ascending]),
        spans=Spans.of(len(soft_prompt), len(question), len(rationale)),
        layers=tuple(ascending),
        loss=loss,
        head_reduction=head_reduction,
    )


def fits_a_map(lm: FrozenLM, prompt: int, question: int, rationale: int) -> bool:
    """Whether a map of all layers over spans of these lengths, in tokens, is small enough to be stored."""
    rows = question + rationale
    return lm.layers * rows * (prompt + rows) <= _LARGEST


def map_arrays(flow: FlowMap, tokens: Sequence[str]) -> dict[str, Any]:
    """The arrays of a map's file.

    ``saliency`` and ``attention`` ``[layer, row, column]`` in float32, ``tokens`` (a label for each column, virtual
    tokens as ``p0``, ``p1`` and so on), ``spans`` (``[[start, stop], ...]`` of prompt, question and rationale),
    ``layers``.

    tokens: texts of the question's and the rationale's tokens. Raises ``ValueError`` for another number of texts.
    """
    spans = flow.spans
    labels = [*(f"p{index}" for index in range(spans.prompt.stop)), *tokens]
    if len(labels) != spans.rationale.stop:
        raise ValueError(f"{len(tokens)} tokens for {spans.rationale.stop - spans.prompt.stop} positions")
    return {
        "saliency": flow.saliency.float().cpu().numpy(),
        "attention": flow.attention.float().cpu().numpy(),
        "tokens": np.array(labels, dtype=np.str_),
        "spans": np.array([[s.start, s.stop] for s in (spans.prompt, spans.question, spans.rationale)]),
        "layers": np.array(flow.layers),
    }


def save_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Write a compressed ``.npz`` file. Raises ``UserError`` if it cannot be written."""
    content = BytesIO()
    np.savez_compressed(content, **arrays)
    write_atomically(path, content.getvalue())


def _mean_attention(call: AttentionCall, rows: slice) -> Float[Tensor, "row column"]:
    blocks = call.row_blocks(rows, call.columns)
    return torch.cat([call.probabilities(block, call.columns)[0].mean(0) for block in blocks])
