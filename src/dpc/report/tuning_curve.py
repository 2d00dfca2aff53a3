"""The tuning curve of a run's soft prompt: loss and dev accuracy by update, from the file that tuning leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import FiniteFloat, TypeAdapter, ValidationError

from dpc.errors import UserError
from dpc.files import read_json
from dpc.records.directory import RunDirectory
from dpc.report.inline_svg import Mark, Point, Tick, line_chart, ticks

# As in prompt/soft_prompt.py, whose import loads torch.
PROVENANCE_FILE = "dpc.json"
# Points of a drawn line; more updates are averaged.
MOST_POINTS = 200


@dataclass(frozen=True, slots=True)
class Update:
    """One update of tuning: its loss, and dev loss and accuracy where they were measured, else None."""

    step: int
    loss: FiniteFloat
    dev_loss: FiniteFloat | None = None
    dev_accuracy: FiniteFloat | None = None


@dataclass(frozen=True, slots=True)
class TuningCurve:
    """All updates, in order. best_step: the update whose prompt was kept, None where that is not known."""

    updates: list[Update]
    best_step: int | None


_UPDATE: TypeAdapter[Update] = TypeAdapter(Update)


def read_tuning_curve(run: RunDirectory) -> TuningCurve | None:
    """The tuning curve of the run's own prompt; None where it was tuned elsewhere.

    Raises ``UserError`` naming file and line of a damaged one; an incomplete last line is ignored.
    """
    if not run.history.exists():
        return None
    updates = []
    for number, line in enumerate(run.history.read_bytes().split(b"\n")[:-1], 1):
        try:
            updates.append(_UPDATE.validate_json(line))
        except ValidationError as error:
            raise UserError(f"{run.history}:{number}: is not an update of tuning; remove the file") from error
    return TuningCurve(updates, _best_step(run)) if updates else None


def _best_step(run: RunDirectory) -> int | None:
    about = run.prompt / PROVENANCE_FILE
    value = read_json(about, "description of a prompt") if about.exists() else None
    tuning = value.get("tuning") if isinstance(value, dict) else None
    best = tuning.get("best_step") if isinstance(tuning, dict) else None
    return best if isinstance(best, int) else None


def tuning_section(curve: TuningCurve | None) -> dict[str, Any] | None:
    """Charts of the loss and of the accuracy on the dev rows, and what they end with; None without a curve."""
    if curve is None:
        return None
    updates, last = curve.updates, curve.updates[-1]
    x_ticks: list[Tick] = [(at, f"{at:,.0f}") for at in ticks(0, max(last.step, 1))]
    if x_ticks[-1][0] < last.step:
        x_ticks.append((last.step, f"{last.step:,}"))
    loss: list[Point] = _averaged([(u.step, u.loss) for u in updates])
    dev: list[Point] = [(u.step, u.dev_loss) for u in updates if u.dev_loss is not None]
    accuracy: list[Point] = [(u.step, 100 * u.dev_accuracy) for u in updates if u.dev_accuracy is not None]
    largest = max(value for points in (loss, dev) for _, value in points if value is not None)
    final = f"{updates[0].loss:.3f} at update {updates[0].step}, {last.loss:.3f} at update {last.step:,}"
    charts = [
        (
            line_chart(
                [loss, dev],
                alt=f"Loss of tuning by update: {final}.",
                labels=("update", "loss, nats per target token"),
                x_ticks=x_ticks,
                y_range=(0, 1.05 * largest or 1),
            ),
            "loss",
        )
    ]
    if accuracy:
        values = [value for _, value in accuracy if value is not None]
        pad = max((max(values) - min(values)) * 0.1, 0.5)
        charts.append(
            (
                line_chart(
                    [accuracy],
                    alt=f"Accuracy on the dev rows by update, at most {max(values):.1f}%.",
                    labels=("update", "dev accuracy, %"),
                    x_ticks=x_ticks,
                    y_range=(max(min(values) - pad, 0), min(max(values) + pad, 100)),
                    mark=_kept(curve, accuracy),
                ),
                "accuracy",
            )
        )
    return {"charts": charts, "updates": f"{last.step:,}", "averaged": len(loss) < len(updates), "dev": bool(dev)}


def _averaged(points: Sequence[tuple[int, float]]) -> list[Point]:
    """At most ``MOST_POINTS`` points: means of neighbouring ones."""
    size = -(-len(points) // MOST_POINTS)
    groups = [points[at : at + size] for at in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def _kept(curve: TuningCurve, accuracy: Sequence[Point]) -> Mark | None:
    """The update whose prompt was kept."""
    at = curve.best_step
    return None if at is None or all(step != at for step, _ in accuracy) else Mark(at, f"kept: update {at:,}")
