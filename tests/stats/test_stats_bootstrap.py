"""Resampling, seeds and curves: against scipy, against every threshold by hand, and where there is nothing to say."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dpc.stats import (
    Interval,
    auc,
    auc_interval,
    between_seeds,
    compare,
    mcnemar_exact,
    operating_curve,
    oracle,
    paired_bootstrap,
    paired_difference,
)

PAIRS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)
INSTANCES = st.lists(
    st.tuples(st.one_of(st.none(), st.integers(0, 8).map(lambda i: i / 8)), st.booleans(), st.booleans()),
    min_size=1,
    max_size=40,
)


def grades(seed: int, n: int = 400) -> tuple[list[bool], list[bool]]:
    draw = random.Random(seed)
    first = [draw.random() < 0.6 for _ in range(n)]
    return first, [right if draw.random() < 0.9 else draw.random() < 0.7 for right in first]


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_bootstrap_is_scipys_percentile_bootstrap_of_pairs(confidence: float) -> None:
    first, second = (np.array(part, dtype=float) for part in grades(1))
    reference = stats.bootstrap(
        (first, second),
        lambda a, b, axis: (b - a).mean(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=20_000,
        confidence_level=confidence,
        rng=np.random.default_rng(5),
    ).confidence_interval
    found = paired_bootstrap(first.tolist(), second.tolist(), confidence, resamples=20_000)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=0.003)


def test_the_bootstrap_takes_values_of_any_kind() -> None:
    draw = random.Random(2)
    first = [draw.gauss(0, 1) for _ in range(500)]
    second = [value + draw.gauss(0.2, 0.5) for value in first]
    found = paired_bootstrap(first, second)
    differences = np.subtract(second, first)
    half = 1.96 * differences.std() / math.sqrt(500)
    assert (found.low, found.high) == pytest.approx((differences.mean() - half, differences.mean() + half), abs=0.006)


@settings(deadline=None, max_examples=40)
@given(PAIRS)
def test_the_bootstrap_mirrors_repeats_itself_and_stays_within_what_was_seen(pairs: list[tuple[bool, bool]]) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    found = paired_bootstrap(first, second, resamples=2000)
    assert found == paired_bootstrap(first, second, resamples=2000)
    differences = [b - a for a, b in pairs]
    assert min(differences) <= found.low <= found.high <= max(differences)
    swapped = paired_bootstrap(second, first, resamples=2000)
    # Another order of the values takes other draws.
    assert (swapped.low, swapped.high) == pytest.approx(
        (-found.high, -found.low), abs=2 / len(pairs) + 0.4 / math.sqrt(len(pairs))
    )


def test_where_every_pair_differs_alike_the_bootstrap_has_no_width() -> None:
    assert paired_bootstrap([True, False, True], [True, False, True]) == Interval(0.0, 0.0)
    assert paired_bootstrap([False] * 5, [True] * 5) == Interval(1.0, 1.0)
    assert paired_bootstrap([0.25], [0.75]) == Interval(0.5, 0.5)


@pytest.mark.parametrize("resamples", [1, 7, 3000])
def test_the_number_of_values_held_at_once_changes_no_draw_but_memory(
    resamples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = grades(3, 50)
    at_once = paired_bootstrap(first, second, resamples=resamples)
    monkeypatch.setattr("dpc.stats.intervals._DRAWN_AT_ONCE", 10)
    assert paired_bootstrap(first, second, resamples=resamples) == at_once


def test_bootstraps_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="expected pairs, got 0 and 0"):
        paired_bootstrap([], [])
    with pytest.raises(ValueError, match="got 2 and 1"):
        paired_bootstrap([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="0 resamples"):
        paired_bootstrap([1.0], [1.0], resamples=0)
    with pytest.raises(ValueError, match="finite"):
        paired_bootstrap([math.inf], [math.inf])
    with pytest.raises(ValueError, match="not between"):
        paired_bootstrap([1.0], [1.0], confidence=1.0)


def test_a_comparison_holds_what_its_parts_say() -> None:
    first, second = grades(4)
    found = compare(first, second)
    assert (found.n, found.difference) == (400, pytest.approx((sum(second) - sum(first)) / 400))
    assert found.interval == paired_difference(first, second)
    assert found.bootstrap == paired_bootstrap(first, second)
    assert found.p == mcnemar_exact(found.fixed, found.broken)
    assert (found.fixed, found.broken) == (
        sum(b and not a for a, b in zip(first, second, strict=True)),
        sum(a and not b for a, b in zip(first, second, strict=True)),
    )


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-10, 10), min_size=2, max_size=12), st.floats(0.5, 0.999))
def test_between_seeds_is_students_interval(values: list[float], confidence: float) -> None:
    found = between_seeds(values, confidence)
    assert found is not None
    error = stats.sem(values)
    half = error * stats.t.ppf((1 + confidence) / 2, len(values) - 1)
    mean = sum(values) / len(values)
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half), abs=1e-9)


def test_between_seeds_where_seeds_say_nothing() -> None:
    assert between_seeds([]) is None
    assert between_seeds([0.8]) is None
    assert between_seeds([0.75, 0.75, 0.75]) == Interval(0.75, 0.75)
    for values in ([0.8, math.nan], [math.inf]):
        with pytest.raises(ValueError, match="finite"):
            between_seeds(values)


@settings(deadline=None, max_examples=60)
@given(INSTANCES)
def test_an_operating_curve_is_the_trigger_at_each_threshold(rows: list[tuple[float | None, bool, bool]]) -> None:
    ratios, first, second = [r for r, _, _ in rows], [a for _, a, _ in rows], [b for _, _, b in rows]
    taus = [-1.0, 0.0, 0.3, 0.5, 0.99, 1.0]
    for tau, point in zip(taus, operating_curve(ratios, first, second, taus), strict=True):
        fires = [r is not None and r > tau for r in ratios]
        wrong, n = first.count(False), len(rows)
        hits = sum(f and not a for f, a in zip(fires, first, strict=True))
        assert point.tau == tau
        assert point.trigger_rate == pytest.approx(sum(fires) / n)
        assert point.precision == (pytest.approx(hits / sum(fires)) if any(fires) else None)
        assert point.recall == (pytest.approx(hits / wrong) if wrong else None)
        false = (sum(fires) - hits) / (n - wrong) if n > wrong else None
        assert point.false_positive_rate == (None if false is None else pytest.approx(false))
        final = sum(b if f else a for f, a, b in zip(fires, first, second, strict=True)) / n
        assert point.accuracy == pytest.approx(final)
        assert point.accuracy <= oracle(first, second)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 8).map(lambda i: i / 8), st.booleans()), min_size=2, max_size=40))
def test_the_area_under_the_curve_is_the_auc(rows: list[tuple[float, bool]]) -> None:
    ratios, right = [r for r, _ in rows], [a for _, a in rows]
    taus = sorted({-1.0, *ratios}, reverse=True)
    points = operating_curve(ratios, right, right, taus)
    area = auc(ratios, [not a for a in right])
    if area is None:
        assert points[-1].recall is None or points[-1].false_positive_rate is None
        return
    x, y = [p.false_positive_rate for p in points], [p.recall for p in points]
    assert np.trapezoid(y, x) == pytest.approx(area)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 8).map(float), st.booleans()), min_size=2, max_size=40), st.floats(0.5, 0.99))
def test_the_interval_of_the_area_contains_it_and_mirrors_with_the_sign(
    rows: list[tuple[float, bool]], confidence: float
) -> None:
    scores, wrong = [s for s, _ in rows], [w for _, w in rows]
    area, interval = auc(scores, wrong), auc_interval(scores, wrong, confidence)
    if area is None:
        assert interval is None
        return
    assert interval is not None
    assert 0 <= interval.low <= area <= interval.high <= 1
    # It is never without width: few pairs say little, however well they are separated.
    assert interval.low < interval.high
    mirrored = auc_interval([-s for s in scores], wrong, confidence)
    assert mirrored is not None
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((interval.low, interval.high), abs=1e-9)


@pytest.mark.parametrize(("area", "positive", "negative"), [(0.5, 10, 20), (0.75, 40, 8), (1.0, 5, 5), (0.125, 16, 2)])
def test_the_interval_of_the_area_ends_where_newcombes_equation_holds(
    area: float, positive: int, negative: int
) -> None:
    wins = round(area * positive)
    # Each positive beats all negatives or none: the area is the share of those that do.
    scores = [1.0] * wins + [-1.0] * (positive - wins) + [0.0] * negative
    interval = auc_interval(scores, [True] * positive + [False] * negative)
    assert interval is not None
    area = wins / positive
    for bound in (interval.low, interval.high):
        if bound in (0.0, 1.0):
            assert bound == area
            continue
        hanley_mcneil = (1 - bound) / (2 - bound) + bound / (1 + bound)
        variance = bound * (1 - bound) * (1 + ((positive + negative) / 2 - 1) * hanley_mcneil) / (positive * negative)
        assert abs(area - bound) == pytest.approx(stats.norm.ppf(0.975) * math.sqrt(variance), rel=1e-6)


@pytest.mark.parametrize(("positive", "negative", "shift"), [(20, 80, 0.0), (40, 40, 1.0), (15, 200, 0.5)])
def test_the_interval_of_the_area_covers_it_as_often_as_it_says(positive: int, negative: int, shift: float) -> None:
    draw, area = np.random.default_rng(11), stats.norm.cdf(shift / math.sqrt(2))
    wrong = [True] * positive + [False] * negative
    covered = 0
    for _ in range(400):
        scores = np.concatenate([draw.normal(shift, 1, positive), draw.normal(0, 1, negative)])
        interval = auc_interval(scores.tolist(), wrong)
        assert interval is not None
        covered += interval.low <= area <= interval.high
    # 400 draws of a chance of 0.95 leave this range once in two thousand times; the method errs to the safe side.
    assert 365 <= covered <= 396


def test_accuracy_is_unknown_where_a_second_answer_would_be_needed() -> None:
    points = operating_curve([0.2, 0.6, 0.9], [True, False, False], [None, None, True], [-1.0, 0.5, 0.7, 1.0])
    assert [point.accuracy for point in points] == [None, None, pytest.approx(2 / 3), pytest.approx(1 / 3)]
    assert [point.precision for point in points] == [pytest.approx(2 / 3), 1.0, 1.0, None]


def test_curves_and_oracles_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="expected as many"):
        operating_curve([0.5], [True, False], [True], [0.0])
    with pytest.raises(ValueError, match="expected as many"):
        operating_curve([], [], [], [0.0])
    with pytest.raises(ValueError, match="NaN"):
        operating_curve([math.nan], [True], [True], [0.0])
    with pytest.raises(ValueError, match="instance"):
        oracle([], [])
    with pytest.raises(ValueError, match="shorter"):
        oracle([True, False], [True])
    assert oracle([True, False, False], [False, True, False]) == pytest.approx(2 / 3)
