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
    """A method against prompt tuning on the same instances; differences are shares of one."""

    difference: FiniteFloat
    interval: tuple[FiniteFloat, FiniteFloat]
    p: Share
    fixed: NonNegativeInt
    broken: NonNegativeInt

    def reversed(self) -> Comparison:
        """The same comparison seen from the other side."""
        low, high = self.interval
        return Comparison(-self.difference, (-high, -low), self.p, self.broken, self.fixed)


@dataclass(frozen=True, slots=True)
class Trigger:
    """The trigger as a detector of wrong first answers; None where a figure has no denominator."""

    tau: FiniteFloat
    rate: Share | None
    precision: Share | None
    recall: Share | None
    auc: Share | None
    not_judged: NonNegativeInt = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """Sums over all instances of a method."""

    seconds: Annotated[FiniteFloat, Field(ge=0)]
    forward_passes: NonNegativeInt


@dataclass(frozen=True, slots=True)
class MethodResult:
    """One row of the table."""

    n: NonNegativeInt
    accuracy: Share
    interval: tuple[Share, Share]
    versus_prompt_tuning: Comparison | None
    trigger: Trigger | None
    cost: Cost
    no_answer: NonNegativeInt = 0


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
class Trace:
    """One instance followed through the whole method; ``ratio`` and ``beta`` are None where it could not be judged."""

    example_id: str
    question: str
    first: str
    second: str | None
    gold: str
    triggered: bool
    ratio: Share | None
    tau: FiniteFloat
    beta: FiniteFloat | None
    key_token: NonNegativeInt | None
    tokens: list[str]
    influence: list[FiniteFloat]
    profile: list[FiniteFloat]
    prompt_to_question: list[FiniteFloat]
    prompt_to_rationale: list[FiniteFloat]

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.influence):
            raise ValueError(f"{len(self.tokens)} tokens with {len(self.influence)} influences")
        if self.key_token is not None and self.key_token >= len(self.profile):
            raise ValueError(f"key token {self.key_token} in a profile of {len(self.profile)}")


@dataclass(frozen=True, slots=True)
class MadeBy:
    """What repeats the run."""

    command: str
    versions: dict[str, str] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Results:
    """The whole of ``results.json``. Fields that this version does not know are left alone."""

    format: Literal[1]
    model: str
    task: str
    split: str
    n: NonNegativeInt
    methods: dict[str, MethodResult]
    calibration: CalibrationResult | None
    trace: Trace | None
    made_by: MadeBy


RESULTS: TypeAdapter[Results] = TypeAdapter(Results)


def parse(results: Results | Mapping[str, Any]) -> Results:
    """Check ``results``; what was parsed before passes as it is. Raises ``pydantic.ValidationError``."""
    return RESULTS.validate_python(results)


def read_results(path: Path) -> Results:
    """Read and check ``results.json``. Raises ``UserError`` where it is missing, damaged, or of another format."""
    if not path.exists():
        raise UserError(f"{path}: no results there; make them with dpc run --output {path.parent}")
    value = read_json(path, "results file")
    if isinstance(value, dict) and isinstance(value.get("format"), int) and value["format"] != 1:
        raise UserError(f"{path}: has format {value['format']}, expected 1; read it with the dpc that wrote it")
    try:
        return RESULTS.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = " ".join(".".join(map(str, first["loc"])).split()) or "its top level"
        fault = first["msg"].removeprefix("Value error, ").lower()
        raise UserError(f"{path}: {where}: {fault}; make the results again") from error
