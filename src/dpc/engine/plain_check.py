"""Compare plain decoding with the model's own forward pass before first use. A model that differs is refused."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from dpc.engine.plain import greedy
from dpc.engine.recurrent_plain import OwnCachePass, rows_together
from dpc.engine.request import Request
from dpc.errors import UserError
from dpc.model.eager_check import pass_tolerance, require_equal
from dpc.model.lm import FrozenLM
from dpc.model.own_check import named_failures
from dpc.model.recurrent import keeps_states

# Tokens of the questions that are decoded as one batch, and of their answers.
_QUESTIONS, _ANSWER = (12, 9, 12), 4

# Models that passed. Weak references: the result belongs to the model object.
_REPRODUCED: weakref.WeakSet[PreTrainedModel] = weakref.WeakSet()


def check_plain_reproduces(lm: FrozenLM) -> None:
    """Decode random questions in plain batches, and compare the logits of every pass with one pass of each row alone.

    Once per model object. Raises ``UserError`` where they differ, or the model is in training mode.
    """
    if lm.model.training:
        raise UserError(f"model {lm.name!r}: training mode drops values at random, expected none; call model.eval()")
    if lm.model in _REPRODUCED or lm.context < max(_QUESTIONS) + _ANSWER:
        return
    with torch.inference_mode(), named_failures(lm, "plain decoding"):
        (_compare_equal_rows if keeps_states(lm.model) else _compare_padded_rows)(lm)
    _REPRODUCED.add(lm.model)


def plain_reproduces(lm: FrozenLM) -> bool:
    """Whether plain decoding can be advised."""
    try:
        check_plain_reproduces(lm)
    except UserError:
        return False
    return True


def _compare_padded_rows(lm: FrozenLM) -> None:
    """Decode rows of different length, some of which may leave the batch early."""
    # A batch of a float64 model has no padding.
    counts = _QUESTIONS[:1] * 2 if lm.dtype == torch.float64 else _QUESTIONS
    questions, passes = _random_ids(lm, counts), list[Tensor]()
    handle = lm.model.register_forward_hook(lambda _, __, output: passes.append(output.logits[:, -1]))
    try:
        answers = greedy(lm, [Request(question) for question in questions], _ANSWER)
    finally:
        handle.remove()
    parts = [len(answer.ids) + (answer.finish == "eos") for answer in answers]
    expected = [_alone(lm, [*asked, *answer.ids]) for asked, answer in zip(questions, answers, strict=True)]
    for step, logits in enumerate(passes):
        rows = [row for row, count in enumerate(parts) if count > step]
        _require_equal(lm, logits, [expected[row][len(questions[row]) - 1 + step] for row in rows])


def _compare_equal_rows(lm: FrozenLM) -> None:
    """Run rows of equal length (one, if a batch mixes rows), and continue them token by token; then shorter rows."""
    for count in (_QUESTIONS[0], 1):
        ids = _random_ids(lm, (count + _ANSWER,) * (2 if rows_together(lm) else 1))
        rows = torch.tensor(ids, device=lm.device)
        expected, batch = [_alone(lm, row.tolist()) for row in rows], OwnCachePass(lm)
        for step in range(_ANSWER):
            at = count - 1 + step
            logits = batch.next(rows[:, at]) if step else batch.first(lm.embed(rows[:, :count]))
            _require_equal(lm, logits, [row[at] for row in expected])


def _random_ids(lm: FrozenLM, counts: tuple[int, ...]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(lm.vocab_size, (count,), generator=generator).tolist() for count in counts]


def _alone(lm: FrozenLM, ids: list[int]) -> Float[Tensor, "position vocab"]:
    output: Any = lm.model(inputs_embeds=lm.embed(torch.tensor([ids], device=lm.device)), use_cache=False)
    logits: Tensor = output.logits[0]
    return logits


def _require_equal(lm: FrozenLM, ours: Float[Tensor, "row vocab"], theirs: list[Float[Tensor, " vocab"]]) -> None:
    require_equal(lm, "the logits of plain decoding", ours, torch.stack(theirs), pass_tolerance(lm.dtype))
