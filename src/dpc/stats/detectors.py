"""A trigger as a detector of wrong answers: precision, recall, AUC, operating curve, oracle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dpc.stats.intervals import Interval, normal_quantile


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


def auc_interval(scores: Sequence[float], wrong: Sequence[bool], confidence: float = 0.95) -> Interval | None:
    """Interval of ``auc``: the areas that a score test keeps; None where ``auc`` is.

    Newcombe's method 5 (Newcombe 2006, doi:10.1002/sim.2324), with Hanley and McNeil's variance taken at the area that
    is tested. Unlike DeLong's it keeps its width where the scores separate right from wrong.

    Raises:
        ValueError: on unequal lengths, a score that is NaN, or unless 0 < ``confidence`` < 1.
    """
    z2, area = normal_quantile(confidence) ** 2, auc(scores, wrong)
    if area is None:
        return None
    positive, negative = sum(wrong), len(wrong) - sum(wrong)
    return Interval(1 - _largest_area(1 - area, positive, negative, z2), _largest_area(area, positive, negative, z2))


def _largest_area(area: float, positive: int, negative: int, z2: float) -> float:
    """Largest area that is not rejected; those that are not are an interval around ``area``."""
    low, high = area, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        pairs = (positive + negative) / 2 - 1
        spread = 1 + pairs * ((1 - middle) / (2 - middle) + middle / (1 + middle))
        if (area - middle) ** 2 <= z2 * middle * (1 - middle) * spread / (positive * negative):
            low = middle
        else:
            high = middle
    return high


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


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The trigger at one threshold; None where a figure has no denominator.

    precision: share wrong of the triggered. recall: share triggered of the wrong. false_positive_rate: share
    triggered of the right. accuracy: None, too, where an instance that would trigger has no second answer.
    """

    tau: float
    trigger_rate: float
    precision: float | None
    recall: float | None
    false_positive_rate: float | None
    accuracy: float | None


def operating_curve(
    ratios: Sequence[float | None], first: Sequence[bool], second: Sequence[bool | None], taus: Sequence[float]
) -> list[OperatingPoint]:
    """The trigger at each of ``taus``: threshold, ROC and precision-recall curve in one.

    ratios: R of each instance, None where it can't be judged and never triggers. first: whether the first answer is
    right. second: whether the second is, None where there is none.

    Raises:
        ValueError: on unequal lengths, without an instance, or for a ratio that is NaN.
    """
    if not len(ratios) == len(first) == len(second) > 0:
        raise ValueError(f"expected as many: {len(ratios)} ratios, {len(first)} first and {len(second)} second answers")
    scores = np.array([-math.inf if ratio is None else ratio for ratio in ratios])
    if np.isnan(scores).any():
        raise ValueError("expected ratios that are not NaN")
    right, mended = np.asarray(first, dtype=bool), np.array([bool(each) for each in second])
    known = np.array([each is not None for each in second])
    points = []
    for tau in taus:
        fires = scores > tau
        hits, wrong = int((fires & ~right).sum()), int((~right).sum())
        points.append(
            OperatingPoint(
                tau=tau,
                trigger_rate=float(fires.mean()),
                precision=_share(hits, int(fires.sum())),
                recall=_share(hits, wrong),
                false_positive_rate=_share(int((fires & right).sum()), right.size - wrong),
                accuracy=float(np.where(fires, mended, right).mean()) if known[fires].all() else None,
            )
        )
    return points


def oracle(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Accuracy of a trigger that is never mistaken: the share of instances that either answer gets right.

    Raises:
        ValueError: on unequal lengths, or without an instance.
    """
    if not first:
        raise ValueError("expected an instance")
    return sum(a or b for a, b in zip(first, second, strict=True)) / len(first)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
