"""From records to results: accuracy with interval, paired tests, the trigger as a detector, cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dpc.flow.thresholds import thresholds
from dpc.methods import BASELINE
from dpc.records.results import (
    CalibrationResult,
    CostSum,
    Graded,
    MadeBy,
    MethodResult,
    Results,
    RowResult,
    TriggerCurve,
    TriggerPoint,
    TriggerResult,
    Versus,
)
from dpc.stats import Interval, auc, auc_interval, compare, detector, holm, operating_curve, oracle, wilson
from dpc.tasks.base import Grader
from dpc.types import Decision, Example, Record


def summarize_run(
    records: Mapping[str, Sequence[Record]],
    examples: Sequence[Example],
    also_graded: Mapping[str, Grader],
    *,
    model: str,
    task: str,
    split: str,
    calibration: Mapping[str, Any] | None,
    made_by: Mapping[str, Any],
) -> Results:
    """The results of a run. calibration: the stored calibration of DPC's threshold, None without one.

    made_by: command, versions and source. Raises ``ValueError`` as ``summarize`` does.
    """
    return Results(
        format=2,
        model=model,
        task=task,
        split=split,
        n=len(examples),
        methods=summarize(records, examples, also_graded),
        calibration=None if calibration is None else CalibrationResult.of(calibration),
        test_curve=threshold_curve(records),
        made_by=MadeBy(**made_by),
    )


def summarize(
    records: Mapping[str, Sequence[Record]],
    examples: Sequence[Example] = (),
    also_graded: Mapping[str, Grader] | None = None,
) -> dict[str, MethodResult]:
    """One result per method. All methods hold the same instances in the same order; percentages are shares of one.

    also_graded: further graders by name, for which ``examples`` are the instances. Raises ``ValueError`` where methods,
    or ``examples`` that are to be graded, are not the same instances in the same order.
    """
    baseline, graders = records.get(BASELINE), also_graded or {}
    return adjust({name: _summarize_method(own, baseline, examples, graders) for name, own in records.items()})


def adjust(methods: Mapping[str, MethodResult]) -> dict[str, MethodResult]:
    """The same results with p adjusted by Holm over all methods that are compared with prompt tuning."""
    compared = {name: m.versus_prompt_tuning for name, m in methods.items() if m.versus_prompt_tuning is not None}
    adjusted = dict(zip(compared, holm([versus.p for versus in compared.values()]), strict=True))
    return {
        name: replace(method, versus_prompt_tuning=replace(compared[name], p_holm=adjusted[name]))
        if name in compared
        else method
        for name, method in methods.items()
    }


def _summarize_method(
    records: Sequence[Record],
    baseline: Sequence[Record] | None,
    examples: Sequence[Example],
    also_graded: Mapping[str, Grader],
) -> MethodResult:
    right = [record.score_final.correct for record in records]
    return MethodResult(
        n=len(records),
        correct=sum(right),
        accuracy=sum(right) / len(right),
        interval=_bounds(wilson(sum(right), len(right))),
        also_graded={name: _regraded(records, examples, grader) for name, grader in also_graded.items()},
        no_answer=sum(record.score_final.reason == "no_answer" for record in records),
        oracle=_oracle(records),
        versus_prompt_tuning=None if baseline is None or baseline is records else _versus(baseline, records),
        trigger=_trigger(records),
        cost=_cost(records),
        asked=records[0].asked,
    )


def threshold_curve(records: Mapping[str, Sequence[Record]]) -> TriggerCurve | None:
    """DPC's trigger at every threshold on the evaluated rows; None where DPC was not evaluated.

    tau was not chosen on these rows, so beside the curve of the calibration this one shows how much of the gain was
    chance. R of every instance is known, and with it precision, recall and false positives. Accuracy requires second
    answers. Where DPC has none, that of all_corruption is taken: the same corruption, without a trigger. Without it
    accuracy is None for thresholds at which an instance would trigger that has no second answer.
    """
    own = records.get("dpc")
    if not own:
        return None
    other = {record.example_id: record for record in records.get("all_corruption", ())}
    ratios = [record.answer.decision.statistic if record.answer.decision else None for record in own]
    second: list[bool | None] = []
    shared, differ = 0, 0
    for record in own:
        also = other.get(record.example_id)
        if also is None or also.answer.second is None:
            second.append(None if record.answer.second is None else record.score_final.correct)
        elif record.answer.second is None:
            second.append(also.score_final.correct)
        else:
            second.append(record.score_final.correct)
            shared += 1
            differ += also.answer.second.ids != record.answer.second.ids
    first = [record.score_first.correct for record in own]
    tau = next((record.answer.decision.threshold for record in own if record.answer.decision), None)
    taus = sorted({*thresholds(ratios), *([] if tau is None else [tau])})
    judged = [(r, not right) for r, right in zip(ratios, first, strict=True) if r is not None]
    complete = all(b is not None or r is None for b, r in zip(second, ratios, strict=True))
    points = [
        TriggerPoint(p.tau, p.trigger_rate, p.precision, p.recall, p.false_positive_rate, p.accuracy)
        for p in operating_curve(ratios, first, second, taus)
    ]
    return TriggerCurve(
        tau=tau,
        n=len(own),
        points=points,
        auc=auc([r for r, _ in judged], [wrong for _, wrong in judged]),
        oracle=oracle(first, [bool(each) for each in second]) if complete else None,
        second_shared=shared,
        second_differ=differ,
    )


def _regraded(records: Sequence[Record], examples: Sequence[Example], grader: Grader) -> Graded:
    if [record.example_id for record in records] != [example.id for example in examples]:
        raise ValueError("examples are not those that were evaluated")
    pairs = list(zip(examples, records, strict=True))
    correct = sum(grader(example, record.answer.final.text).correct for example, record in pairs)
    return Graded(correct, correct / len(pairs), _bounds(wilson(correct, len(pairs))))


def _oracle(records: Sequence[Record]) -> float | None:
    """The share that either pass got right; None for a method of one pass."""
    if all(record.answer.decision is None for record in records):
        return None
    return oracle([r.score_first.correct for r in records], [r.score_final.correct for r in records])


def _versus(baseline: Sequence[Record], records: Sequence[Record]) -> Versus:
    """The comparison with prompt tuning; ``p_holm`` is set by ``adjust``."""
    if [record.example_id for record in baseline] != [record.example_id for record in records]:
        raise ValueError("two methods were evaluated on different instances")
    before = [record.score_final.correct for record in baseline]
    found = compare(before, [record.score_final.correct for record in records])
    return Versus(
        difference=found.difference,
        interval=_bounds(found.interval),
        bootstrap=_bounds(found.bootstrap),
        p=found.p,
        fixed=found.fixed,
        broken=found.broken,
        p_holm=found.p,
    )


def _bounds(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


def _trigger(records: Sequence[Record]) -> TriggerResult | None:
    """The trigger as a detector of wrong first answers; its AUC is over the instances with a statistic."""
    decisions: list[Decision] = [r.answer.decision for r in records if r.answer.decision is not None]
    if len(decisions) < len(records):
        return None
    wrong = [not record.score_first.correct for record in records]
    triggered = [decision.triggered for decision in decisions]
    found, hits = detector(triggered, wrong), sum(a and b for a, b in zip(triggered, wrong, strict=True))
    ranked = [(d.statistic, w) for d, w in zip(decisions, wrong, strict=True) if d.statistic is not None]
    statistics, labels = [s for s, _ in ranked], [w for _, w in ranked]
    area = auc_interval(statistics, labels)
    return TriggerResult(
        tau=decisions[0].threshold,
        rate=found.trigger_rate,
        precision=found.precision,
        precision_interval=_bounds(wilson(hits, sum(triggered))),
        recall=found.recall,
        recall_interval=_bounds(wilson(hits, sum(wrong))),
        auc=auc(statistics, labels),
        auc_interval=None if area is None else _bounds(area),
        wrong_first_answers=sum(wrong),
        not_judged=sum(not decision.judged for decision in decisions),
        by_row=_by_row(decisions, wrong),
    )


def _by_row(decisions: Sequence[Decision], wrong: Sequence[bool]) -> dict[str, RowResult]:
    """R by either reading, over the instances where it was computed, at the threshold of the reading that decides."""
    found = {}
    for row in ("at", "before"):
        ratios = [getattr(decision.evidence, f"ratio_{row}") for decision in decisions]
        known = [(ratio, w) for ratio, w in zip(ratios, wrong, strict=True) if ratio is not None]
        if known:
            values, labels = [ratio for ratio, _ in known], [w for _, w in known]
            above = sum(ratio > decisions[0].threshold for ratio in values)
            area = auc_interval(values, labels)
            bounds = None if area is None else _bounds(area)
            found[row] = RowResult(above / len(decisions), auc(values, labels), bounds)
    return found


def _cost(records: Sequence[Record]) -> CostSum:
    costs = [record.answer.cost for record in records]
    return CostSum(
        seconds=sum(cost.seconds for cost in costs),
        forward_passes=sum(cost.forward_passes for cost in costs),
        backward_passes=sum(cost.backward_passes for cost in costs),
        generated_tokens=sum(cost.generated_tokens for cost in costs),
        forward_tokens=sum(cost.forward_tokens for cost in costs),
        backward_tokens=sum(cost.backward_tokens for cost in costs),
    )
