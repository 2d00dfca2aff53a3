"""Hypothesis tests with effect sizes, and Holm's correction for several of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr


@dataclass(frozen=True, slots=True)
class RankTest:
    """Mann-Whitney's test. ``u`` counts the pairs in which the first sample is larger, ties half.

    auc: ``u`` over the number of pairs, the chance that a value of the first sample is the larger one.
    rank_biserial: ``2 auc - 1``, from -1 to 1, 0 for no effect. p: two-sided.
    """

    u: float
    auc: float
    rank_biserial: float
    p: float


@dataclass(frozen=True, slots=True)
class CountTest:
    """Fisher's exact test. odds_ratio: of the sample, infinite with a zero below, None for zero over zero."""

    odds_ratio: float | None
    p: float


def mcnemar_exact(fixed: int, broken: int) -> float:
    """Two-sided p value of McNemar's exact test: ``fixed`` is binomial(fixed + broken, 1/2) if nothing has changed.

    ``ValueError`` for negative counts. Source: McNemar 1947, doi:10.1007/BF02295996.
    """
    if min(fixed, broken) < 0:
        raise ValueError(f"negative counts: {fixed} fixed, {broken} broken")
    return min(1.0, 2.0 * float(bdtr(min(fixed, broken), fixed + broken, 0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values, in the order given: those under a level keep the chance of any false claim under it.

    Step-down Bonferroni: the i-th smallest p (from 0) times ``m - i``, never less than the one before, never over 1.
    Needs no independence. Source: Holm 1979, https://www.jstor.org/stable/4615733.

    Raises:
        ValueError: for a value that is not a probability.
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"expected probabilities, got {list(p_values)}")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def mann_whitney(first: Sequence[float], second: Sequence[float]) -> RankTest | None:
    """Whether values of one sample tend to be larger than those of another; None where a sample is empty.

    Exact for a sample of at most 8 without ties, else the normal approximation with corrections for ties and
    continuity; p is 1 where all values are equal. Source: Mann and Whitney 1947, doi:10.1214/aoms/1177730491.

    Raises:
        ValueError: for a value that is NaN.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if np.isnan(a).any() or np.isnan(b).any():
        raise ValueError("expected values that are not NaN")
    if not a.size or not b.size:
        return None
    # It takes half a second to import.
    from scipy.stats import mannwhitneyu

    found = mannwhitneyu(a, b)
    area = float(found.statistic) / (a.size * b.size)
    return RankTest(float(found.statistic), area, 2 * area - 1, float(found.pvalue))


def fisher_exact(table: Sequence[Sequence[int]]) -> CountTest:
    """Whether rows and columns of a 2 x 2 table of counts are independent, all its margins given; two-sided.

    Source: Fisher 1935, doi:10.2307/2342435.

    Raises:
        ValueError: unless ``table`` is two rows of two counts.
    """
    if [len(row) for row in table] != [2, 2] or min(count for row in table for count in row) < 0:
        raise ValueError(f"expected two rows of two counts, got {table}")
    # It takes half a second to import.
    from scipy.stats import fisher_exact as test

    (a, b), (c, d) = table
    ratio = a * d / (b * c) if b * c else math.inf if a * d else None
    return CountTest(ratio, min(1.0, float(test(table).pvalue)))
