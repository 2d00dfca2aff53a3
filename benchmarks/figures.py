"""What a benchmark states: points, their targets, and figures with what they were computed from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from benchmarks.measure import Bench, Unavailable, machine


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure is held against. gap: why it is missed where it is."""

    sense: Literal[">=", "<="]
    value: float
    gap: str = ""

    def holds(self, measured: float) -> bool:
        """Whether ``measured`` is on the right side."""
        return measured >= self.value if self.sense == ">=" else measured <= self.value


@dataclass(frozen=True, slots=True)
class Measured:
    """One figure as a point yields it: its name within the point, and the raw numbers behind it.

    target: in place of the declared one, where that depends on what was measured.
    """

    name: str
    value: float
    raw: Mapping[str, Any] = field(default_factory=dict)
    target: Target | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """Figures that are measured together. targets: of each figure by name, None for one that is held to nothing."""

    targets: Mapping[str, Target | None]
    measure: Callable[[Bench], Iterator[Measured]]


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. measured, holds: None where nothing was measured, or where there is no target.

    reason: why a target is missed, or why nothing was measured. raw: medians in seconds and bytes, counts, sizes.
    """

    name: str
    target: Target | None
    measured: float | None
    reason: str
    raw: Mapping[str, Any]

    @property
    def holds(self) -> bool | None:
        """Whether the target is met."""
        return None if self.target is None or self.measured is None else self.target.holds(self.measured)

    def to_json(self, bench: Bench) -> dict[str, Any]:
        """All of it, with how often it was measured and on what machine."""
        return {
            "name": self.name,
            "target": None if self.target is None else self.target.value,
            "sense": None if self.target is None else self.target.sense,
            "measured": self.measured,
            "holds": self.holds,
            "reason": self.reason,
            "raw": dict(self.raw),
            "repeats": bench.repeats,
            "quick": bench.quick,
            "machine": asdict(machine()),
        }


def figures(name: str, point: Point, bench: Bench) -> Iterator[Figure]:
    """Every figure of a point as it is measured; where that is not possible, figures that say why."""
    left = dict(point.targets)
    try:
        for measured in point.measure(bench):
            target = measured.target or left[measured.name]
            del left[measured.name]
            missed = target is not None and not target.holds(measured.value)
            reason = target.gap if target is not None and missed else ""
            yield Figure(_full_name(name, measured.name), target, measured.value, reason, measured.raw)
    except Unavailable as error:
        for short, target in left.items():
            yield Figure(_full_name(name, short), target, None, str(error), {})


def _full_name(point: str, figure: str) -> str:
    return f"{point}: {figure}"
