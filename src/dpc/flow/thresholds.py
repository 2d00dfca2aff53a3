"""Choice of a trigger's threshold: the candidates, and the one of highest accuracy on a dev split. Without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from dpc.errors import UserError

# R is a share, so no instance exceeds 1 and every instance exceeds -1.
NEVER, ALWAYS = 1.0, -1.0
Rule = Literal["accuracy", "median"]


@dataclass(frozen=True, slots=True)
class Operating:
    """One point of the threshold curve on the calibration split."""

    tau: float
    accuracy: float
    trigger_rate: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """The chosen threshold, and every candidate it was chosen among."""

    tau: float
    curve: tuple[Operating, ...]


def thresholds(statistics: Sequence[float | None], bounds: tuple[float, float] = (ALWAYS, NEVER)) -> list[float]:
    """One threshold for every way to decide: the midpoints between neighbouring values, always, and never.

    statistics: of each instance, None where it was not judged. bounds: the thresholds "always" and "never".
    """
    seen = sorted({value for value in statistics if value is not None})
    return [bounds[0], *((a + b) / 2 for a, b in pairwise(seen)), bounds[1]]


def calibrate(
    statistics: Sequence[float | None],
    first_correct: Sequence[bool],
    second_correct: Sequence[bool],
    bounds: tuple[float, float] = (ALWAYS, NEVER),
    rule: Rule = "accuracy",
) -> Calibration:
    """Choose a threshold on a dev split where every instance was answered twice; ties: fewer triggers.

    rule: the threshold of highest accuracy, or the median, at which half of the instances trigger.

    statistics: of each instance (R for DPC), None where it was not judged. Candidates are those of ``thresholds``.
    First answers that are all right, or all wrong, say nothing of the trigger as a detector; the choice is the same.
    Raises ``UserError`` where there is no instance.
    """
    if not first_correct:
        raise UserError("calibration data: no instance to choose a threshold on; expected at least one row")
    total = len(statistics)
    curve = []
    for tau in thresholds(statistics, bounds):
        triggered = [value is not None and value > tau for value in statistics]
        right = sum(b if t else a for t, a, b in zip(triggered, first_correct, second_correct, strict=True))
        curve.append(Operating(tau, right / total, sum(triggered) / total))
    if rule == "median":
        best = min(curve, key=lambda point: (abs(point.trigger_rate - 0.5), point.trigger_rate))
    else:
        best = max(curve, key=lambda point: (point.accuracy, -point.trigger_rate, point.tau))
    return Calibration(best.tau, tuple(curve))
