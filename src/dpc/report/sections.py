"""The parts of a run's page that need no script: accuracies, threshold, trigger and cost, as charts and words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dpc.methods import BASELINE
from dpc.report import inline_svg
from dpc.report.formats import UNDEFINED, number, percent, points, seconds
from dpc.report.inline_svg import Estimate, Mark, Number, Point, Tick
from dpc.report.page_data import Instance
from dpc.report.schema import CalibrationResult, Results, Trigger, TriggerCurve
from dpc.report.table import label

# Where the threshold that always fires stands on an axis whose other values are shares.
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
COST_COLUMNS = ("method", "forward passes", "backward passes", "tokens written", "seconds", "× prompt tuning")


def tau_words(tau: float) -> str:
    """A threshold, with what it means where it means something at once."""
    return f"{number(tau)} (always)" if tau < 0 else f"{number(tau)} (never)" if tau >= 1 else number(tau)


def accuracy_charts(results: Results) -> list[tuple[str, str]]:
    """Accuracies with their intervals, and differences to prompt tuning with theirs: drawings and captions."""
    methods = results.methods
    accuracies = [
        Estimate(label(name), 100 * m.accuracy, (100 * m.interval[0], 100 * m.interval[1]), f"{percent(m.accuracy)}%")
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
            Estimate(label(name), 100 * v.difference, (100 * v.interval[0], 100 * v.interval[1]), points(v.difference))
            for name, v in compared.items()
        ]
        told = "; ".join(f"{each.name} {each.words}" for each in differences)
        alt = f"Difference to prompt tuning in points: {told}."
        chart = inline_svg.interval_chart(differences, alt=alt, label="difference to prompt tuning, points", zero=True)
        charts.append((chart, "Difference to prompt tuning on the same instances, with Tango’s 95% interval."))
    return charts


def notes(results: Results) -> list[str]:
    """What the table leaves out and a reader should know."""
    silent = [f"{label(name)} {m.no_answer:,}" for name, m in results.methods.items() if m.no_answer]
    triggers = [(label(name), m.trigger.not_judged) for name, m in results.methods.items() if m.trigger]
    unjudged = [f"{name} {count:,}" for name, count in triggers if count]
    return [
        *([f"Counted as wrong because no answer could be read: {', '.join(silent)}."] if silent else []),
        *([f"Rationales too short for the trigger to judge: {', '.join(unjudged)}."] if unjudged else []),
    ]


def threshold(calibration: CalibrationResult | None, test: TriggerCurve | None) -> dict[str, Any] | None:
    """Accuracy and trigger rate against tau, on the calibration split and on the rows that were evaluated."""
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
        "tau": tau_words(tau),
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
        alt=f"{what.capitalize()} against the threshold; at tau = {tau_words(tau)}: {', '.join(told) or 'not known'}.",
        labels=("threshold τ", f"{what}, %"),
        x_ticks=TAU_TICKS,
        y_range=y_range,
        mark=Mark(_tau_at(tau), f"τ = {tau_words(tau)}"),
    )
    return chart, what


def _chosen(calibration: CalibrationResult) -> dict[str, Any]:
    curve = calibration.curve
    chosen = next(point for point in curve if point.tau == calibration.tau)
    never = next((point for point in curve if not point.trigger_rate), None)
    firing = [point.accuracy for point in curve if point.trigger_rate]
    return {
        "n": f"{calibration.n:,}",
        "candidates": f"{len(curve):,}",
        "accuracy": percent(chosen.accuracy),
        "best_firing": percent(max(firing)) if firing else None,
        "fires": chosen.trigger_rate > 0,
        "never": None if never is None else percent(never.accuracy),
    }


def _tau_at(tau: float) -> float:
    return ALWAYS_AT if tau < 0 else min(tau, 1.0)


def detection(
    instances: Sequence[Instance], trigger: Trigger | None, test: TriggerCurve | None
) -> dict[str, Any] | None:
    """The trigger as a detector of wrong first answers: in words, R of right and wrong ones, precision and recall."""
    if trigger is None:
        return None
    judged = [
        (i.decision.ratio, i.first.score.correct) for i in instances if i.decision and i.decision.ratio is not None
    ]
    charts = []
    if judged:
        good, bad = (_histogram([ratio for ratio, right in judged if right is kind]) for kind in (True, False))
        names = ("right first answers", "wrong first answers")
        shown = f"R of {sum(good):,} right and {sum(bad):,} wrong first answers"
        alt = f"{shown}; the threshold is {tau_words(trigger.tau)}."
        mark = Mark(min(max(trigger.tau, 0.0), 1.0), f"τ = {tau_words(trigger.tau)}")
        chart = inline_svg.mirrored_histogram(
            good, bad, names, alt=alt, label="% of right (▲) and of wrong (▼) first answers", mark=mark
        )
        charts.append(
            (
                chart,
                "R of every judged instance. Where R told nothing of right and wrong, both halves would look alike.",
            )
        )
    if test and any(point.precision is not None for point in test.points):
        series: list[list[Point]] = [
            [(_tau_at(p.tau), None if p.precision is None else 100 * p.precision) for p in test.points],
            [(_tau_at(p.tau), None if p.recall is None else 100 * p.recall) for p in test.points],
        ]
        chart = inline_svg.line_chart(
            series,
            alt=f"Precision and recall of the trigger against the threshold; chosen: {tau_words(trigger.tau)}.",
            labels=("threshold τ", "precision and recall, %"),
            x_ticks=TAU_TICKS,
            y_range=(0, 100),
            mark=Mark(_tau_at(trigger.tau), f"τ = {tau_words(trigger.tau)}"),
        )
        charts.append((chart, "keys"))
    shares = {name: getattr(trigger, name) for name in ("rate", "precision", "recall")}
    figures_of = {name: None if share is None else percent(share) for name, share in shares.items()}
    auc = None if trigger.auc is None else f"{trigger.auc:.2f}"
    return {**figures_of, "auc": auc, "tau": tau_words(trigger.tau), "charts": charts}


def _histogram(ratios: Sequence[float]) -> list[int]:
    counts = [0] * R_BINS
    for ratio in ratios:
        counts[min(int(ratio * R_BINS), R_BINS - 1)] += 1
    return counts


def costs(results: Results) -> list[tuple[str, ...]]:
    """What each method cost, sums over all instances, in the order of ``COST_COLUMNS``."""
    baseline = results.methods.get(BASELINE)
    rows = []
    for name, method in results.methods.items():
        cost = method.cost
        times = cost.seconds / baseline.cost.seconds if baseline and baseline.cost.seconds else None
        counts = (cost.forward_passes, cost.backward_passes, cost.generated_tokens)
        rows.append(
            (
                label(name),
                *(UNDEFINED if count is None else f"{count:,}" for count in counts),
                seconds(cost.seconds),
                UNDEFINED if times is None else f"{times:.2f}",
            )
        )
    return rows
