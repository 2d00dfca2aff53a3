"""Statistics against published values, scipy's own procedures, and what must hold for any data."""

from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from dpc.stats import (
    CountTest,
    Detector,
    Interval,
    auc,
    detector,
    fisher_exact,
    fixed_broken,
    holm,
    mann_whitney,
    mcnemar_exact,
    paired_difference,
    wilson,
)

PAIRS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200)
CONFIDENCE = st.floats(0.5, 0.999)


def outcomes(fixed: int, broken: int, n: int) -> tuple[list[bool], list[bool]]:
    """Two sequences of ``n`` outcomes with the given numbers of discordant pairs; the rest are right twice."""
    rest = [True] * (n - fixed - broken)
    return [False] * fixed + [True] * broken + rest, [True] * fixed + [False] * broken + rest


# Newcombe 1998, doi:10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E, table I, method 3.
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_agrees_with_published_values(successes: int, n: int, low: float, high: float) -> None:
    interval = wilson(successes, n)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 2000), st.floats(0, 1), CONFIDENCE)
def test_wilson_is_scipys_and_contains_the_estimate(n: int, share: float, confidence: float) -> None:
    successes = round(n * share)
    interval, mirrored = wilson(successes, n, confidence), wilson(n - successes, n, confidence)
    reference = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert (interval.low, interval.high) == pytest.approx((reference.low, reference.high), abs=1e-9)
    assert 0 <= interval.low <= successes / n <= interval.high <= 1
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_without_instances_nothing_is_known() -> None:
    assert wilson(0, 0) == Interval(0.0, 1.0)
    assert paired_difference([], []) == Interval(-1.0, 1.0)
    assert detector([], []) == Detector(None, None, None)


@pytest.mark.parametrize(
    ("fixed", "broken", "p"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 5, 1.0), (0, 6, 2 / 64), (6, 0, 2 / 64), (9, 1, 2 * 11 / 1024)],
)
def test_mcnemar_by_hand(fixed: int, broken: int, p: float) -> None:
    assert mcnemar_exact(fixed, broken) == pytest.approx(p, rel=1e-12)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_the_two_sided_binomial_test(fixed: int, broken: int) -> None:
    p = mcnemar_exact(fixed, broken)
    assert 0 <= p <= 1
    assert p == mcnemar_exact(broken, fixed)
    if fixed + broken:
        assert p == pytest.approx(stats.binomtest(fixed, fixed + broken).pvalue, rel=1e-9, abs=1e-300)


# Tango's interval as computed by the R packages contingencytables (first two) and PropCIs.
@pytest.mark.parametrize(
    ("fixed", "broken", "n", "confidence", "low", "high", "within"),
    [
        (6, 16, 161, 0.95, -0.1240, -0.0054, 5e-5),
        (1, 7, 21, 0.95, -0.517, -0.026, 5e-4),
        (28, 25, 618, 0.90, -0.0148, 0.0247, 5e-5),
    ],
)
def test_paired_difference_agrees_with_published_values(
    fixed: int, broken: int, n: int, confidence: float, low: float, high: float, within: float
) -> None:
    interval = paired_difference(*outcomes(fixed, broken, n), confidence)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=within)


@pytest.mark.parametrize("n", [1, 10, 1000])
def test_a_difference_of_nothing_keeps_its_width(n: int) -> None:
    z2 = stats.norm.ppf(0.975) ** 2
    interval = paired_difference(*outcomes(0, 0, n))
    assert (interval.low, interval.high) == pytest.approx((-z2 / (n + z2), z2 / (n + z2)), abs=1e-12)


def score_statistic(difference: float, fixed: int, broken: int, n: int) -> float:
    """Squared score statistic of ``difference``, its nuisance parameter by numerical maximum likelihood."""

    def loss(p_broken: float) -> float:
        same = (n - fixed - broken, 1 - 2 * p_broken - difference)
        cells = ((fixed, p_broken + difference), (broken, p_broken), same)
        return -sum(count * math.log(max(p, 1e-300)) for count, p in cells if count)

    bounds = (max(0.0, -difference), (1 - difference) / 2)
    p_broken: float = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    return (fixed - broken - n * difference) ** 2 / (n * (2 * p_broken + difference * (1 - difference)))


@pytest.mark.parametrize(
    ("fixed", "broken", "n"), [(3, 1, 10), (12, 2, 50), (40, 20, 160), (5, 5, 12), (0, 3, 20), (90, 130, 1000)]
)
def test_paired_difference_ends_where_the_score_test_starts_to_reject(fixed: int, broken: int, n: int) -> None:
    interval = paired_difference(*outcomes(fixed, broken, n))
    critical = stats.chi2.ppf(0.95, df=1)
    for bound in (interval.low, interval.high):
        assert score_statistic(bound, fixed, broken, n) == pytest.approx(critical, rel=1e-5)


@pytest.mark.parametrize(("fixed", "broken"), list(product((0, 1, 4, 9, 14), repeat=2)))
def test_paired_difference_excludes_zero_where_mcnemars_asymptotic_test_rejects(fixed: int, broken: int) -> None:
    interval = paired_difference(*outcomes(fixed, broken, 30))
    rejected = fixed != broken and (fixed - broken) ** 2 / (fixed + broken) > stats.chi2.ppf(0.95, df=1)
    assert (not interval.low <= 0 <= interval.high) == rejected


@settings(deadline=None, max_examples=50)
@given(PAIRS, CONFIDENCE)
def test_paired_difference_contains_the_estimate_and_mirrors_when_swapped(
    pairs: list[tuple[bool, bool]], confidence: float
) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    interval, swapped = paired_difference(first, second, confidence), paired_difference(second, first, confidence)
    estimate = (sum(second) - sum(first)) / len(pairs)
    assert -1 <= interval.low <= estimate <= interval.high <= 1
    assert (swapped.low, swapped.high) == (-interval.high, -interval.low)
    wider = paired_difference(first, second, 0.9999)
    assert wider.low <= interval.low
    assert interval.high <= wider.high


@pytest.mark.parametrize(("fixed", "high"), [(5, 1.0), (0, None)])
def test_a_bound_reaches_one_only_if_everything_was_fixed(fixed: int, high: float | None) -> None:
    bound = paired_difference(*outcomes(fixed, 0, 5)).high
    assert bound == high if high else bound < 1


@settings(deadline=None, max_examples=50)
@given(PAIRS)
def test_fixed_minus_broken_is_the_gain_in_right_answers(pairs: list[tuple[bool, bool]]) -> None:
    first, final = [a for a, _ in pairs], [b for _, b in pairs]
    fixed, broken = fixed_broken(first, final)
    assert fixed - broken == sum(final) - sum(first)
    assert fixed + broken == sum(a != b for a, b in pairs)
    assert fixed_broken(final, first) == (broken, fixed)


def test_fixed_means_wrong_before_and_right_after() -> None:
    assert fixed_broken([False, False, True, True, True], [True, False, True, False, False]) == (1, 2)


@pytest.mark.parametrize(
    ("triggered", "wrong", "expected"),
    [
        ([True, True, True, False], [True, False, False, True], Detector(0.75, 1 / 3, 0.5)),
        ([False, False], [True, False], Detector(0.0, None, 0.0)),
        ([True, False], [False, False], Detector(0.5, 0.0, None)),
        ([True, True], [True, True], Detector(1.0, 1.0, 1.0)),
    ],
)
def test_a_figure_without_a_denominator_is_none(triggered: list[bool], wrong: list[bool], expected: Detector) -> None:
    assert detector(triggered, wrong) == expected


def test_the_detectors_auc_is_that_of_its_scores() -> None:
    found = detector([True, False, False], [True, False, True], scores=[0.9, 0.3, 0.2])
    assert found == Detector(1 / 3, 1.0, 0.5, auc=0.5)


@pytest.mark.parametrize(
    ("scores", "wrong", "expected"),
    [
        ([3.0, 2.0, 1.0], [True, False, False], 1.0),
        ([1.0, 2.0, 3.0], [True, False, False], 0.0),
        ([2.0, 2.0, 1.0], [True, False, False], 0.75),
        ([1.0, 1.0], [True, True], None),
        ([1.0], [False], None),
        ([], [], None),
        ([math.inf, 0.0], [True, False], 1.0),
    ],
)
def test_auc_by_hand(scores: list[float], wrong: list[bool], expected: float | None) -> None:
    assert auc(scores, wrong) == expected


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=2, max_size=60))
def test_auc_is_mann_whitneys_u_and_flips_with_the_sign(rows: list[tuple[int, bool]]) -> None:
    scores, wrong = [float(s) for s, _ in rows], [w for _, w in rows]
    area = auc(scores, wrong)
    positive, negative = [s for s, w in rows if w], [s for s, w in rows if not w]
    if not positive or not negative:
        assert area is None
        return
    u = sum((a > b) + (a == b) / 2 for a, b in product(positive, negative))
    assert area == pytest.approx(u / (len(positive) * len(negative)), rel=1e-12)
    assert area == pytest.approx(1 - float(auc([-s for s in scores], wrong) or 0), rel=1e-12)


def test_auc_agrees_with_scipy_on_untied_scores() -> None:
    scores, wrong = [0.31, 0.74, 0.11, 0.92, 0.55, 0.48], [True, False, False, True, True, False]
    u = stats.mannwhitneyu([0.31, 0.92, 0.55], [0.74, 0.11, 0.48]).statistic
    assert auc(scores, wrong) == pytest.approx(u / 9)


@pytest.mark.parametrize("confidence", [0.0, 1.0, -1.0, math.nan])
def test_a_confidence_outside_zero_and_one_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match="not between 0 and 1"):
        wilson(1, 2, confidence)
    with pytest.raises(ValueError, match="not between 0 and 1"):
        paired_difference([True], [False], confidence)


def test_counts_and_lengths_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="3 successes of 2"):
        wilson(3, 2)
    with pytest.raises(ValueError, match="negative counts"):
        mcnemar_exact(-1, 2)
    with pytest.raises(ValueError, match="shorter"):
        fixed_broken([True, False], [True])
    with pytest.raises(ValueError, match="shorter"):
        detector([True, False], [True])
    with pytest.raises(ValueError, match="one score"):
        auc([1.0], [True, False])
    with pytest.raises(ValueError, match="not NaN"):
        auc([math.nan, 1.0], [True, False])


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([], []),
        ([0.3], [0.3]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.5, 0.01], [1.0, 1.0, 0.03]),
    ],
)
def test_holm_by_hand(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)


def rejected_step_down(p_values: list[float], level: float) -> set[int]:
    """Holm's procedure as he states it: stop at the first p over level / (m - i)."""
    found: set[int] = set()
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] > level / (len(p_values) - rank):
            break
        found.add(index)
    return found


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 64).map(lambda i: i / 64), max_size=12), st.sampled_from([1 / 64, 1 / 16, 1 / 4]))
def test_holm_rejects_what_its_procedure_rejects(p_values: list[float], level: float) -> None:
    adjusted = holm(p_values)
    assert {i for i, p in enumerate(adjusted) if p <= level} == rejected_step_down(p_values, level)
    assert all(p <= q <= min(1.0, p * len(p_values)) for p, q in zip(p_values, adjusted, strict=True))
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(0, 9).map(float), min_size=1, max_size=30),
    st.lists(st.integers(0, 9).map(float), min_size=1, max_size=30),
)
def test_mann_whitney_counts_the_pairs_in_which_the_first_is_larger(a: list[float], b: list[float]) -> None:
    found, swapped = mann_whitney(a, b), mann_whitney(b, a)
    assert found is not None
    assert swapped is not None
    u = sum((x > y) + (x == y) / 2 for x, y in product(a, b))
    assert found.u == u
    assert found.auc == pytest.approx(u / (len(a) * len(b)))
    assert found.rank_biserial == pytest.approx(-swapped.rank_biserial, abs=1e-12)
    assert 0 <= found.p <= 1
    assert found.p == pytest.approx(swapped.p)
    assert found.auc == pytest.approx(auc([*a, *b], [True] * len(a) + [False] * len(b)))


def test_mann_whitney_is_exact_for_few_values() -> None:
    # Of the 20 ways to choose 3 of 6 ranks two are as extreme as this one.
    found = mann_whitney([4.0, 5.0, 6.0], [1.0, 2.0, 3.0])
    assert found is not None
    assert (found.p, found.rank_biserial) == (pytest.approx(2 / 20), 1.0)


def test_mann_whitney_where_there_is_nothing_to_rank() -> None:
    assert mann_whitney([], [1.0]) is None
    alike = mann_whitney([2.0] * 9, [2.0] * 12)
    assert alike is not None
    assert (alike.p, alike.rank_biserial) == (1.0, 0.0)
    with pytest.raises(ValueError, match="not NaN"):
        mann_whitney([math.nan], [1.0])


# Fisher's lady tasting tea, 1935: 3 of 4 cups right, two-sided 34 / 70; and margins of nothing.
@pytest.mark.parametrize(
    ("table", "odds_ratio", "p"),
    [
        ([[3, 1], [1, 3]], 9.0, 34 / 70),
        ([[4, 0], [0, 4]], math.inf, 2 / 70),
        ([[0, 4], [4, 0]], 0.0, 2 / 70),
        ([[0, 0], [5, 7]], None, 1.0),
        ([[5, 0], [7, 0]], None, 1.0),
    ],
)
def test_fisher_by_hand(table: list[list[int]], odds_ratio: float | None, p: float) -> None:
    found = fisher_exact(table)
    assert found == CountTest(odds_ratio, found.p)
    assert found.p == pytest.approx(p)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 12), min_size=4, max_size=4))
def test_fisher_sums_the_tables_that_are_no_likelier(counts: list[int]) -> None:
    a, b, c, d = counts
    n, row, column = sum(counts), a + b, a + c
    chances = {
        x: math.comb(column, x) * math.comb(n - column, row - x) / math.comb(n, row)
        for x in range(max(0, row + column - n), min(row, column) + 1)
    }
    expected = sum(chance for chance in chances.values() if chance <= chances[a] * (1 + 1e-7))
    assert fisher_exact([[a, b], [c, d]]).p == pytest.approx(expected, rel=1e-6)
    assert fisher_exact([[a, c], [b, d]]).p == pytest.approx(expected, rel=1e-6)


def test_tables_and_probabilities_that_cannot_be_are_refused() -> None:
    for table in ([[1, 2]], [[1, 2], [3]], [[1, -1], [0, 2]]):
        with pytest.raises(ValueError, match="two rows of two counts"):
            fisher_exact(table)
    for p in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="probabilities"):
            holm([0.5, p])
