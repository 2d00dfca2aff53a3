"""Dynamic corruption masks the key token, prunes the smallest other values, and changes nothing else."""

from __future__ import annotations

import math
from fractions import Fraction
from random import Random

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from dpc.errors import UserError
from dpc.prompt.corruption import corrupt, prune, pruned_count
from dpc.types import PruneScope

SCOPES: tuple[PruneScope, ...] = ("vector", "prompt")
VALUES = st.floats(-4, 4, width=32)
GAMMAS = st.one_of(st.integers(0, 100).map(float), st.decimals(0, 100, places=1).map(float))
quick = settings(max_examples=60, deadline=None)


@st.composite
def prompts(draw: st.DrawFn, distinct: bool = False) -> Tensor:
    """A prompt of up to 6 vectors of up to 12 values; ``distinct``: no two of the same magnitude."""
    shape = (draw(st.integers(1, 6)), draw(st.integers(1, 12)))
    if distinct:
        magnitudes = np.array(draw(st.permutations(range(1, math.prod(shape) + 1))), dtype=np.float32)
        signs = draw(arrays(np.float32, magnitudes.shape, elements=st.sampled_from([-1.0, 1.0])))
        return torch.from_numpy((magnitudes * signs).reshape(shape))
    return torch.from_numpy(draw(arrays(np.float32, shape, elements=VALUES)))


@st.composite
def cases(draw: st.DrawFn, distinct: bool = False) -> tuple[Tensor, int, float, PruneScope]:
    vectors = draw(prompts(distinct))
    return vectors, draw(st.integers(0, len(vectors) - 1)), draw(GAMMAS), draw(st.sampled_from(SCOPES))


def bits(values: Tensor) -> Tensor:
    return values.contiguous().view(torch.int32)


def others(vectors: Tensor, key: int) -> Tensor:
    return vectors[torch.arange(len(vectors)) != key]


@quick
@given(cases())
def test_the_key_token_becomes_zero_and_the_input_stays(case: tuple[Tensor, int, float, PruneScope]) -> None:
    vectors, key, gamma, scope = case
    before = vectors.clone()
    corrupted = corrupt(vectors, key, gamma, scope)
    assert corrupted[key].count_nonzero() == 0
    assert corrupted.shape == vectors.shape
    assert torch.equal(bits(vectors), bits(before))


@quick
@given(cases())
def test_without_pruning_and_masking_nothing_changes(case: tuple[Tensor, int, float, PruneScope]) -> None:
    vectors, key, _, scope = case
    assert torch.equal(bits(corrupt(vectors, key, 0.0, scope, mask_key=False)), bits(vectors))


@quick
@given(cases())
def test_an_unmasked_key_token_keeps_all_its_values(case: tuple[Tensor, int, float, PruneScope]) -> None:
    vectors, key, gamma, scope = case
    corrupted = corrupt(vectors, key, gamma, scope, mask_key=False)
    assert torch.equal(bits(corrupted[key]), bits(vectors[key]))
    assert torch.equal(bits(others(corrupted, key)), bits(others(corrupt(vectors, key, gamma, scope), key)))


@quick
@given(cases(distinct=True))
def test_exactly_gamma_percent_of_each_other_vector_is_pruned_or_of_all_together(
    case: tuple[Tensor, int, float, PruneScope],
) -> None:
    vectors, key, gamma, scope = case
    pruned = others(corrupt(vectors, key, gamma, scope), key) == 0
    share = Fraction(str(gamma)) / 100
    if scope == "vector":
        assert pruned.sum(dim=1).tolist() == [math.floor(share * vectors.shape[1])] * (len(vectors) - 1)
    else:
        assert pruned.sum().item() == math.floor(share * vectors.shape[1] * (len(vectors) - 1))


@quick
@given(cases())
def test_only_the_smallest_magnitudes_go_and_the_rest_keep_their_bits(
    case: tuple[Tensor, int, float, PruneScope],
) -> None:
    vectors, key, gamma, scope = case
    before, after = others(vectors, key), others(corrupt(vectors, key, gamma, scope), key)
    if scope == "prompt":
        before, after = before.reshape(1, -1), after.reshape(1, -1)
    kept = after != 0
    assert torch.equal(bits(after[kept]), bits(before[kept]))
    ascending = before.abs().sort(dim=1).values
    ascending[:, : pruned_count(before.shape[1], gamma)] = 0
    assert torch.equal(after.abs().sort(dim=1).values, ascending)


@quick
@given(cases())
def test_corrupting_twice_is_corrupting_once(case: tuple[Tensor, int, float, PruneScope]) -> None:
    vectors, key, gamma, scope = case
    once = corrupt(vectors, key, gamma, scope)
    assert torch.equal(corrupt(once, key, gamma, scope), once)


@quick
@given(cases(distinct=True), st.randoms(use_true_random=False))
def test_order_of_soft_tokens_and_of_coordinates_plays_no_part(
    case: tuple[Tensor, int, float, PruneScope], random: Random
) -> None:
    vectors, key, gamma, scope = case
    rows, columns = list(range(vectors.shape[0])), list(range(vectors.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    shuffled = corrupt(vectors[rows][:, columns], rows.index(key), gamma, scope)
    assert torch.equal(shuffled, corrupt(vectors, key, gamma, scope)[rows][:, columns])


@quick
@given(cases(), st.sampled_from([-1.0, 2.0, -0.5]))
def test_magnitude_ranks_so_sign_and_scale_play_no_part(
    case: tuple[Tensor, int, float, PruneScope], factor: float
) -> None:
    vectors, key, gamma, scope = case
    vectors = vectors.double()
    assert torch.equal(corrupt(factor * vectors, key, gamma, scope), factor * corrupt(vectors, key, gamma, scope))


@quick
@given(cases(), GAMMAS)
def test_a_larger_gamma_prunes_more_of_the_same(case: tuple[Tensor, int, float, PruneScope], other: float) -> None:
    vectors, key, gamma, scope = case
    mild, strong = (corrupt(vectors, key, at, scope) for at in sorted((gamma, other)))
    assert (strong[mild == 0] == 0).all()


@quick
@given(prompts(), GAMMAS)
def test_all_corrupted_prompts_are_made_of_the_originals_their_pruned_ones_and_zero(
    vectors: Tensor, gamma: float
) -> None:
    pruned = prune(vectors, gamma)
    for key in range(len(vectors)):
        expected = pruned.clone()
        expected[key] = 0
        assert torch.equal(corrupt(vectors, key, gamma), expected)


def test_of_equal_magnitudes_the_first_are_pruned() -> None:
    row = torch.tensor([[2.0, -1.0, 1.0, -1.0, 1.0]])
    assert prune(row, 40.0).tolist() == [[2.0, 0.0, 0.0, -1.0, 1.0]]


def test_the_scope_decides_where_the_smallest_values_are_sought() -> None:
    vectors = torch.tensor([[9.0, 9.0], [0.1, 0.2], [5.0, 6.0]])
    assert corrupt(vectors, 0, 50.0, "vector").tolist() == [[0, 0], [0, pytest.approx(0.2)], [0, 6]]
    assert corrupt(vectors, 0, 50.0, "prompt").tolist() == [[0, 0], [0, 0], [5, 6]]


@pytest.mark.parametrize(
    ("values", "gamma", "count"),
    [
        (100, 29.0, 29),
        (1000, 14.3, 143),
        (4096, 10.0, 409),
        (9, 10.0, 0),
        (10, 10.0, 1),
        (7, 100.0, 7),
        (7, 0.0, 0),
        (100, 5e-1, 0),
    ],
)
def test_the_share_is_taken_of_the_decimal_as_written(values: int, gamma: float, count: int) -> None:
    assert pruned_count(values, gamma) == count


def test_a_half_precision_prompt_keeps_its_type() -> None:
    vectors = torch.arange(1.0, 21.0, dtype=torch.bfloat16).reshape(2, 10)
    corrupted = corrupt(vectors, 1)
    assert corrupted.dtype == torch.bfloat16
    assert corrupted.tolist() == [[0.0, *range(2, 11)], [0.0] * 10]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"key_token": 3}, r"key token 3: expected a position in the prompt, 0 to 2"),
        ({"key_token": -1}, r"key token -1"),
        ({"key_token": 0, "gamma": 100.5}, r"gamma 100\.5: expected a percentage"),
        ({"key_token": 0, "gamma": -1.0}, r"gamma -1\.0"),
        ({"key_token": 0, "gamma": math.nan}, r"gamma nan"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        corrupt(torch.ones(3, 4), **arguments)


def test_an_unknown_scope_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # Off, because the checks of the test run would refuse the name before the function can.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UserError, match="prune scope 'row': expected 'vector' or 'prompt'"):
        corrupt(torch.ones(3, 4), 0, prune_scope="row")  # type: ignore[arg-type]
