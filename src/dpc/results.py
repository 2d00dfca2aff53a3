"""Records -> the numbers of the table: accuracy with interval, paired tests, trigger as a detector, cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dpc.methods import BASELINE
from dpc.stats import detector, fixed_broken, mcnemar_exact, paired_difference, wilson
from dpc.types import Record


def summarize(records: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    """One entry a method. All methods hold the same instances in the same order; percentages are shares of one."""
    return {name: summarize_method(own, records.get(BASELINE)) for name, own in records.items()}


def summarize_method(records: Sequence[Record], baseline: Sequence[Record] | None) -> dict[str, Any]:
    """Numbers of one method, compared with ``baseline`` instance by instance.

    Raises ``ValueError`` where the two do not hold the same instances in the same order.
    """
    right = [record.score_final.correct for record in records]
    interval = wilson(sum(right), len(right))
    return {
        "n": len(right),
        "correct": sum(right),
        "accuracy": sum(right) / len(right),
        "interval": [interval.low, interval.high],
        "no_answer": sum(record.score_final.reason == "no_answer" for record in records),
        "versus_prompt_tuning": None if baseline is None or baseline is records else _compare(baseline, records),
        "trigger": _trigger(records),
        "cost": _cost(records),
    }


def _compare(baseline: Sequence[Record], records: Sequence[Record]) -> dict[str, Any]:
    if [record.example_id for record in baseline] != [record.example_id for record in records]:
        raise ValueError("two methods were evaluated on different instances")
    before = [record.score_final.correct for record in baseline]
    after = [record.score_final.correct for record in records]
    fixed, broken = fixed_broken(before, after)
    interval = paired_difference(before, after)
    return {
        "difference": (fixed - broken) / len(before),
        "interval": [interval.low, interval.high],
        "p": mcnemar_exact(fixed, broken),
        "fixed": fixed,
        "broken": broken,
    }


def _trigger(records: Sequence[Record]) -> dict[str, Any] | None:
    """The trigger as a detector of wrong first answers; its AUC is over the instances that it could judge."""
    decisions = [record.answer.decision for record in records]
    if any(decision is None for decision in decisions):
        return None
    wrong = [not record.score_first.correct for record in records]
    found = detector([d is not None and d.triggered for d in decisions], wrong)
    judged = [(d.ratio, w) for d, w in zip(decisions, wrong, strict=True) if d is not None and d.ratio is not None]
    ranked = detector([True] * len(judged), [w for _, w in judged], [r for r, _ in judged]) if judged else None
    return {
        "tau": next(d.threshold for d in decisions if d is not None),
        "rate": found.trigger_rate,
        "precision": found.precision,
        "recall": found.recall,
        "auc": ranked.auc if ranked else None,
        "wrong_first_answers": sum(wrong),
        "not_judged": len(records) - len(judged),
    }


def _cost(records: Sequence[Record]) -> dict[str, float]:
    costs = [record.answer.cost for record in records]
    return {
        "seconds": sum(cost.seconds for cost in costs),
        "forward_passes": sum(cost.forward_passes for cost in costs),
        "backward_passes": sum(cost.backward_passes for cost in costs),
        "generated_tokens": sum(cost.generated_tokens for cost in costs),
    }
