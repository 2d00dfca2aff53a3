"""The parts of a run's page that need no script: accuracies, threshold, trigger and cost, as charts and texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dpc.methods import BASELINE
from dpc.records.results import CalibrationResult, Results, TriggerCurve, TriggerResult
from dpc.report import inline_svg
from dpc.report.formats import UNDEFINED, method_label, percent, points, seconds, statistic_label, threshold_words
from dpc.report.inline_svg import Estimate, Mark, Number, Point, Tick
from dpc.report.page_data import Instance

# Place of the threshold "always" on an axis whose other values are shares.
ALWAYS_AT = -0.12
TAU_TICKS: tuple[Tick, ...] = (
    (ALWAYS_AT, "always"),
    (0.0, "0"),
    (0.25, "0.25"),
    (0.5, "0.5"),
    (0.75, "0.75"),
    (1.0, "1"),
)
R_BINS = 20
COST_COLUMNS = (
    *("method", "forward tokens", "× prompt tuning", "backward tokens"),
    *("forward passes", "backward passes", "generated tokens", "seconds"),
)


def accuracy_charts(results: Results) -> list[tuple[str, str]]:
    """Accuracies and differences to prompt tuning with their intervals: drawings and captions."""
    methods = results.methods
    accuracies = [
        Estimate(method_label(name), 100 * m.accuracy, _percent_bounds(m.interval), f"{percent(m.accuracy)}%")
        for name, m in methods.items()
    ]
    told = "; ".join(f"{each.name} {each.words}" for each in accuracies)
    charts = [
        (
            inline_svg.interval_chart(accuracies, alt=f"Accuracy: {told}.", label="accuracy, %"),
            "Accuracy with Wilson’s 95% interval. The axis does not begin at zero.",
        )
    ]
    compared = {name: m.versus_prompt_tuning for name, m in methods.items() if m.versus_prompt_tuning is not None}
    if compared:
        differences = [
            Estimate(method_label(name), 100 * v.difference, _percent_bounds(v.interval), points(v.difference))
            for name, v in compared.items()
        ]
        told = "; ".join(f"{each.name} {each.words}" for each in differences)
        alt = f"Difference to prompt tuning in points: {told}."
        chart = inline_svg.interval_chart(differences, alt=alt, label="difference to prompt tuning, points", zero=True)
        charts.append((chart, "Difference to prompt tuning on the same instances, with Tango’s 95% interval."))
    return charts


def _percent_bounds(interval: tuple[float, float]) -> tuple[float, float]:
    return 100 * interval[0], 100 * interval[1]


def notes(results: Results) -> list[str]:
    """What belongs to the table and has no column."""
    silent = [f"{method_label(name)} {m.no_answer:,}" for name, m in results.methods.items() if m.no_answer]
    triggers = [(method_label(name), m.trigger.not_judged) for name, m in results.methods.items() if m.trigger]
    unjudged = [f"{name} {count:,}" for name, count in triggers if count]
    return [
        *([f"Counted as wrong because no answer could be read: {', '.join(silent)}."] if silent else []),
        *([f"Rationales too short for the trigger to judge: {', '.join(unjudged)}."] if unjudged else []),
    ]


def threshold(calibration: CalibrationResult | None, test: TriggerCurve | None) -> dict[str, Any] | None:
    """Accuracy and trigger rate against tau, on the calibration split and on the evaluated rows."""
    tau = calibration.tau if calibration else test.tau if test else None
    if tau is None:
        return None
    dev = calibration.curve if calibration else []
    own = test.points if test else []
    accuracy: list[list[Point]] = [
        [(_tau_at(p.tau), 100 * p.accuracy) for p in dev],
        [(_tau_at(p.tau), None if p.accuracy is None else 100 * p.accuracy) for p in own],
    ]
    rate: list[list[Point]] = [[(_tau_at(p.tau), 100 * p.trigger_rate) for p in curve] for curve in (dev, own)]
    known = [value for series in accuracy for _, value in series if value is not None]
    charts = [_curve("trigger rate", rate, tau, (0, 100))]
    if known:
        pad = max((max(known) - min(known)) * 0.1, 0.5)
        charts.insert(0, _curve("accuracy", accuracy, tau, (max(min(known) - pad, 0), min(max(known) + pad, 100))))
    return {
        "tau": threshold_words(tau),
        "charts": charts,
        "both": bool(dev and own),
        "gaps": any(p.accuracy is None for p in own),
        "differ": test.second_differ if test else 0,
        "shared": test.second_shared if test else 0,
        **({} if calibration is None else _chosen(calibration)),
        "calibrated": calibration is not None,
    }


def _curve(what: str, series: Sequence[Sequence[Point]], tau: float, y_range: tuple[Number, Number]) -> tuple[str, str]:
    told = []
    for name, points_of in zip(("calibration split", "evaluated rows"), series, strict=True):
        at_tau = next((value for at, value in points_of if at == _tau_at(tau)), None)
        if at_tau is not None:
            told.append(f"{at_tau:.1f}% on the {name}")
    chart = inline_svg.line_chart(
        series,
        alt=f"{what.capitalize()} against the threshold; at {threshold_words(tau)}: {', '.join(told) or 'not known'}.",
        labels=("threshold τ", f"{what}, %"),
        x_ticks=TAU_TICKS,
        y_range=y_range,
        mark=Mark(_tau_at(tau), f"τ = {threshold_words(tau)}"),
    )
    return chart, what


def _chosen(calibration: CalibrationResult) -> dict[str, Any]:
    curve = calibration.curve
    chosen = next(point for point in curve if point.tau == calibration.tau)
    never = next((point for point in curve if not point.trigger_rate), None)
    triggering = [point.accuracy for point in curve if point.trigger_rate]
    return {
        "n": f"{calibration.n:,}",
        "candidates": f"{len(curve):,}",
        "accuracy": percent(chosen.accuracy),
        "best_triggering": percent(max(triggering)) if triggering else None,
        "triggers": chosen.trigger_rate > 0,
        "never": None if never is None else percent(never.accuracy),
    }


def _tau_at(tau: float) -> float:
    return ALWAYS_AT if tau < 0 else min(tau, 1.0)


def detection(
    instances: Sequence[Instance], result: TriggerResult | None, test: TriggerCurve | None
) -> dict[str, Any] | None:
    """The trigger as a detector of wrong first answers: figures, R of right and wrong ones, precision and recall.

    instances, result: of the method whose instances the page shows. Charts are drawn for the paper's trigger alone.
    """
    if result is None:
        return None
    decisions = [(i.decision, i.first.score.correct) for i in instances if i.decision is not None]
    trigger = decisions[0][0].trigger if decisions else "flow"
    at = threshold_words(result.tau, trigger)
    charts = []
    if trigger == "flow":
        judged = [(d.statistic, right) for d, right in decisions if d.judged and d.statistic is not None]
        charts = [*_ratio_histogram(judged, result.tau), *_precision_and_recall(test, result.tau)]
    shares = {name: getattr(result, name) for name in ("rate", "precision", "recall")}
    percents = {name: None if share is None else percent(share) for name, share in shares.items()}
    auc = None if result.auc is None else f"{result.auc:.2f}"
    symbol = "τ" if trigger == "flow" else "the threshold"
    named = {"at": at, "symbol": symbol, "statistic": statistic_label(trigger), "rows": _rows_in_words(result)}
    return {**percents, **named, "auc": auc, "charts": charts}


def _rows_in_words(result: TriggerResult) -> list[str]:
    """R by either reading of s_i, a sentence each."""
    names = {"at": "at token i's position", "before": "before it, which wrote token i"}
    return [
        f"With s_i read in the row {names[row]}: AUC {found.auc:.2f}, R above the threshold for {percent(found.rate)}%."
        for row, found in result.by_row.items()
        if found.auc is not None
    ]


def _ratio_histogram(judged: Sequence[tuple[float, bool]], tau: float) -> list[tuple[str, str]]:
    """R of right and of wrong first answers: drawing and caption; none without a judged instance."""
    if not judged:
        return []
    good, bad = (_histogram([ratio for ratio, right in judged if right is kind]) for kind in (True, False))
    shown = f"R of {sum(good):,} right and {sum(bad):,} wrong first answers"
    chart = inline_svg.mirrored_histogram(
        good,
        bad,
        ("right first answers", "wrong first answers"),
        alt=f"{shown}; the threshold is {threshold_words(tau)}.",
        label="% of right (▲) and of wrong (▼) first answers",
        mark=Mark(min(max(tau, 0.0), 1.0), f"τ = {threshold_words(tau)}"),
    )
    return [
        (chart, "R of every judged instance. If R did not depend on right and wrong, both halves would look alike.")
    ]


def _precision_and_recall(test: TriggerCurve | None, tau: float) -> list[tuple[str, str]]:
    """Precision and recall at every threshold; none without a curve."""
    if test is None or all(point.precision is None for point in test.points):
        return []
    series: list[list[Point]] = [
        [(_tau_at(p.tau), None if p.precision is None else 100 * p.precision) for p in test.points],
        [(_tau_at(p.tau), None if p.recall is None else 100 * p.recall) for p in test.points],
    ]
    chart = inline_svg.line_chart(
        series,
        alt=f"Precision and recall of the trigger against the threshold; chosen: {threshold_words(tau)}.",
        labels=("threshold τ", "precision and recall, %"),
        x_ticks=TAU_TICKS,
        y_range=(0, 100),
        mark=Mark(_tau_at(tau), f"τ = {threshold_words(tau)}"),
    )
    return [(chart, "keys")]


def _histogram(ratios: Sequence[float]) -> list[int]:
    counts = [0] * R_BINS
    for ratio in ratios:
        counts[min(int(ratio * R_BINS), R_BINS - 1)] += 1
    return counts


def costs(results: Results) -> list[tuple[str, ...]]:
    """The cost of each method, sums over all instances, in the order of ``COST_COLUMNS``."""
    baseline = results.methods.get(BASELINE)
    rows = []
    for name, method in results.methods.items():
        cost = method.cost
        own, other = cost.forward_tokens, baseline.cost.forward_tokens if baseline else None
        counts = (cost.forward_passes, cost.backward_passes, cost.generated_tokens)
        rows.append(
            (
                method_label(name),
                UNDEFINED if own is None else f"{own:,.0f}",
                f"{own / other:.2f}" if own is not None and other else UNDEFINED,
                UNDEFINED if cost.backward_tokens is None else f"{cost.backward_tokens:,.0f}",
                *(f"{count:,}" for count in counts),
                seconds(cost.seconds),
            )
        )
    return rows
