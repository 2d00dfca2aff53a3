"""Records -> the numbers of the table: accuracy with interval, paired tests, trigger as a detector, cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from dpc.flow.trigger import thresholds
from dpc.methods import BASELINE
from dpc.stats import Interval, auc, auc_interval, compare, detector, holm, operating_curve, oracle, wilson
from dpc.tasks.base import Grader
from dpc.types import Example, Record


def summarize(
    records: Mapping[str, Sequence[Record]],
    examples: Sequence[Example] = (),
    also_graded: Mapping[str, Grader] | None = None,
) -> dict[str, Any]:
    """One entry a method. All methods hold the same instances in the same order; percentages are shares of one.

    also_graded: further graders by name, for which ``examples`` are the instances. Holm's correction is over all
    methods that are compared with prompt tuning.
    """
    baseline, graders = records.get(BASELINE), also_graded or {}
    summary = {name: summarize_method(own, baseline, examples, graders) for name, own in records.items()}
    compared = [each["versus_prompt_tuning"] for each in summary.values() if each["versus_prompt_tuning"]]
    for versus, p in zip(compared, holm([versus["p"] for versus in compared]), strict=True):
        versus["p_holm"] = p
    return summary


def summarize_method(
    records: Sequence[Record],
    baseline: Sequence[Record] | None,
    examples: Sequence[Example],
    also_graded: Mapping[str, Grader],
) -> dict[str, Any]:
    """Numbers of one method, compared with ``baseline`` instance by instance.

    Raises ``ValueError`` where these, or ``examples`` that are to be graded, are not the same in the same order.
    """
    return {
        "n": len(records),
        **_accuracy([record.score_final.correct for record in records]),
        "also_graded": {name: _regraded(records, examples, grader) for name, grader in also_graded.items()},
        "no_answer": sum(record.score_final.reason == "no_answer" for record in records),
        "oracle": _oracle(records),
        "versus_prompt_tuning": None if baseline is None or baseline is records else _compare(baseline, records),
        "trigger": _trigger(records),
        "cost": _cost(records),
    }


def threshold_curve(records: Mapping[str, Sequence[Record]]) -> dict[str, Any] | None:
    """DPC's trigger at every threshold on the rows that were evaluated; None where DPC was not.

    tau was not chosen here: beside the curve of calibration this one shows how much of its gain was chance. R is known
    of every instance, so precision, recall and false positives are. Accuracy needs second answers. Those that DPC did
    not give are taken from all_corruption, which corrupts by the same rule and always asks again; without it accuracy
    is None for thresholds at which an instance would trigger that has none. second_shared and second_differ say of
    how many instances both have a second answer, and how often these differ.
    """
    own = records.get("dpc")
    if not own:
        return None
    other = {record.example_id: record for record in records.get("all_corruption", ())}
    ratios = [record.answer.decision.ratio if record.answer.decision else None for record in own]
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
    return {
        "tau": tau,
        "n": len(own),
        "points": [asdict(point) for point in operating_curve(ratios, first, second, taus)],
        "auc": auc([r for r, _ in judged], [wrong for _, wrong in judged]),
        "oracle": oracle(first, [bool(each) for each in second]) if complete else None,
        "second_shared": shared,
        "second_differ": differ,
    }


def _accuracy(right: Sequence[bool]) -> dict[str, Any]:
    return {
        "correct": sum(right),
        "accuracy": sum(right) / len(right),
        "interval": _bounds(wilson(sum(right), len(right))),
    }


def _regraded(records: Sequence[Record], examples: Sequence[Example], grader: Grader) -> dict[str, Any]:
    if [record.example_id for record in records] != [example.id for example in examples]:
        raise ValueError("examples are not those that were evaluated")
    pairs = zip(examples, records, strict=True)
    return _accuracy([grader(example, record.answer.final.text).correct for example, record in pairs])


def _oracle(records: Sequence[Record]) -> float | None:
    """The share that either pass got right; None for a method of one pass."""
    if all(record.answer.decision is None for record in records):
        return None
    return oracle([r.score_first.correct for r in records], [r.score_final.correct for r in records])


def _compare(baseline: Sequence[Record], records: Sequence[Record]) -> dict[str, Any]:
    if [record.example_id for record in baseline] != [record.example_id for record in records]:
        raise ValueError("two methods were evaluated on different instances")
    before = [record.score_final.correct for record in baseline]
    after = [record.score_final.correct for record in records]
    found = compare(before, after)
    return {
        "difference": found.difference,
        "interval": _bounds(found.interval),
        "bootstrap": _bounds(found.bootstrap),
        "p": found.p,
        "fixed": found.fixed,
        "broken": found.broken,
    }


def _bounds(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


def _trigger(records: Sequence[Record]) -> dict[str, Any] | None:
    """The trigger as a detector of wrong first answers; its AUC is over the instances that it could judge."""
    decisions = [record.answer.decision for record in records]
    if any(decision is None for decision in decisions):
        return None
    wrong = [not record.score_first.correct for record in records]
    fired = [d is not None and d.triggered for d in decisions]
    found, hits = detector(fired, wrong), sum(a and b for a, b in zip(fired, wrong, strict=True))
    judged = [(d.ratio, w) for d, w in zip(decisions, wrong, strict=True) if d is not None and d.ratio is not None]
    ranked = [r for r, _ in judged], [w for _, w in judged]
    area = auc_interval(*ranked)
    return {
        "tau": next(d.threshold for d in decisions if d is not None),
        "rate": found.trigger_rate,
        "precision": found.precision,
        "precision_interval": _bounds(wilson(hits, sum(fired))),
        "recall": found.recall,
        "recall_interval": _bounds(wilson(hits, sum(wrong))),
        "auc": auc(*ranked),
        "auc_interval": area and _bounds(area),
        "wrong_first_answers": sum(wrong),
        "not_judged": sum(d is not None and "reason" in d.evidence for d in decisions),
    }


def _cost(records: Sequence[Record]) -> dict[str, float]:
    costs = [record.answer.cost for record in records]
    return {
        "seconds": sum(cost.seconds for cost in costs),
        "forward_passes": sum(cost.forward_passes for cost in costs),
        "backward_passes": sum(cost.backward_passes for cost in costs),
        "generated_tokens": sum(cost.generated_tokens for cost in costs),
    }
