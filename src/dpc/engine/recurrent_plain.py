"""Plain greedy decoding of models with convolution or recurrent states: rows of equal length, no padding.

The model keeps the states in a cache that it makes itself, so that any kind of cache will do.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from dpc.engine.request import Likelihood, Request
from dpc.engine.token_figures import likelihood_of, token_figures
from dpc.model.eager_check import pass_tolerance
from dpc.model.lm import FrozenLM
from dpc.model.recurrent import accepted, cache_arguments, cache_name
from dpc.types import Finish, Generation


class OwnCachePass:
    """Passes of one batch with the model's own cache: first the whole rows, then one token a row each."""

    def __init__(self, lm: FrozenLM) -> None:
        self._lm, self._length = lm, 0
        self._cache: Any = None

    def first(self, embedded: Float[Tensor, "row time d"]) -> Float[Tensor, "row vocab"]:
        """Logits at the last position of rows of equal length."""
        model, output = self._lm.model, None
        # Some models return the cache that they make. Others take one, and return none.
        for self._cache in (None, DynamicCache(config=model.config)):
            if embedded.shape[1] == 1:
                # A module that keeps the state itself takes a single token for the next one of the batch before.
                self._forward(inputs_embeds=embedded, use_cache=False)
            output = self._forward(inputs_embeds=embedded, **cache_arguments(model, self._cache))
            if output.get(cache_name(model)) is not None:
                break
        return self._after(output, embedded.shape[1])

    def next(self, tokens: Int[Tensor, " row"]) -> Float[Tensor, "row vocab"]:
        """Logits after one more token in each row."""
        return self._after(self._forward(input_ids=tokens[:, None], **cache_arguments(self._lm.model, self._cache)), 1)

    def _forward(self, **keywords: Any) -> Any:
        given: Tensor = keywords["inputs_embeds" if "inputs_embeds" in keywords else "input_ids"]
        positions = torch.arange(self._length, self._length + given.shape[1], device=given.device)
        wanted = {"position_ids": positions.expand(len(given), -1), "logits_to_keep": 1}
        return self._lm.model(**keywords, **accepted(self._lm.model, wanted))

    def _after(self, output: Any, time: int) -> Tensor:
        returned = output.get(cache_name(self._lm.model))
        self._cache = self._cache if returned is None else returned
        self._length += time
        logits: Tensor = output.logits[:, -1]
        return logits


# Whether rows of a batch come out as they would alone. The result belongs to the model object.
_TOGETHER: weakref.WeakKeyDictionary[PreTrainedModel, bool] = weakref.WeakKeyDictionary()


@torch.no_grad()
def rows_together(lm: FrozenLM) -> bool:
    """Whether a batch of two equal rows gives what one of them gives alone; RWKV mixes the rows of a decode step."""
    if lm.model not in _TOGETHER:
        row = lm.embed(torch.arange(4, device=lm.device)[None])
        logits = []
        for embedded in (row, torch.cat([row, row.flip(1)])):
            batch = OwnCachePass(lm)
            batch.first(embedded)
            logits.append(batch.next(torch.arange(len(embedded), device=lm.device))[0])
        error = float((logits[0] - logits[1]).norm() / logits[0].norm())
        _TOGETHER[lm.model] = error <= pass_tolerance(lm.dtype)
    return _TOGETHER[lm.model]


@torch.no_grad()
def greedy_by_length(
    lm: FrozenLM, requests: Sequence[Request], max_new_tokens: int
) -> list[tuple[Generation, Likelihood | None]]:
    """Decode ``requests``, those of equal length as one batch. Rows that have ended run on until the last has."""
    groups: dict[int, list[int]] = {}
    for index, request in enumerate(requests):
        length = len(request) + len(request.begin)
        groups.setdefault(length if rows_together(lm) else index, []).append(index)
    answers: dict[int, tuple[Generation, Likelihood | None]] = {}
    for rows in groups.values():
        answers |= dict(zip(rows, _greedy(lm, [requests[index] for index in rows], max_new_tokens), strict=True))
    return [answers[index] for index in range(len(requests))]


def _greedy(
    lm: FrozenLM, requests: Sequence[Request], max_new_tokens: int
) -> list[tuple[Generation, Likelihood | None]]:
    written = [list(request.begin) for request in requests]
    figures: list[list[Tensor]] = [[] for _ in requests]
    ends: list[int | None] = [None] * len(requests)
    limits = [min(max_new_tokens, lm.context - len(request)) for request in requests]
    batch, running = OwnCachePass(lm), list(range(len(requests)))
    logits = batch.first(torch.stack([request.embedded(lm) for request in requests]))
    while True:
        tokens = logits.argmax(-1)
        if any(request.likelihood for request in requests):
            for row in running:
                figures[row].append(token_figures(logits[row : row + 1])[0])
        for row, token in ((row, int(tokens[row])) for row in running):
            if token in lm.end_ids:
                ends[row] = token
            else:
                written[row].append(token)
        running = [row for row in running if ends[row] is None and len(written[row]) < limits[row]]
        if not running:
            break
        logits = batch.next(tokens)
    finish: list[Finish] = ["length" if end is None else "eos" for end in ends]
    done = zip(written, finish, ends, strict=True)
    generations = [Generation(tuple(ids), lm.decode(ids), stop, end) for ids, stop, end in done]
    likelihoods = [likelihood_of(torch.stack(rows)) if rows else None for rows in figures]
    return list(zip(generations, likelihoods, strict=True))
