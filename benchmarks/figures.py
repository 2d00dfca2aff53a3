"""Points, their targets, and figures with the raw numbers that they were computed from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from benchmarks.measure import Bench, Unavailable, machine


@dataclass(frozen=True, slots=True)
class Target:
    """The target of a figure. gap: the reason to report if it is missed."""

    sense: Literal[">=", "<="]
    value: float
    gap: str = ""

    def holds(self, measured: float) -> bool:
        """Whether ``measured`` meets the target."""
        return measured >= self.value if self.sense == ">=" else measured <= self.value


@dataclass(frozen=True, slots=True)
class Measured:
    """One figure as a point yields it: its name within the point, its value, and the raw numbers.

    target: replaces the declared target if it depends on the measurement.
    """

    name: str
    value: float
    raw: Mapping[str, Any] = field(default_factory=dict)
    target: Target | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """Figures that are measured together. targets: the target of each figure by name, None for no target."""

    targets: Mapping[str, Target | None]
    measure: Callable[[Bench], Iterator[Measured]]


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. measured: None if it could not be measured.

    reason: why the target is missed, or why nothing was measured. raw: medians in seconds and bytes, counts, sizes.
    """

    name: str
    target: Target | None
    measured: float | None
    reason: str
    raw: Mapping[str, Any]

    @property
    def holds(self) -> bool | None:
        """Whether the target is met; None without a target or a measurement."""
        return None if self.target is None or self.measured is None else self.target.holds(self.measured)

    def to_json(self, bench: Bench) -> dict[str, Any]:
        """All fields, with the number of repeats and the machine."""
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
    """Every figure of a point when it is measured; if it cannot be measured, a figure with the reason."""
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
