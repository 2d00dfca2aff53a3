"""Confidence intervals: of a proportion, of a difference on the same instances, of a mean over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

# Counts of a bootstrap that are held at once: 32 MiB.
_DRAWN_AT_ONCE = 2**22


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval, bounds included."""

    low: float
    high: float


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Score interval of a proportion (Wilson 1927, doi:10.1080/01621459.1927.10502953); [0, 1] for ``n`` = 0.

    Raises:
        ValueError: unless 0 <= ``successes`` <= ``n`` and 0 < ``confidence`` < 1.
    """
    z2 = normal_quantile(confidence) ** 2
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


def paired_difference(first: Sequence[bool], second: Sequence[bool], confidence: float = 0.95) -> Interval:
    """Interval of the accuracy of ``second`` minus that of ``first`` on the same instances; [-1, 1] for none.

    Tango's score interval (Tango 1998, doi:10.1002/(SICI)1097-0258(19980430)17:8<891::AID-SIM780>3.0.CO;2-B). The
    differences that McNemar's asymptotic test does not reject; unlike a Wald interval it keeps its width when
    nothing changed. At the edge of significance it may disagree with ``mcnemar_exact``, which is more cautious.

    Raises:
        ValueError: on unequal lengths, or unless 0 < ``confidence`` < 1.
    """
    z2 = normal_quantile(confidence) ** 2
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


def paired_bootstrap(
    first: Sequence[float] | Sequence[bool],
    second: Sequence[float] | Sequence[bool],
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Percentile interval of the mean of ``second`` minus that of ``first``, instances drawn again as pairs.

    Of values of any kind, where ``paired_difference`` is for right and wrong. Without width where every pair differs
    by the same: resampling cannot draw what was never observed. How often a difference is drawn is multinomial, so
    no instance is drawn by itself. Source: Efron 1979, doi:10.1214/aos/1176344552.

    Raises:
        ValueError: on unequal lengths, without a pair or a resample, for a value that is not finite, or unless
            0 < ``confidence`` < 1.
    """
    _check_confidence(confidence)
    before, after = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if not before.size == after.size > 0 or resamples < 1:
        raise ValueError(f"expected pairs, got {before.size} and {after.size} values, and {resamples} resamples")
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        raise ValueError("expected finite values")
    differences = after - before
    values, counts = np.unique(differences, return_counts=True)
    draw = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, _DRAWN_AT_ONCE // values.size)
    for start in range(0, resamples, step):
        part = means[start : start + step]
        part[:] = draw.multinomial(differences.size, counts / differences.size, size=part.size) @ values
    low, high = np.quantile(means / differences.size, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def between_seeds(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Student's t interval of the mean over tuning seeds, one value a seed; not cut where a figure must end.

    None for fewer than two seeds: nothing is known of their spread. Equal values give an interval without width.
    Source: Student 1908, doi:10.1093/biomet/6.1.1.

    Raises:
        ValueError: for a value that is not finite, or unless 0 < ``confidence`` < 1.
    """
    _check_confidence(confidence)
    array = np.asarray(values, dtype=float)
    if not np.isfinite(array).all():
        raise ValueError(f"expected finite values, got {list(values)}")
    if array.size < 2:
        return None
    half = float(stdtrit(array.size - 1, (1 + confidence) / 2)) * float(array.std(ddof=1)) / math.sqrt(array.size)
    return Interval(float(array.mean()) - half, float(array.mean()) + half)


def normal_quantile(confidence: float) -> float:
    """Two-sided standard normal quantile: 1.96 for 0.95. ``ValueError`` unless 0 < ``confidence`` < 1."""
    _check_confidence(confidence)
    return float(ndtri((1 + confidence) / 2))


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
