"""What ``results.json`` holds: declared here, written from these values, and validated where it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, NonNegativeInt, TypeAdapter, ValidationError

from dpc.errors import UserError
from dpc.files import read_json, write_json
from dpc.types import ZERO_SHOT

FORMAT = 2
Share = Annotated[float, Field(ge=0, le=1)]
Bounds = tuple[FiniteFloat, FiniteFloat]
ShareBounds = tuple[Share, Share]


@dataclass(frozen=True, slots=True)
class Versus:
    """A method compared with prompt tuning on the same instances; differences are shares of one.

    interval: Tango's score interval. bootstrap: the paired percentile bootstrap's. p: McNemar's exact test. fixed:
    wrong with prompt tuning, right here. broken: the reverse. p_holm: p, adjusted by Holm over all methods of the run
    that are compared with prompt tuning.
    """

    difference: FiniteFloat
    interval: Bounds
    bootstrap: Bounds
    p: Share
    fixed: NonNegativeInt
    broken: NonNegativeInt
    p_holm: Share

    def reversed(self) -> Versus:
        """The comparison in the other direction: prompt tuning compared with the method."""
        low, high = self.interval
        least, most = self.bootstrap
        return Versus(-self.difference, (-high, -low), (-most, -least), self.p, self.broken, self.fixed, self.p_holm)


@dataclass(frozen=True, slots=True)
class RowResult:
    """R by one reading of ``s_i`` (see ``InfluenceRow``). rate: share of instances with R above the threshold."""

    rate: Share
    auc: Share | None
    auc_interval: ShareBounds | None


@dataclass(frozen=True, slots=True)
class TriggerResult:
    """The trigger as a detector of wrong first answers; None where a figure has no denominator.

    tau: the threshold. rate: share of instances that triggered. auc: over the instances that were judged. Intervals:
    Wilson's for precision and recall, Newcombe's for the AUC. not_judged: answers too short to be judged. by_row: R by
    either reading, ``at`` and ``before``, where R was computed.
    """

    tau: FiniteFloat
    rate: Share | None
    precision: Share | None
    precision_interval: ShareBounds
    recall: Share | None
    recall_interval: ShareBounds
    auc: Share | None
    auc_interval: ShareBounds | None
    wrong_first_answers: NonNegativeInt
    not_judged: NonNegativeInt
    by_row: dict[str, RowResult] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CostSum:
    """Sums over all instances of a method, as ``Cost`` counts them; tokens are None in results before they counted."""

    seconds: Annotated[FiniteFloat, Field(ge=0)]
    forward_passes: NonNegativeInt
    backward_passes: NonNegativeInt
    generated_tokens: NonNegativeInt
    forward_tokens: Annotated[FiniteFloat, Field(ge=0)] | None = None
    backward_tokens: Annotated[FiniteFloat, Field(ge=0)] | None = None


@dataclass(frozen=True, slots=True)
class Graded:
    """What a further grader of the task gives for the same answers. interval: Wilson's."""

    correct: NonNegativeInt
    accuracy: Share
    interval: ShareBounds


@dataclass(frozen=True, slots=True)
class MethodResult:
    """One row of the table.

    interval: Wilson's. no_answer: answers in which the grader found none. oracle: share right in either pass, None for
    a method of one pass. versus_prompt_tuning: None for prompt tuning, and where it was not evaluated. trigger: None
    for a method of one pass. asked: how questions were put, format and number of worked examples.
    """

    n: NonNegativeInt
    correct: NonNegativeInt
    accuracy: Share
    interval: ShareBounds
    also_graded: dict[str, Graded]
    no_answer: NonNegativeInt
    oracle: Share | None
    versus_prompt_tuning: Versus | None
    trigger: TriggerResult | None
    cost: CostSum
    asked: str = ZERO_SHOT


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One threshold on the calibration split."""

    tau: FiniteFloat
    accuracy: Share
    trigger_rate: Share


@dataclass(frozen=True, slots=True)
class CalibrationResult:
    """The calibrated threshold and every candidate. made_from: model, prompt, data and settings of the calibration."""

    tau: FiniteFloat
    n: NonNegativeInt
    curve: list[CurvePoint]
    made_from: Annotated[dict[str, Any], Field(alias="from")]

    def __post_init__(self) -> None:
        if all(point.tau != self.tau for point in self.curve):
            raise ValueError(f"tau {self.tau} is not on the curve")

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> CalibrationResult:
        """What results keep of a calibration file. Raises ``pydantic.ValidationError`` for one that is damaged."""
        return _CALIBRATION.validate_python({name: stored[name] for name in ("tau", "n", "curve", "from")})


@dataclass(frozen=True, slots=True)
class TriggerPoint:
    """One threshold on the evaluated rows; ``accuracy`` is None where second answers are missing."""

    tau: FiniteFloat
    trigger_rate: Share
    precision: Share | None
    recall: Share | None
    false_positive_rate: Share | None
    accuracy: Share | None


@dataclass(frozen=True, slots=True)
class TriggerCurve:
    """DPC's trigger at every threshold on the evaluated rows, on which tau was not chosen.

    oracle: share right in either pass if every instance had two, None where second answers are missing.
    second_shared, second_differ: instances with a second answer from all_corruption as well, and how many differ.
    """

    tau: FiniteFloat | None
    n: NonNegativeInt
    points: list[TriggerPoint]
    auc: Share | None
    oracle: Share | None
    second_shared: NonNegativeInt
    second_differ: NonNegativeInt

    def __post_init__(self) -> None:
        if self.tau is not None and all(point.tau != self.tau for point in self.points):
            raise ValueError(f"tau {self.tau} is not on the curve")


@dataclass(frozen=True, slots=True)
class MadeBy:
    """What repeats the run. source: commit and whether it had changes; empty without a git checkout."""

    command: str
    versions: dict[str, str]
    source: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Results:
    """The whole of ``results.json``."""

    format: Literal[2]
    model: str
    task: str
    split: str
    n: NonNegativeInt
    methods: dict[str, MethodResult]
    calibration: CalibrationResult | None
    test_curve: TriggerCurve | None
    made_by: MadeBy


_RESULTS: TypeAdapter[Results] = TypeAdapter(Results)
_CALIBRATION: TypeAdapter[CalibrationResult] = TypeAdapter(CalibrationResult)


def parse_results(value: Any) -> Results:
    """Results from JSON values. Raises ``pydantic.ValidationError``, a ``ValueError``, for anything else."""
    return _RESULTS.validate_python(value)


def results_json(results: Results) -> dict[str, Any]:
    """Results as JSON values."""
    value: dict[str, Any] = _RESULTS.dump_python(results, by_alias=True, mode="json")
    return value


def write_results(path: Path, results: Results) -> None:
    """Write ``results.json``. Raises ``UserError`` where it cannot be written."""
    write_json(path, results_json(results))


def read_results(path: Path) -> Results:
    """Read ``results.json``. Raises ``UserError`` where it is missing, damaged, or of another format."""
    if not path.exists() and (seeds := sorted(path.parent.glob("seed-*"))):
        raise UserError(
            f"{path.parent}: holds several tuning seeds, each a run of its own; name one, such as {seeds[0]}"
        )
    if not path.exists():
        raise UserError(f"{path}: no results there; make them with dpc run --output {path.parent}")
    value = read_json(path, "results file")
    if isinstance(value, dict) and isinstance(value.get("format"), int) and value["format"] != FORMAT:
        raise UserError(
            f"{path}: has format {value['format']}, expected {FORMAT}; evaluate again, which keeps the records, "
            "or read it with the dpc that wrote it"
        )
    try:
        return parse_results(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = " ".join(".".join(map(str, first["loc"])).split()) or "its top level"
        fault = first["msg"].removeprefix("Value error, ").lower()
        raise UserError(f"{path}: {where}: {fault}; make the results again") from error
