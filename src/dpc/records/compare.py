"""Comparison of two runs on the rows that both answered, and the settings in which they differ."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dpc.errors import UserError
from dpc.records.directory import RunDirectory
from dpc.stats import Comparison, Interval, compare, holm, wilson
from dpc.types import Example

# Shown for a stage that the other run does not have.
_PRESENT = "a stage of this run"


@dataclass(frozen=True, slots=True)
class Side:
    """A run, and one method of it; None for all its methods."""

    run: RunDirectory
    method: str | None

    @classmethod
    def parse(cls, text: str) -> Side:
        """``RUN`` or ``RUN:METHOD``. Raises ``UserError`` for a folder or a method that is not there."""
        head, colon, method = text.rpartition(":")
        if Path(text).is_dir():
            side = cls(RunDirectory(Path(text)), None)
        elif colon and Path(head).is_dir():
            side = cls(RunDirectory(Path(head)), method)
        else:
            raise UserError(f"{text}: no such run directory; expected RUN or RUN:METHOD")
        if not side.run.methods():
            raise UserError(f"{side.run.path}: has no records of a method; make them with `dpc eval`")
        return side

    def of(self, method: str) -> Side:
        """The same run with the method named. Raises ``UserError`` where it was not evaluated."""
        if method not in self.run.methods():
            raise UserError(f"{self.run.path}: has no records of {method}; it has {', '.join(self.run.methods())}")
        return Side(self.run, method)


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting in which two runs differ; None where a run has no such setting."""

    setting: str
    a: Any
    b: Any


@dataclass(frozen=True, slots=True)
class Pair:
    """The answers of B against those of A to the rows that both have; accuracies are shares of one.

    p_holm: p adjusted over all pairs of one comparison. only_a, only_b: rows that the other side has no record of.
    """

    method_a: str
    method_b: str
    accuracy_a: float
    accuracy_b: float
    interval_a: Interval
    interval_b: Interval
    found: Comparison
    p_holm: float
    fixed_ids: list[str]
    broken_ids: list[str]
    only_a: int
    only_b: int


@dataclass(frozen=True, slots=True)
class Compared:
    """A comparison of two runs."""

    a: str
    b: str
    pairs: list[Pair]
    settings: list[Difference]

    def as_json(self) -> str:
        """The comparison as a JSON text."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)


def compare_runs(a: Side, b: Side, method: str | None = None) -> Compared:
    """Compare ``b`` with ``a``: the methods that they name, else ``method``, else all that both runs have.

    Raises ``UserError`` where the runs share no rows, rows of one name differ, a method has no records, or a run is
    compared with itself.
    """
    named = (a.method or method or b.method, b.method or method or a.method)
    if named[0] is not None and named[1] is not None:
        chosen = [(a.of(named[0]), b.of(named[1]))]
    else:
        chosen = [(a.of(name), b.of(name)) for name in a.run.methods() if name in b.run.methods()]
    if not chosen:
        raise UserError(f"{a.run.path} and {b.run.path}: no method in common; name them, RUN:METHOD")
    if a.run.path.resolve() == b.run.path.resolve() and any(x.method == y.method for x, y in chosen):
        raise UserError(f"{a.run.path}: is compared with itself; name two methods, RUN:METHOD")
    _check_rows(a.run, b.run)
    pairs = [_pair(x, y) for x, y in chosen]
    adjusted = holm([pair["found"].p for pair in pairs])
    return Compared(
        str(a.run.path),
        str(b.run.path),
        [Pair(**pair, p_holm=p) for pair, p in zip(pairs, adjusted, strict=True)],
        differing_settings(a.run.manifest(), b.run.manifest()),
    )


def _check_rows(a: RunDirectory, b: RunDirectory) -> None:
    """Rows of one name must be the same rows. Where the digests of all rows are equal, nothing is read."""
    if a.evaluated()["data"]["sha256"] == b.evaluated()["data"]["sha256"]:
        return
    ours, theirs = ({example.id: example for example in run.read_examples()} for run in (a, b))
    for name in ours:
        if name in theirs and _asked(ours[name]) != _asked(theirs[name]):
            raise UserError(
                f"{a.path} and {b.path}: {name} is not the same row in both; compare runs on the same --task and --data"
            )


def _asked(example: Example) -> tuple[Any, ...]:
    return example.question, example.answer, example.choices


def _pair(a: Side, b: Side) -> dict[str, Any]:
    """The fields of a ``Pair`` without ``p_holm``."""
    assert a.method is not None
    assert b.method is not None
    before = {record.example_id: record.score_final.correct for record in a.run.records(a.method).read()}
    after = {record.example_id: record.score_final.correct for record in b.run.records(b.method).read()}
    shared = sorted(before.keys() & after.keys(), key=_natural)
    if not shared:
        raise UserError(f"{a.run.path} and {b.run.path}: no row in common; compare runs on the same --task and --data")
    first, second = [before[name] for name in shared], [after[name] for name in shared]
    return {
        "method_a": a.method,
        "method_b": b.method,
        "accuracy_a": sum(first) / len(shared),
        "accuracy_b": sum(second) / len(shared),
        "interval_a": wilson(sum(first), len(shared)),
        "interval_b": wilson(sum(second), len(shared)),
        "found": compare(first, second),
        "fixed_ids": [name for name in shared if after[name] and not before[name]],
        "broken_ids": [name for name in shared if before[name] and not after[name]],
        "only_a": len(before) - len(shared),
        "only_b": len(after) - len(shared),
    }


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts ``test/9`` before ``test/10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def differing_settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """Differences between two ``run.json``: what each stage was made from, recorded settings, versions, commit.

    A stage that only one of the runs has is one difference, whatever it was made from.
    """
    ours, theirs = a["stages"], b["stages"]
    found = []
    for stage in [*ours, *(stage for stage in theirs if stage not in ours)]:
        if stage not in ours or stage not in theirs:
            found.append(Difference(stage, *(_PRESENT if stage in stages else None for stages in (ours, theirs))))
            continue
        left, right = dict(_settings(stage, ours[stage])), dict(_settings(stage, theirs[stage]))
        names = [*left, *(name for name in right if name not in left)]
        found += [Difference(n, left.get(n), right.get(n)) for n in names if left.get(n) != right.get(n)]
    return found


def _settings(stage: str, made: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from _leaves(stage, made["from"])
    yield from _leaves(f"{stage}.recorded", made.get("recorded", {}))
    yield from _leaves(f"{stage}.versions", made.get("versions", {}))
    yield from _leaves(f"{stage}.source", made.get("source", {}))


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}", inner)
    else:
        yield name, value
