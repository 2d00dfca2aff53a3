"""Several tuning seeds of one recipe: mean and between-seed interval of each method's accuracy, ``seeds.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import FiniteFloat, TypeAdapter

from dpc.files import write_json
from dpc.records.results import MethodResult, Results
from dpc.stats import between_seeds

# Student's t interval of two values is so wide that it says nothing: 12.7 standard errors to each side.
FEWEST_SEEDS = 3


@dataclass(frozen=True, slots=True)
class Spread:
    """One value per seed, their mean, and Student's t interval of the mean, within the values' range.

    interval: None for fewer than ``FEWEST_SEEDS`` seeds.
    """

    values: list[FiniteFloat]
    mean: FiniteFloat
    interval: tuple[FiniteFloat, FiniteFloat] | None


@dataclass(frozen=True, slots=True)
class SeedsOfMethod:
    """Accuracies of a method, and their differences to prompt tuning with the same seed, None without it."""

    accuracy: Spread
    difference: Spread | None


@dataclass(frozen=True, slots=True)
class SeedsResult:
    """The whole of ``seeds.json``. methods: those that every seed has."""

    format: Literal[1]
    seeds: list[int]
    methods: dict[str, SeedsOfMethod]


_SEEDS: TypeAdapter[SeedsResult] = TypeAdapter(SeedsResult)


def summarize_seeds(results: Mapping[int, Results]) -> SeedsResult:
    """From each seed's results: accuracies, and differences to prompt tuning, of every method that all seeds have.

    The intervals say how far the mean would move with other tuning seeds. The intervals in each seed's own results say
    how far its figures would move with other test rows.
    """
    first = next(iter(results.values()))
    common = [name for name in first.methods if all(name in found.methods for found in results.values())]
    methods = {name: _of_method([found.methods[name] for found in results.values()]) for name in common}
    return SeedsResult(1, list(results), methods)


def parse_seeds(value: Any) -> SeedsResult:
    """A summary from JSON values. Raises ``pydantic.ValidationError``, a ``ValueError``, for anything else."""
    return _SEEDS.validate_python(value)


def write_seeds(path: Path, found: SeedsResult) -> None:
    """Write ``seeds.json``. Raises ``UserError`` where it cannot be written."""
    write_json(path, _SEEDS.dump_python(found, mode="json"))


def _of_method(found: Sequence[MethodResult]) -> SeedsOfMethod:
    differences = [m.versus_prompt_tuning.difference for m in found if m.versus_prompt_tuning is not None]
    return SeedsOfMethod(
        accuracy=_spread([method.accuracy for method in found], lowest=0.0),
        difference=_spread(differences, lowest=-1.0) if len(differences) == len(found) else None,
    )


def _spread(values: Sequence[float], lowest: float) -> Spread:
    """lowest: the smallest possible value; the largest is 1."""
    interval = between_seeds(values) if len(values) >= FEWEST_SEEDS else None
    bounds = None if interval is None else (max(interval.low, lowest), min(interval.high, 1.0))
    return Spread(list(values), sum(values) / len(values), bounds)
