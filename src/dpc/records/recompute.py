"""Results recomputed from the records they follow from, so that an edited ``results.json`` is noticed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dpc.flow.thresholds import calibrate
from dpc.records.directory import RunDirectory
from dpc.records.results import CalibrationResult, CurvePoint, Results, results_json
from dpc.records.summary import adjust, summarize_run
from dpc.tasks import TASKS, get_task
from dpc.tasks.base import Grader
from dpc.types import Record

# Relative. Another version of a library may round a bound of an interval in another way.
_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Recomputed:
    """Results as the records give them. notes: where ``results.json`` differs, and what could not be recomputed."""

    results: Results
    notes: tuple[str, ...]


def recompute(run: RunDirectory, stored: Results) -> Recomputed:
    """``stored``, the content of ``results.json``, computed again from rows and records as far as these are there.

    Raises ``UserError`` where records or rows are damaged.
    """
    present = run.methods()
    if not present:
        return Recomputed(stored, ())
    if not run.examples.exists():
        return Recomputed(stored, (f"{run.examples.name} is missing: no figure was checked against the records",))
    examples = run.read_examples()
    records, notes = _whole_records(run, present, stored, [example.id for example in examples])
    if not records:
        return Recomputed(stored, tuple(notes))
    described = run.manifest()["stages"].get("eval", {}).get("from", {})
    data, model = described.get("data", {}), described.get("model", {})
    task = str(data.get("task", stored.task))
    graders: Mapping[str, Grader] = get_task(task).also_graded if task in TASKS else {}
    computed = summarize_run(
        records,
        examples,
        graders,
        model=str(model.get("name", stored.model)),
        task=task,
        split=str(data.get("split", stored.split)),
        calibration=None,
        made_by={name: getattr(stored.made_by, name) for name in ("command", "versions", "source")},
    )
    if task not in TASKS and any(method.also_graded for method in stored.methods.values()):
        notes.append(f"task {task} does not come with dpc: the figures of its further graders were not checked")
    computed = _with_unchecked(computed, stored, keep_graded=task not in TASKS)
    computed = replace(computed, calibration=_calibration(run, stored.calibration))
    return Recomputed(computed, (*_mismatches(stored, computed), *notes))


def _whole_records(
    run: RunDirectory, present: Sequence[str], stored: Results, ids: Sequence[str]
) -> tuple[dict[str, list[Record]], list[str]]:
    """The records of each method that has one for every row, in the order of the rows; and a note on each other."""
    found, notes = {}, []
    for name in [*stored.methods, *(name for name in present if name not in stored.methods)]:
        by_id = {record.example_id: record for record in run.records(name).read()} if name in present else {}
        missing = sum(each not in by_id for each in ids)
        if ids and not missing:
            found[name] = [by_id[each] for each in ids]
        elif name in stored.methods:
            lacking = f"{missing:,} of {len(ids):,} records" if by_id else "records"
            notes.append(f"{name} has no {lacking}: its figures are those of {run.results.name}, not checked")
    return found, notes


def _with_unchecked(computed: Results, stored: Results, *, keep_graded: bool) -> Results:
    """``computed`` with the methods that only ``stored`` has, and p adjusted over all of them.

    keep_graded: take the figures of further graders from ``stored``.
    """
    methods = {}
    for name in [*stored.methods, *(name for name in computed.methods if name not in stored.methods)]:
        known, found = stored.methods.get(name), computed.methods.get(name)
        if found is not None and known is not None and keep_graded:
            found = replace(found, also_graded=known.also_graded)
        chosen = known if found is None else found
        assert chosen is not None
        methods[name] = chosen
    return replace(computed, methods=adjust(methods))


def _calibration(run: RunDirectory, stored: CalibrationResult | None) -> CalibrationResult | None:
    """The calibration, from its records where this run holds all of them."""
    stage = run.manifest()["stages"].get("calibrate", {})
    records = run.records("calibration").read()
    if stored is None or stage.get("from") != stored.made_from or len(records) != stored.made_from["data"]["rows"]:
        return stored
    decisions = [record.answer.decision for record in records]
    chosen = calibrate(
        [None if decision is None else decision.statistic for decision in decisions],
        [record.score_first.correct for record in records],
        [record.score_final.correct for record in records],
    )
    curve = [CurvePoint(point.tau, point.accuracy, point.trigger_rate) for point in chosen.curve]
    return CalibrationResult(chosen.tau, len(records), curve, stored.made_from)


def _mismatches(stored: Results, computed: Results) -> list[str]:
    """One line on the first figure that differs, and on how many do; empty where none does."""
    differing = list(_differences(results_json(stored), results_json(computed)))
    if not differing:
        return []
    where, was, now = differing[0]
    more = f" ({len(differing)} figures differ)" if len(differing) > 1 else ""
    return [f"results.json has {where} = {was}, the records give {now}{more}: what follows from the records is shown"]


def _differences(was: Any, now: Any, where: str = "") -> Iterator[tuple[str, str, str]]:
    """Every leaf that differs: where it is, and both values in words."""
    if isinstance(was, dict) and isinstance(now, dict):
        for name in [*was, *(name for name in now if name not in was)]:
            inner = f"{where}.{name}" if where else name
            if name not in was or name not in now:
                yield inner, "something" if name in was else "nothing", "something" if name in now else "nothing"
            else:
                yield from _differences(was[name], now[name], inner)
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for place, (one, other) in enumerate(zip(was, now, strict=True)):
            yield from _differences(one, other, f"{where}.{place}")
    elif not _same(was, now):
        yield where, _short(was), _short(now)


def _same(was: Any, now: Any) -> bool:
    if isinstance(was, float | int) and isinstance(now, float | int):
        return math.isclose(was, now, rel_tol=_TOLERANCE, abs_tol=1e-12)
    return bool(was == now)


def _short(value: Any) -> str:
    if isinstance(value, list | dict):
        return f"{len(value)} values"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
