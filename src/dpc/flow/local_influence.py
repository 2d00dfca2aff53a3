"""The trigger's evidence (Eqs 12 and 13) without a pass through the network, from what decoding left behind.

Row ``i`` of the last layer's saliency depends on the loss at position ``i`` alone, and on keys and values that are
there already. So the last block, the norm and the head run forward and backward over the rationale, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from dpc.engine import Decoded
from dpc.flow.saliency import loss_gradient, saliency_block
from dpc.model.attention_call import AttentionCall
from dpc.model.blocks import Around, Forward, pass_through, replaced_forward
from dpc.model.capture import capture_attention
from dpc.model.eager_check import check_reproduces
from dpc.model.lm import FrozenLM
from dpc.types import IGNORED_LABEL, HeadReduction, InfluenceRow


@dataclass(frozen=True, slots=True, eq=False)
class Influence:
    """``s_i`` of every rationale token, and the rationale's mean cross-entropy in nats per token.

    at, before: by either reading of ``s_i`` (see ``InfluenceRow``).
    """

    at: Float[Tensor, " rationale"]
    before: Float[Tensor, " rationale"]
    loss: float

    def values(self, row: InfluenceRow) -> Float[Tensor, " rationale"]:
        """``s_i`` by one reading."""
        return self.at if row == "at" else self.before


def local_influence(
    lm: FrozenLM, decoded: Sequence[Decoded], head_reduction: HeadReduction = "abs_of_sum"
) -> list[Influence]:
    """``s_i`` of each token of ``decoded`` answers, equal to what ``prompt_saliency`` gives (Eqs 12, 13).

    decoded: answers to requests with a soft prompt, with their trails. One forward and backward pass of the last block
    serves all of them. Raises ``UserError`` for a model whose attention cannot be reproduced.
    """
    if not decoded:
        return []
    check_reproduces(lm)
    with torch.inference_mode(False), torch.enable_grad():
        batch, last = _pack(lm, decoded), _LastBlock()
        last.run(lm, batch)
        losses, gradient = loss_gradient(lm, last.hidden.detach(), batch.labels)
        scale = lm.gradient_scale
        [scaled] = torch.autograd.grad(last.hidden, last.output, gradient * scale)
        gradient = scaled / scale
    longest = max(each.request.prompt_length for each in decoded)
    scores = saliency_block(last.call, gradient, last.call.rows, slice(0, longest), head_reduction)
    return [
        Influence(*_influence(scores[index], each), loss)
        for index, (each, loss) in enumerate(zip(decoded, losses.tolist(), strict=True))
    ]


def _influence(
    scores: Float[Tensor, "row prompt"], decoded: Decoded
) -> tuple[Float[Tensor, " rationale"], Float[Tensor, " rationale"]]:
    # The first row is the last position of the question, whose output is the first token. The row at the last token
    # has no label, so that neither loss nor saliency comes from it.
    rows = scores[: len(decoded.generation.ids), : decoded.request.prompt_length].mean(dim=-1)
    return pad(rows[1:], (0, 1)), rows


class _LastBlock:
    """The last block: its attention, the leaf where the graph begins, and its output."""

    call: AttentionCall
    output: Tensor
    hidden: Tensor

    def run(self, lm: FrozenLM, batch: _Batch) -> None:
        """Run the model's forward function on ``batch``; the blocks before the last pass their input through."""
        around = self._only_the_last(lm.layers, batch.hidden)
        with replaced_forward(lm.model, around), capture_attention(lm.model, [lm.layers - 1], self._visit):
            # No logits here: norm and head run over a few positions at a time, later.
            keywords = {"position_ids": batch.positions, "past_key_values": batch.cache, "use_cache": True}
            # The last block gets its input from ``around``; embeddings may be narrower than hidden states.
            lm.last_logits(batch.hidden.new_zeros(*batch.hidden.shape[:2], lm.hidden_size), 0, keywords)

    def _visit(self, layer: int, call: AttentionCall, output: Tensor) -> Tensor:
        self.call, self.output = call.detach(), output.detach().requires_grad_()
        return self.output

    def _only_the_last(self, layers: int, hidden: Tensor) -> Around:
        # The block gets ``hidden`` itself: models add positions to their input embeddings, or scale them.
        def around(layer: int, forward: Forward) -> Forward:
            def last(_: Tensor, *rest: Any, **keywords: Any) -> Any:
                output = forward(hidden, *rest, **keywords)
                self.hidden = output[0] if isinstance(output, tuple) else output
                return output

            return pass_through if layer < layers - 1 else last

        return around


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """Trails side by side, padded on the right, where nothing is read and nothing has a label."""

    hidden: Float[Tensor, "batch row d"]
    positions: Int[Tensor, "batch row"]
    labels: Int[Tensor, "batch row"]
    cache: Cache


class _TrailLayer(CacheLayerMixin):
    """Keys and values that are all there already: what the model computes of them again is left alone."""

    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values, self.is_initialized = keys, values, True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to allocate."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """All keys and values."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """All positions, from the first."""
        return self.get_seq_length(), 0

    def get_seq_length(self) -> int:
        """Positions there are."""
        assert self.keys is not None
        return self.keys.shape[2]

    def get_max_length(self) -> int:
        """The same: nothing is ever added."""
        return self.get_seq_length()


class _TrailCache(Cache):
    """The last layer's keys and values, and where each row's tokens stand."""

    def __init__(self, layers: int, keys: Tensor, values: Tensor, positions: Int[Tensor, "batch row"]) -> None:
        super().__init__(layers=[_TrailLayer(keys, values)] * layers)
        self._positions = positions

    def get_query_offset(self, layer_idx: int = 0) -> Int[Tensor, "batch row"]:  # type: ignore[override]
        """The position of every token."""
        return self._positions


def _pack(lm: FrozenLM, decoded: Sequence[Decoded]) -> _Batch:
    trails = [each.trail for each in decoded if each.trail is not None]
    if len(trails) < len(decoded):
        raise ValueError("an answer was decoded without its trail; set trail=True in its request")
    hidden = pad_sequence([trail.hidden for trail in trails], batch_first=True)
    keys, values = (
        pad_sequence([part.transpose(0, 1) for part in parts], batch_first=True).transpose(1, 2)
        for parts in ([trail.keys for trail in trails], [trail.values for trail in trails])
    )
    labels = torch.full(hidden.shape[:2], IGNORED_LABEL)
    positions = torch.zeros(hidden.shape[:2], dtype=torch.long)
    for index, each in enumerate(decoded):
        ids, first = each.generation.ids, len(each.request) - 1
        labels[index, : len(ids)] = torch.tensor(ids)
        positions[index, : len(ids)] = torch.arange(first, first + len(ids))
    positions = positions.to(lm.device)
    return _Batch(hidden, positions, labels, _TrailCache(lm.layers, keys, values, positions))
