"""The dynamic trigger (Eqs 11 to 13): does the prompt lead the late reasoning astray? And the choice of tau."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor

from dpc.errors import UserError
from dpc.types import Decision, middle

SHORTEST_RATIONALE = 4
# R is a share, so no instance exceeds 1 and every instance exceeds -1.
NEVER, ALWAYS = 1.0, -1.0


@dataclass(frozen=True, slots=True)
class Affected:
    """R of Eq 11 (``ratio``) and beta of Eq 12, the mean influence over the early rationale."""

    ratio: float
    beta: float


def affected_share(influence: Float[Tensor, " rationale"]) -> Affected:
    """Share of late rationale positions that the prompt influences more than it does the early ones on average."""
    half = middle(len(influence))
    beta = influence[:half].mean()
    return Affected(ratio=float((influence[half:] > beta).float().mean()), beta=float(beta))


def decide(influence: Float[Tensor, " rationale"], tau: float) -> Decision:
    """Eqs 11 to 13: triggered where R > tau. A rationale under four tokens is never triggered, and says so."""
    if len(influence) < SHORTEST_RATIONALE:
        return too_short(len(influence), tau)
    affected = affected_share(influence)
    return Decision(affected.ratio > tau, affected.ratio, tau, evidence={"beta": affected.beta})


def too_short(rationale_tokens: int, tau: float) -> Decision:
    """The decision about a rationale in which early and late can't be told apart."""
    reason = f"rationale of {rationale_tokens} tokens, shorter than {SHORTEST_RATIONALE}"
    return Decision(triggered=False, ratio=None, threshold=tau, evidence={"reason": reason})


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


def thresholds(ratios: Sequence[float | None]) -> list[float]:
    """One threshold for every way to decide: the midpoints between neighbouring values of R, always, and never."""
    seen = sorted({r for r in ratios if r is not None})
    return [ALWAYS, *((a + b) / 2 for a, b in pairwise(seen)), NEVER]


def calibrate(
    ratios: Sequence[float | None], first_correct: Sequence[bool], second_correct: Sequence[bool]
) -> Calibration:
    """Choose tau by accuracy on a dev split where every instance was answered twice; ties go to fewer triggers.

    ratios: R of each instance, None where it can't be judged. Candidates are the midpoints between neighbouring values
    of R, below all of them, and 1 (never trigger).
    First answers that are all right, or all wrong, say nothing of the trigger as a detector; the choice is the same.
    Raises ``UserError`` where there is no instance.
    """
    if not first_correct:
        raise UserError("calibration data: no instance to choose a threshold on; expected at least one row")
    total = len(ratios)
    curve = []
    for tau in thresholds(ratios):
        fires = [r is not None and r > tau for r in ratios]
        right = sum(b if f else a for f, a, b in zip(fires, first_correct, second_correct, strict=True))
        curve.append(Operating(tau, right / total, sum(fires) / total))
    best = max(curve, key=lambda point: (point.accuracy, -point.trigger_rate, point.tau))
    return Calibration(best.tau, tuple(curve))
