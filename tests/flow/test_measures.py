"""Eqs 2 to 9 on saliencies small enough to compute by hand, and their invariants."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpc.flow.measures import (
    accumulation_profile,
    concentration,
    has_accumulated,
    key_token,
    late_flow,
    prompt_to_question,
    prompt_to_rationale,
    rationale_influence,
)
from dpc.flow.shallow import shallow_layers
from dpc.types import Saliency, Spans


def saliency(scores: torch.Tensor, question: int) -> Saliency:
    _, rows, prompt = scores.shape
    layers = tuple(range(len(scores)))
    return Saliency(scores, Spans.of(prompt, question, rows - question), layers, 1.0, "abs_of_sum")


def test_means_by_hand() -> None:
    scores = torch.tensor([[[1.0, 3.0], [5.0, 7.0], [0.0, 2.0]], [[2.0, 2.0], [4.0, 4.0], [6.0, 8.0]]])
    one = saliency(scores, question=1)
    assert prompt_to_question(one).tolist() == [2.0, 2.0]
    assert prompt_to_rationale(one).tolist() == [3.5, 5.5]
    assert accumulation_profile(one, [0]).tolist() == [2.0, 4.0]
    assert accumulation_profile(one, [0, 1]).tolist() == pytest.approx([3.0, 13 / 3])
    assert rationale_influence(one).tolist() == [4.0, 7.0]
    assert late_flow(rationale_influence(one)) == 7.0


def test_accumulation_is_one_token_above_k_times_the_mean() -> None:
    profile = torch.tensor([1.0, 1.0, 4.0])
    assert key_token(profile) == 2
    assert concentration(profile) == 2.0
    assert has_accumulated(profile, 1.9)
    assert not has_accumulated(profile, 2.0)


def test_a_profile_of_zeros_has_not_accumulated() -> None:
    assert concentration(torch.zeros(3)) == 1.0
    assert not has_accumulated(torch.zeros(3), 1.01)


def test_a_layer_that_was_not_computed_is_an_error() -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        accumulation_profile(saliency(torch.ones(1, 2, 2), 1), [3])


@pytest.mark.parametrize(
    ("depth", "layers"), [(32, tuple(range(2, 11))), (40, tuple(range(2, 13))), (4, (0, 1)), (2, (0, 1)), (1, (0,))]
)
def test_shallow_layers_are_the_papers_share_of_the_depth(depth: int, layers: tuple[int, ...]) -> None:
    assert shallow_layers(range(depth)) == layers


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 100), question=st.integers(1, 5), rationale=st.integers(1, 6))
def test_flow_scales_with_the_loss_and_the_key_token_does_not(
    seed: int, scale: float, question: int, rationale: int
) -> None:
    scores = torch.rand(3, question + rationale, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    one, other = saliency(scores, question), saliency(scores * scale, question)
    torch.testing.assert_close(prompt_to_question(other), scale * prompt_to_question(one))
    torch.testing.assert_close(prompt_to_rationale(other), scale * prompt_to_rationale(one))
    profiles = accumulation_profile(one, [0, 1]), accumulation_profile(other, [0, 1])
    assert key_token(profiles[0]) == key_token(profiles[1])
    permutation = torch.tensor([2, 0, 3, 1])
    shuffled = accumulation_profile(saliency(scores[:, :, permutation], question), [0, 1])
    assert int(permutation[key_token(shuffled)]) == key_token(profiles[0])
