"""One layer's attention as a value: blocks, output and log-sum-exp against the textbook."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dpc.flow.saliency import saliency_block
from dpc.model.attention_call import AttentionCall

ROWS, COLUMNS, HEADS, WIDTH = 7, 12, 4, 6


def call(**changes: object) -> AttentionCall:
    """Seven rows at the end of twelve columns, two key-value heads for four heads, in float64."""
    generator = torch.Generator().manual_seed(0)

    def random(heads: int, length: int) -> Tensor:
        return torch.randn(2, heads, length, WIDTH, generator=generator, dtype=torch.float64)

    made = AttentionCall(random(HEADS, ROWS), random(2, COLUMNS), random(2, COLUMNS), None, 0.4)
    return replace(made, **changes)


def mask() -> Tensor:
    """Rows at positions of their own, the last two alike, one a duplicate of nothing that is causal."""
    position = torch.tensor([[5, 6, 8, 9, 2, 11, 11], [0, 1, 2, 3, 4, 5, 6]])
    return torch.arange(COLUMNS)[None, None] <= position[:, :, None]


def textbook(given: AttentionCall, visible: Tensor) -> Tensor:
    logits = given.query @ given.key.repeat_interleave(2, 1).mT * given.scale
    if given.softcap is not None:
        logits = given.softcap * torch.tanh(logits / given.softcap)
    logits = logits.masked_fill(~visible, -torch.inf)
    if given.sinks is None:
        return logits.softmax(-1)
    sinks = given.sinks.view(1, -1, 1, 1).expand(2, -1, ROWS, 1)
    return torch.cat([logits, sinks], -1).softmax(-1)[..., :-1]


CAUSAL = torch.ones(ROWS, COLUMNS, dtype=torch.bool).tril(COLUMNS - ROWS)
SINKS = torch.linspace(-1, 1, HEADS, dtype=torch.float64)
EXTRAS: list[dict[str, object]] = [{}, {"softcap": 2.0}, {"sinks": SINKS}]


@pytest.mark.parametrize("extras", EXTRAS)
@pytest.mark.parametrize("masked", ["", "bool", "float"])
def test_rows_may_be_fewer_than_columns(extras: dict[str, object], masked: str) -> None:
    visible = mask()[:, None] if masked else CAUSAL
    given = call(**extras)
    if masked:
        floats = torch.zeros(visible.shape, dtype=torch.float64).masked_fill(~visible, -torch.inf)
        given = replace(given, mask=visible if masked == "bool" else floats)
    truth = textbook(given, visible)
    output, known = given.attend()
    torch.testing.assert_close(output, truth @ given.value.repeat_interleave(2, 1))
    assert (known.lse is None) == bool(extras)
    for each in (given, known):
        for rows, columns in [
            (slice(0, ROWS), slice(0, COLUMNS)),
            (slice(2, 5), slice(0, 4)),
            (slice(6, 7), slice(9, 12)),
        ]:
            torch.testing.assert_close(each.probabilities(rows, columns), truth[:, :, rows, columns])


@pytest.mark.parametrize("extras", EXTRAS)
def test_gradients_of_the_output_are_those_of_the_textbook(extras: dict[str, object]) -> None:
    given = call(**extras)
    parts = [part.requires_grad_() for part in (given.query, given.key, given.value)]
    truth = textbook(given, CAUSAL) @ given.value.repeat_interleave(2, 1)
    weight = torch.linspace(-1, 1, truth.numel(), dtype=truth.dtype).view_as(truth)
    for ours, theirs in zip(
        torch.autograd.grad((given.output() * weight).sum(), parts),
        torch.autograd.grad((truth * weight).sum(), parts),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_saliency_of_a_block_is_the_same_with_and_without_the_log_sum_exp_of_the_kernel() -> None:
    given = call(mask=mask()[:, None])
    output, known = given.attend()
    gradient = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    blocks = [saliency_block(each, gradient, slice(1, 6), slice(0, 5)) for each in (given, known)]
    torch.testing.assert_close(*blocks)


def test_a_known_log_sum_exp_leaves_the_other_columns_alone() -> None:
    given = call()
    known = given.attend()[1]
    assert list(known.row_blocks(slice(0, ROWS), slice(0, 2))) == [slice(0, ROWS)]
    spoilt = replace(known, key=torch.cat([known.key[:, :, :3], torch.full_like(known.key[:, :, 3:], torch.nan)], 2))
    ours = spoilt.probabilities(slice(0, ROWS), slice(0, 3))
    torch.testing.assert_close(ours, given.probabilities(slice(0, ROWS), slice(0, 3)))
