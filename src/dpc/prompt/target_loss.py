"""Training rows, their order, and their loss: the cross-entropy of targets after a soft prompt and a question."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from dpc.errors import UserError
from dpc.model.blocks import has_states
from dpc.model.lm import FrozenLM
from dpc.types import IGNORED_LABEL

Row = tuple[str, str]
TokenRow = tuple[list[int], list[int]]

# Rows are sorted by length within a window of this many updates: little padding, and batches stay random.
BUCKET_UPDATES = 16


def encode_rows(
    lm: FrozenLM, rows: Sequence[Row], prompt_length: int, max_length: int | None, split: str
) -> list[TokenRow]:
    """Token ids of each (question, target) text. The target ends with the end token.

    max_length: most tokens of prompt, question and target together; the model's context if None. split: name of the
    rows in errors, which count them from 1.

    Raises ``UserError`` for a row with an empty target, and for one that is too long.
    """
    limit = min(max_length or lm.context, lm.context)
    encoded = []
    for number, (question, target) in enumerate(rows, start=1):
        if not target.strip():
            raise UserError(f"{split} row {number}: its target is empty; expected the text that the model should write")
        row = (lm.encode(question), lm.encode_target(target))
        length = prompt_length + len(row[0]) + len(row[1])
        if length > limit:
            raise UserError(
                f"{split} row {number}: {length} tokens, the prompt's {prompt_length} included, where {limit} fit (the "
                f"model's context is {lm.context_limit}); drop or shorten the row, shorten the prompt, or raise "
                "max_length"
            )
        encoded.append(row)
    return encoded


def epoch_updates(
    lengths: Sequence[int], rows_per_update: int, seed: int, epoch: int, by_length: bool = True
) -> list[list[int]]:
    """The row indices of every update of an epoch. Equal arguments give equal updates.

    by_length: rows of similar length form an update; otherwise random rows.
    """
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    order = torch.randperm(len(lengths), generator=generator).tolist()
    window = BUCKET_UPDATES * rows_per_update
    updates: list[list[int]] = []
    for start in range(0, len(order), window):
        bucket = order[start : start + window]
        if by_length:
            bucket.sort(key=lambda index: lengths[index])
        updates += [bucket[at : at + rows_per_update] for at in range(0, len(bucket), rows_per_update)]
    return [updates[at] for at in torch.randperm(len(updates), generator=generator).tolist()]


def target_loss(
    lm: FrozenLM, vectors: Float[Tensor, "prompt d"], rows: Sequence[TokenRow], shared_prompt: bool = True
) -> Float[Tensor, ""]:
    """Cross-entropy of the targets after ``[prompt | question]``, summed over their tokens, in nats.

    The loss of prompt tuning (arXiv 2503.13208, section 3.1). With ``shared_prompt`` the prompt's keys and values are
    computed once for all rows, with gradient; otherwise, and in a model that keeps other states, the prompt is put
    before each row. Rows are padded on the right without a mask: neither causal attention nor a recurrence reaches the
    padding. ``vectors`` are cast to the model's type.

    Raises ``UserError`` for a row that exceeds the context.
    """
    widest = max(len(question) + len(target) for question, target in rows) - 1
    if len(vectors) + widest > lm.context:
        raise UserError(
            f"a row of {len(vectors) + widest + 1} tokens, the prompt's {len(vectors)} included: the context of "
            f"{lm.name} holds {lm.context_limit}; drop or shorten the row"
        )
    ids = torch.zeros(len(rows), widest, dtype=torch.long)
    labels = torch.full((len(rows), widest + 1), IGNORED_LABEL)
    for index, (question, target) in enumerate(rows):
        # The last token of the target is only a label, not an input.
        ids[index, : len(question) + len(target) - 1] = torch.tensor(question + target[:-1], dtype=torch.long)
        labels[index, len(question) : len(question) + len(target)] = torch.tensor(target)
    embedded = lm.embed(ids.to(lm.device))
    # If a question is empty, the prompt's last position predicts the first token of the target.
    first = min(len(question) for question, _ in rows)
    if shared_prompt and not has_states(lm.model):
        cache, before = _shared_prefix(lm, vectors.to(embedded), len(rows))
        logits = lm.last_logits(embedded, widest - first + bool(first), {"past_key_values": cache, "use_cache": True})
        if not first:
            logits = torch.cat((before.expand(len(rows), -1, -1), logits), dim=1)
    else:
        prompts = vectors.to(embedded).expand(len(rows), -1, -1)
        logits = lm.last_logits(torch.cat((prompts, embedded), dim=1), widest - first + 1)
    return functional.cross_entropy(
        logits.flatten(0, 1), labels[:, first:].flatten().to(logits.device), ignore_index=IGNORED_LABEL, reduction="sum"
    )


def _shared_prefix(
    lm: FrozenLM, vectors: Float[Tensor, "prompt d"], rows: int
) -> tuple[DynamicCache, Float[Tensor, "1 1 vocab"]]:
    """The prompt's KV cache, expanded to ``rows`` rows, and the logits at its last position."""
    # Without the config, layers with a sliding window keep all positions too. Their masks apply the window.
    cache = DynamicCache()
    logits = lm.last_logits(vectors[None], 1, {"past_key_values": cache, "use_cache": True})
    for layer in cache.layers:
        assert isinstance(layer, DynamicLayer)
        assert layer.keys is not None
        assert layer.values is not None
        layer.keys, layer.values = (part.expand(rows, -1, -1, -1) for part in (layer.keys, layer.values))
    return cache, logits
