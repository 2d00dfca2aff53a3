"""What ``results.json`` holds, checked where it is read: a report never shows a number that was not there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, NonNegativeInt, TypeAdapter, ValidationError

from dpc.errors import UserError
from dpc.files import read_json

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A method against prompt tuning on the same instances; differences are shares of one.

    interval: Tango's score interval. bootstrap: the paired percentile bootstrap's. p: McNemar's exact test. p_holm: the
    same, adjusted by Holm over all methods of the run that are compared with prompt tuning.
    """

    difference: FiniteFloat
    interval: tuple[FiniteFloat, FiniteFloat]
    bootstrap: tuple[FiniteFloat, FiniteFloat]
    p: Share
    p_holm: Share
    fixed: NonNegativeInt
    broken: NonNegativeInt

    def reversed(self) -> Comparison:
        """The same comparison seen from the other side."""
        low, high = self.interval
        least, most = self.bootstrap
        return Comparison(
            -self.difference, (-high, -low), (-most, -least), self.p, self.p_holm, self.broken, self.fixed
        )


@dataclass(frozen=True, slots=True)
class Trigger:
    """The trigger as a detector of wrong first answers; None where a figure has no denominator."""

    tau: FiniteFloat
    rate: Share | None
    precision: Share | None
    recall: Share | None
    auc: Share | None
    not_judged: NonNegativeInt = 0
    auc_interval: tuple[Share, Share] | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """Sums over all instances of a method."""

    seconds: Annotated[FiniteFloat, Field(ge=0)]
    forward_passes: NonNegativeInt
    backward_passes: NonNegativeInt | None = None
    generated_tokens: NonNegativeInt | None = None


@dataclass(frozen=True, slots=True)
class Graded:
    """What a further grader of the task makes of the same answers."""

    accuracy: Share
    interval: tuple[Share, Share]


@dataclass(frozen=True, slots=True)
class MethodResult:
    """One row of the table. oracle: share right in either pass, None for a method of one pass."""

    n: NonNegativeInt
    accuracy: Share
    interval: tuple[Share, Share]
    versus_prompt_tuning: Comparison | None
    trigger: Trigger | None
    cost: Cost
    no_answer: NonNegativeInt = 0
    oracle: Share | None = None
    also_graded: dict[str, Graded] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One threshold on the calibration split."""

    tau: FiniteFloat
    accuracy: Share
    trigger_rate: Share


@dataclass(frozen=True, slots=True)
class CalibrationResult:
    """The chosen threshold and every candidate."""

    tau: FiniteFloat
    n: NonNegativeInt
    curve: list[CurvePoint]

    def __post_init__(self) -> None:
        if all(point.tau != self.tau for point in self.curve):
            raise ValueError(f"tau {self.tau} is not on the curve")


@dataclass(frozen=True, slots=True)
class TriggerPoint:
    """One threshold on the rows that were evaluated; ``accuracy`` is None where second answers are missing."""

    tau: FiniteFloat
    trigger_rate: Share
    precision: Share | None
    recall: Share | None
    false_positive_rate: Share | None
    accuracy: Share | None


@dataclass(frozen=True, slots=True)
class TriggerCurve:
    """DPC's trigger at every threshold on the rows that were evaluated, where tau was not chosen.

    oracle: share right in either pass had every instance two, None where second answers are missing.
    second_shared, second_differ: instances with a second answer from all_corruption as well, and how often it differs.
    """

    tau: FiniteFloat | None
    n: NonNegativeInt
    points: list[TriggerPoint]
    auc: Share | None
    oracle: Share | None
    second_shared: NonNegativeInt = 0
    second_differ: NonNegativeInt = 0

    def __post_init__(self) -> None:
        if self.tau is not None and all(point.tau != self.tau for point in self.points):
            raise ValueError(f"tau {self.tau} is not on the curve")


@dataclass(frozen=True, slots=True)
class MadeBy:
    """What repeats the run."""

    command: str
    versions: dict[str, str] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Results:
    """The whole of ``results.json``. Fields that this version does not know are left alone."""

    format: Literal[2]
    model: str
    task: str
    split: str
    n: NonNegativeInt
    methods: dict[str, MethodResult]
    calibration: CalibrationResult | None
    made_by: MadeBy
    test_curve: TriggerCurve | None = None


RESULTS: TypeAdapter[Results] = TypeAdapter(Results)


def parse(results: Results | Mapping[str, Any]) -> Results:
    """Check ``results``; what was parsed before passes as it is. Raises ``pydantic.ValidationError``."""
    return RESULTS.validate_python(results)


def read_results(path: Path) -> Results:
    """Read and check ``results.json``. Raises ``UserError`` where it is missing, damaged, or of another format."""
    if not path.exists() and (seeds := sorted(path.parent.glob("seed-*"))):
        raise UserError(
            f"{path.parent}: holds several tuning seeds, each a run of its own; name one, such as {seeds[0]}"
        )
    if not path.exists():
        raise UserError(f"{path}: no results there; make them with dpc run --output {path.parent}")
    value = read_json(path, "results file")
    if isinstance(value, dict) and isinstance(value.get("format"), int) and value["format"] != 2:
        raise UserError(
            f"{path}: has format {value['format']}, expected 2; evaluate again, which keeps the records, "
            "or read it with the dpc that wrote it"
        )
    try:
        return RESULTS.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = " ".join(".".join(map(str, first["loc"])).split()) or "its top level"
        fault = first["msg"].removeprefix("Value error, ").lower()
        raise UserError(f"{path}: {where}: {fault}; make the results again") from error
