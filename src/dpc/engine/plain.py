"""Plain greedy decoding: a padded batch, a growing KV cache, one token a pass. The reference for decoding in slots."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from dpc.engine.recurrent_plain import greedy_by_length
from dpc.engine.request import Likelihood, Request, check_fits
from dpc.engine.token_figures import likelihood_of, token_figures
from dpc.errors import UserError
from dpc.model.lm import FrozenLM
from dpc.model.recurrent import keeps_states
from dpc.types import Finish, Generation


def prefill_inputs(lm: FrozenLM, requests: Sequence[Request]) -> tuple[Float[Tensor, "batch time d"], Tensor, Tensor]:
    """``pad | prompt | question`` as embeddings, with attention mask and position ids ``[batch, time]``.

    Padding is before the soft prompt. PEFT's own batched generation has it between prompt and question, which gives
    other logits.
    """
    rows = [request.embedded(lm) for request in requests]
    longest = max(len(row) for row in rows)
    embeds = rows[0].new_zeros(len(rows), longest, rows[0].shape[1])
    mask = torch.zeros(len(rows), longest, dtype=torch.long, device=lm.device)
    for index, row in enumerate(rows):
        embeds[index, longest - len(row) :] = row
        mask[index, longest - len(row) :] = 1
    return embeds, mask, (mask.cumsum(1) - 1).clamp(min=0)


@torch.no_grad()
def greedy(
    lm: FrozenLM, requests: Sequence[Request], max_new_tokens: int, cache: DynamicCache | None = None
) -> list[Generation]:
    """The answers of ``greedy_with_likelihood``."""
    return [generation for generation, _ in greedy_with_likelihood(lm, requests, max_new_tokens, cache)]


@torch.no_grad()
def greedy_with_likelihood(
    lm: FrozenLM, requests: Sequence[Request], max_new_tokens: int, cache: DynamicCache | None = None
) -> list[tuple[Generation, Likelihood | None]]:
    """Decode ``requests`` as one batch, or as one for each length where layers keep states: they would take in padding.

    Each answer is token for token what it would be alone. It stops at an end token, after ``max_new_tokens``, or where
    the context is full; its row then leaves the batch. ``cache``: an empty cache to use in place of the model's own
    kind, where layers keep keys and values only. The likelihood of an answer is there where its request wants it.

    Raises ``UserError`` for a question without tokens, or one that leaves no space for an answer in the context.
    """
    if not requests:
        return []
    for index, request in enumerate(requests):
        check_fits(lm, request, f"question {index + 1} of the batch")
    if keeps_states(lm.model):
        if cache is not None:
            raise UserError(
                f"model {lm.name!r}: ACT needs layers that keep keys and values only, some keep states; leave out ACT"
            )
        return greedy_by_length(lm, requests, max_new_tokens)
    limits = [min(max_new_tokens, lm.context - len(request)) for request in requests]
    written = [list(request.begin) for request in requests]
    figures: list[list[Tensor]] = [[] for _ in requests]
    finish: list[Finish] = ["length"] * len(requests)
    ends: list[int | None] = [None] * len(requests)
    embeds, mask, positions = prefill_inputs(lm, requests)
    cache = DynamicCache(config=lm.model.config) if cache is None else cache
    logits = lm.forward(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, cache=cache)
    active, position = list(range(len(requests))), positions[:, -1:]
    while True:
        tokens = logits.argmax(-1)
        if any(request.likelihood for request in requests):
            for index, row in zip(active, token_figures(logits), strict=True):
                figures[index].append(row)
        staying = []
        for row, (index, token) in enumerate(zip(active, tokens.tolist(), strict=True)):
            if token in lm.end_ids:
                finish[index], ends[index] = "eos", token
                continue
            written[index].append(token)
            if len(written[index]) < limits[index]:
                staying.append(row)
        if not staying:
            break
        if len(staying) < len(active):
            keep = torch.tensor(staying, device=lm.device)
            cache.batch_select_indices(keep)
            tokens, mask, position = tokens[keep], mask[keep], position[keep]
            active = [active[row] for row in staying]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        position = position + 1
        logits = lm.forward(input_ids=tokens[:, None], attention_mask=mask, position_ids=position, cache=cache)
    done = zip(written, finish, ends, strict=True)
    generations = [Generation(tuple(ids), lm.decode(ids), stop, end) for ids, stop, end in done]
    likelihoods = [likelihood_of(torch.stack(rows)) if rows else None for rows in figures]
    return list(zip(generations, likelihoods, strict=True))
