"""Intervals, paired tests and detector figures: the numbers that stand beside every accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr, ndtri


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval, bounds included."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Detector:
    """The trigger as a detector of wrong answers; None where a figure has no denominator.

    trigger_rate: share triggered. precision: share wrong of the triggered. recall: share triggered of the wrong.
    auc: probability that a wrong answer has a higher ratio than a right one, None unless scores were given.
    """

    trigger_rate: float | None
    precision: float | None
    recall: float | None
    auc: float | None = None


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Score interval of a proportion (Wilson 1927, doi:10.1080/01621459.1927.10502953); [0, 1] for ``n`` = 0.

    Raises:
        ValueError: unless 0 <= ``successes`` <= ``n`` and 0 < ``confidence`` < 1.
    """
    z2 = _quantile(confidence) ** 2
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    if n == 0:
        return Interval(0.0, 1.0)
    p = successes / n
    center = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # Rounding must not push a bound past the estimate, as it would at 0 and n successes.
    return Interval(min(max(center - half, 0.0), p), max(min(center + half, 1.0), p))


def fixed_broken(first: Sequence[bool], final: Sequence[bool]) -> tuple[int, int]:
    """How many instances went from wrong to right, and from right to wrong; ``ValueError`` on unequal lengths."""
    pairs = list(zip(first, final, strict=True))
    return sum(not a and b for a, b in pairs), sum(a and not b for a, b in pairs)


def mcnemar_exact(fixed: int, broken: int) -> float:
    """Two-sided p value of McNemar's exact test: ``fixed`` is binomial(fixed + broken, 1/2) if nothing has changed.

    ``ValueError`` for negative counts. Source: McNemar 1947, doi:10.1007/BF02295996.
    """
    if min(fixed, broken) < 0:
        raise ValueError(f"negative counts: {fixed} fixed, {broken} broken")
    return min(1.0, 2.0 * float(bdtr(min(fixed, broken), fixed + broken, 0.5)))


def paired_difference(first: Sequence[bool], second: Sequence[bool], confidence: float = 0.95) -> Interval:
    """Interval of the accuracy of ``second`` minus that of ``first`` on the same instances; [-1, 1] for none.

    Tango's score interval (Tango 1998, doi:10.1002/(SICI)1097-0258(19980430)17:8<891::AID-SIM780>3.0.CO;2-B). The
    differences that McNemar's asymptotic test does not reject; unlike a Wald interval it keeps its width when
    nothing changed. At the edge of significance it may disagree with ``mcnemar_exact``, which is more cautious.

    Raises:
        ValueError: on unequal lengths, or unless 0 < ``confidence`` < 1.
    """
    z2 = _quantile(confidence) ** 2
    fixed, broken = fixed_broken(first, second)
    n = len(first)
    if n == 0:
        return Interval(-1.0, 1.0)
    return Interval(-_tango_upper(broken, fixed, n, z2), _tango_upper(fixed, broken, n, z2))


def _tango_upper(fixed: int, broken: int, n: int, z2: float) -> float:
    """Largest difference that is not rejected; the accepted ones are an interval around the estimate."""
    low, high = (fixed - broken) / n, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _tango_accepts(middle, fixed, broken, n, z2):
            low = middle
        else:
            high = middle
    return high


def _tango_accepts(difference: float, fixed: int, broken: int, n: int, z2: float) -> bool:
    """Whether the score test keeps ``difference``; its variance is taken at the likeliest chance to be broken."""
    a = 2 * n
    b = (a - fixed + broken) * difference - fixed - broken
    c = -broken * difference * (1 - difference)
    root = math.sqrt(max(b * b - 4 * a * c, 0.0))
    p_broken = (root - b) / (2 * a)
    variance = n * (2 * p_broken + difference * (1 - difference))
    return (fixed - broken - n * difference) ** 2 <= z2 * variance


def auc(scores: Sequence[float], wrong: Sequence[bool]) -> float | None:
    """Area under the ROC curve of ``scores`` as a detector of ``wrong``: Mann-Whitney U over the number of pairs.

    Ties count half; None unless there are both right and wrong instances.

    Raises:
        ValueError: on unequal lengths or a score that is NaN.
    """
    values, labels = np.asarray(scores, dtype=float), np.asarray(wrong, dtype=bool)
    if values.shape != labels.shape or np.isnan(values).any():
        raise ValueError(f"expected one score that is not NaN for each of {labels.size} instances")
    positive, negative = values[labels], np.sort(values[~labels])
    if not positive.size or not negative.size:
        return None
    below = np.searchsorted(negative, positive, side="left")
    not_above = np.searchsorted(negative, positive, side="right")
    return float((below + not_above).sum() / (2 * positive.size * negative.size))


def detector(triggered: Sequence[bool], wrong: Sequence[bool], scores: Sequence[float] | None = None) -> Detector:
    """The trigger's decisions (and, for the AUC, its ratios R) against which first answers were wrong.

    Raises:
        ValueError: on unequal lengths.
    """
    hits = sum(a and b for a, b in zip(triggered, wrong, strict=True))
    return Detector(
        trigger_rate=_share(sum(triggered), len(triggered)),
        precision=_share(hits, sum(triggered)),
        recall=_share(hits, sum(wrong)),
        auc=None if scores is None else auc(scores, wrong),
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _quantile(confidence: float) -> float:
    """Two-sided standard normal quantile."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    return float(ndtri((1 + confidence) / 2))
