"""The numbers of the analyses, from arrays small enough to follow by hand; bands and tests against scipy's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from dpc.analysis.aggregates import (
    LATE_OVER_EARLY,
    MANY_LATE,
    OVER_MEDIAN,
    bootstrap_means,
    changed_flow,
    dependence,
    difference_of_means,
    mean_of,
    typical,
)
from dpc.analysis.analyze import figure_names
from dpc.analysis.figures import FIGURES, Material, build_figure
from dpc.analysis.instances import Instance, draw
from dpc.analysis.marked_columns import attention_sinks, column_means, gathering_columns
from dpc.analysis.measure import measure_flows, measure_map
from dpc.analysis.store import InstanceFlow, InstanceMap, Store
from dpc.errors import UserError
from dpc.prompt.soft_prompt import init_prompt
from dpc.settings import MethodSettings
from dpc.types import Example
from tests.tiny_models import tiny_lm


def flow(late: float, beta: float = 1.0, ratio: float = 0.0, concentration: float = 1.0) -> InstanceFlow:
    one, values = np.array([1.0, 2.0]), (late, beta, ratio)
    late_flow, mean, share = map(np.array, values)
    return InstanceFlow(one, one, one, one, np.array(concentration), late_flow, mean, share, np.arange(2))


def instances(count: int) -> list[Instance]:
    return [Instance(Example(f"row/{i}", "?", "1"), (1, 2, 3, 4), i % 3 == 0, float(i)) for i in range(count)]


@settings(max_examples=30, deadline=None)
@given(count=st.integers(2, 30), smaller=st.integers(2, 30), seed=st.integers(0, 5), shuffle=st.randoms())
def test_instances_are_drawn_by_hash_whatever_order_the_records_have(
    count: int, smaller: int, seed: int, shuffle: Any
) -> None:
    known = instances(40)
    mixed = list(known)
    shuffle.shuffle(mixed)
    sample, few = draw(mixed, count, seed), draw(known, min(smaller, count), seed)
    assert sample == draw(known, count, seed)
    assert len(sample.drawn) == count
    assert len(sample.right) == min(count // 2, sum(i.correct for i in known))
    assert all(i.correct for i in sample.right)
    assert not any(i.correct for i in sample.wrong)
    for all_of, some in ((sample.drawn, few.drawn), (sample.right, few.right), (sample.wrong, few.wrong)):
        assert all_of[: len(some)] == some
    assert {i.example.id for i in sample.each()} == {
        i.example.id for i in (*sample.drawn, *sample.right, *sample.wrong)
    }


def test_another_seed_draws_other_instances() -> None:
    assert draw(instances(40), 10, 0).drawn != draw(instances(40), 10, 1).drawn


def test_changed_flow_by_each_definition() -> None:
    flows = [flow(3.0, 1.0, 0.2), flow(0.5, 1.0, 0.9), flow(1.0, 1.0, 0.5), flow(2.0, 3.0, 0.4)]
    found = changed_flow(flows, tau=0.4)
    assert found[LATE_OVER_EARLY].tolist() == [True, False, False, False]
    assert found[MANY_LATE].tolist() == [False, True, True, False]
    assert found[OVER_MEDIAN].tolist() == [True, False, False, True]


def test_dependence_is_fishers_test_of_the_table_of_counts() -> None:
    accumulated = np.array([True] * 10 + [False] * 8)
    changed = np.array([True] * 7 + [False] * 3 + [True] * 2 + [False] * 6)
    found = dependence("x", accumulated, changed)
    assert (found.accumulated.changed, found.accumulated.instances) == (7, 10)
    assert (found.even.changed, found.even.instances, found.even.share) == (2, 8, 0.25)
    assert found.missing == ""
    assert found.test is not None
    assert found.test.odds_ratio == pytest.approx(7 * 6 / (3 * 2))
    assert found.test.p == pytest.approx(scipy.stats.fisher_exact([[7, 3], [2, 6]]).pvalue)


MIXED, ALL, NONE = np.array([True, False, False, True, False]), np.ones(5, bool), np.zeros(5, bool)


@pytest.mark.parametrize(
    ("accumulated", "changed", "words"),
    [
        (ALL, MIXED, "every instance has accumulation"),
        (NONE, MIXED, "no instance has accumulation"),
        (MIXED, ALL, "every instance has changed late flow"),
        (MIXED, NONE, "no instance has changed late flow"),
    ],
)
def test_a_table_of_one_row_or_one_column_has_no_test(accumulated: Any, changed: Any, words: str) -> None:
    found = dependence("x", accumulated, changed)
    assert (found.test, found.missing) == (None, words)
    assert found.accumulated.instances == accumulated.sum()
    assert found.even.share == (None if accumulated.all() else changed[~accumulated].mean())


def material(flows: list[InstanceFlow], k: float) -> Material:
    drawn = [(instance, one) for instance, one in zip(instances(len(flows)), flows, strict=True)]
    return Material(drawn, drawn[:1], drawn[1:], [], lambda _: pytest.fail("no map"), (0,), (0, 1), k, 0.5)


def test_figure_4a_says_that_it_cannot_be_tested_where_no_instance_has_accumulation() -> None:
    flows = [flow(3.0, 1.0, 0.2, 1.1), flow(0.5, 1.0, 0.9, 1.5), flow(1.0, 2.0, 0.5, 1.2)]
    figure = build_figure("4a", material(flows, 2.0))
    assert "can't be tested: no instance has accumulation" in figure.finding
    assert "p = 1.00" not in figure.finding
    numbers = figure.numbers["definitions"][LATE_OVER_EARLY]
    assert (numbers["p"], numbers["odds_ratio"]) == (None, None)
    tested = build_figure("4a", material(flows, 1.15))
    assert "can't be tested" not in tested.finding
    expected = scipy.stats.fisher_exact([[0, 2], [1, 0]]).pvalue
    assert tested.numbers["definitions"][LATE_OVER_EARLY]["p"] == pytest.approx(expected)


def test_bootstrap_agrees_with_scipy_and_moves_with_the_values() -> None:
    values = np.random.default_rng(3).lognormal(size=60)
    ours = mean_of("x", values)
    theirs = scipy.stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=1)
    assert [ours.low, ours.high] == pytest.approx(theirs.confidence_interval, rel=0.02)
    assert ours.mean == values.mean()
    moved = mean_of("x", 3 * values + 1)
    assert [moved.low, moved.high] == pytest.approx([3 * ours.low + 1, 3 * ours.high + 1])


def test_bootstrap_of_one_instance_is_that_instance() -> None:
    assert bootstrap_means(np.array([[1.0, 5.0]]), resamples=7).tolist() == [[1.0, 5.0]] * 7


def test_the_difference_of_means_agrees_with_scipy() -> None:
    generator = np.random.default_rng(5)
    first, second = generator.normal(size=40), generator.normal(1.0, 2.0, size=70)
    theirs = scipy.stats.bootstrap(
        (second, first), lambda a, b, axis: a.mean(axis) - b.mean(axis), method="percentile", rng=2
    )
    assert difference_of_means(first, second) == pytest.approx(theirs.confidence_interval, abs=0.03)


@pytest.mark.parametrize(("lates", "index"), [([5.0], 0), ([3.0, 1.0, 2.0], 2), ([4.0, 1.0, 3.0, 2.0], 3)])
def test_the_typical_instance_has_the_median_late_flow(lates: list[float], index: int) -> None:
    assert typical([flow(late) for late in lates]) == index


def test_column_means_are_over_the_rows_after_a_column() -> None:
    matrix = np.arange(30.0).reshape(5, 6)
    means = column_means(matrix)
    assert means[0] == matrix[:, 0].mean()
    # Column 1 stands where the first row does, which does not count.
    assert means[1] == matrix[1:, 1].mean()
    assert np.isnan(means[2:]).all()


def test_sinks_and_gathering_columns_are_those_above_their_thresholds() -> None:
    matrix = np.full((20, 22), 0.01)
    matrix[:, 3] = 0.24
    assert np.flatnonzero(attention_sinks(matrix)).tolist() == [3]
    matrix[:, 3] = 0.22
    assert not attention_sinks(matrix).any()
    readable = ~np.isnan(column_means(matrix))
    of_all = column_means(matrix)[readable].mean()
    assert np.flatnonzero(gathering_columns(matrix, 0.99 * 0.22 / of_all)).tolist() == [3]
    assert not gathering_columns(matrix, 1.01 * 0.22 / of_all).any()
    assert not gathering_columns(np.zeros((20, 22)), 2.0).any()


def test_a_measurement_is_found_again_by_what_it_was_made_from(tmp_path: Path) -> None:
    store, made_from = Store(tmp_path), {"model": "a", "rationale": [1, 2]}
    store.save(flow(0.5), made_from)
    found = store.load(InstanceFlow, dict(reversed(made_from.items())))
    assert found is not None
    assert found.late_flow == 0.5
    assert store.load(InstanceFlow, made_from | {"rationale": [1, 2, 3]}) is None
    assert store.load(InstanceMap, made_from) is None
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert store.load(InstanceFlow, made_from) is None


@pytest.mark.parametrize(("architecture", "layers"), [("llama", 1), ("gpt2", 3), ("gemma2", 4), ("mistral", 2)])
@pytest.mark.parametrize("reduction", ["abs_of_sum", "sum_of_abs"])
def test_flow_and_whole_map_of_an_instance_say_the_same(
    architecture: str, layers: int, reduction: Literal["abs_of_sum", "sum_of_abs"]
) -> None:
    lm, method = tiny_lm(architecture, layers=layers), MethodSettings(head_reduction=reduction)
    prompt = init_prompt(lm, 5, "sample-vocab", seed=0)
    question, rationale = lm.encode("How many are there?"), lm.encode("1 + 2 = 3\n#### 3")
    [measured] = measure_flows(lm, prompt, [question], [rationale], method)
    whole = measure_map(lm, prompt, question, rationale, method)
    shallow, last = whole.saliency[:, :, :5]
    assert measured.profile == pytest.approx(shallow.mean(0), rel=1e-4)
    assert measured.influence == pytest.approx(last[len(question) :].mean(1), rel=1e-4, abs=1e-12)
    assert measured.to_rationale[-1] == pytest.approx(last[len(question) :].mean(), rel=1e-4)
    assert whole.attention.sum(-1) == pytest.approx(np.ones((2, len(question) + len(rationale))), rel=1e-5)
    assert whole.tokens.tolist()[:6] == ["p0", "p1", "p2", "p3", "p4", "H"]
    assert whole.lengths.tolist() == [5, len(question), len(rationale)]


def test_names_of_figures() -> None:
    assert figure_names("all") == list(FIGURES)
    assert figure_names("6, 2a") == ["2a", "6"]
    with pytest.raises(UserError, match=r"--figures 5: expected some of 2a, 2b, 3, 4a, 4b, 4c, 6, or all"):
        figure_names("2a,5")
