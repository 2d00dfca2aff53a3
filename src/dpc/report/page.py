"""One self-contained page for a run: opens from disk, runs no script, fetches nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from dpc.files import write_atomically
from dpc.report import figures
from dpc.report.figures import Mark, Number, Tick
from dpc.report.formats import number, percent
from dpc.report.schema import CalibrationResult, Results, Trace, read_results
from dpc.report.table import COLUMNS, baseline_verdict, label, results_rows, verdict
from dpc.types import middle

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


def write_page(run: Path) -> Path:
    """Write ``report.html`` beside the ``results.json`` of the run directory ``run``, and return its path.

    Raises ``UserError`` where the results are missing or damaged, or the page can't be written.
    """
    page = run / "report.html"
    # JSON can hold half a surrogate pair, UTF-8 can't.
    write_atomically(page, render(read_results(run / "results.json")).encode("utf-8", errors="replace"))
    return page


def render(results: Results) -> str:
    """The page as text. Everything that comes from the results is escaped."""
    calibration, trace = results.calibration, results.trace
    return _template().render(
        results=results,
        verdict=_unbroken(verdict(results)),
        baseline_verdict=_unbroken(baseline_verdict(results) or ""),
        columns=COLUMNS,
        rows=results_rows(results),
        notes=notes(results),
        calibration=calibration and _calibration(calibration),
        trace=trace and _trace(trace),
    )


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string((files("dpc.report") / "page.html.j2").read_text(encoding="utf-8"))


def _unbroken(sentence: str) -> str:
    """Keep ``p = 0.12`` on one line."""
    return re.sub(r" ([=<]) ", "\u00a0\\1\u00a0", sentence)


def notes(results: Results) -> list[str]:
    """What the table leaves out and a reader should know."""
    silent = [f"{label(name)} {m.no_answer:,}" for name, m in results.methods.items() if m.no_answer]
    triggers = [(label(name), m.trigger.not_judged) for name, m in results.methods.items() if m.trigger]
    unjudged = [f"{name} {count:,}" for name, count in triggers if count]
    return [
        *([f"Counted as wrong because no answer could be read: {', '.join(silent)}."] if silent else []),
        *([f"Rationales too short for the trigger to judge: {', '.join(unjudged)}."] if unjudged else []),
    ]


def compared_lines(text: str, other: str | None) -> list[tuple[str, bool]]:
    """The lines of ``text``, each with whether it differs from the line of ``other`` at the same place."""
    own = text.splitlines()
    against = own if other is None else other.splitlines()
    return [(line, line != match) for line, match in zip_longest(own, against[: len(own)])]


def _calibration(calibration: CalibrationResult) -> dict[str, Any]:
    curve = calibration.curve
    chosen = next(point for point in curve if point.tau == calibration.tau)
    never = next((point for point in curve if not point.trigger_rate), None)
    accuracies, rates = [100 * point.accuracy for point in curve], [100 * point.trigger_rate for point in curve]
    firing = [point.accuracy for point in curve if point.trigger_rate]
    low, high = min(accuracies), max(accuracies)
    pad = max((high - low) * 0.1, 0.5)
    return {
        "tau": _tau_words(calibration.tau),
        "n": calibration.n,
        "candidates": len(curve),
        "accuracy": percent(chosen.accuracy),
        "rate": percent(chosen.trigger_rate),
        "best_firing": percent(max(firing)) if firing else None,
        "fires": chosen.trigger_rate > 0,
        "never": None if never is None else percent(never.accuracy),
        "accuracy_chart": _curve(calibration, accuracies, "accuracy", (max(low - pad, 0), min(high + pad, 100))),
        "rate_chart": _curve(calibration, rates, "trigger rate", (0, 100)),
    }


def _curve(calibration: CalibrationResult, values: Sequence[float], what: str, y_range: tuple[Number, Number]) -> str:
    """``values`` (percent), one a candidate, against the threshold."""
    taus = [point.tau for point in calibration.curve]
    words = _tau_words(calibration.tau)
    return figures.line_chart(
        [(_tau_at(tau), value) for tau, value in zip(taus, values, strict=True)],
        alt=(
            f"{what.capitalize()} against the threshold, from {min(values):.1f}% to {max(values):.1f}%; "
            f"{values[taus.index(calibration.tau)]:.1f}% at the chosen threshold, {words}."
        ),
        labels=("threshold τ", f"{what}, %"),
        x_ticks=TAU_TICKS,
        y_range=y_range,
        mark=Mark(_tau_at(calibration.tau), f"τ = {words}"),
    )


def _tau_at(tau: float) -> float:
    return ALWAYS_AT if tau < 0 else min(tau, 1.0)


def _tau_words(tau: float) -> str:
    return f"{number(tau)} (always)" if tau < 0 else f"{number(tau)} (never)" if tau >= 1 else number(tau)


def _trace(trace: Trace) -> dict[str, Any]:
    start = middle(len(trace.tokens))
    late = len(trace.tokens) - start
    above = None if trace.ratio is None else round(trace.ratio * late)
    return {
        "first": compared_lines(trace.first, trace.second),
        "second": None if trace.second is None else compared_lines(trace.second, trace.first),
        "late": late,
        "above": above,
        "ratio": None if trace.ratio is None else f"{trace.ratio:.2f}",
        "tau": _tau_words(trace.tau),
        "clipped": trace.beta is not None and figures.leaves_axis(trace.influence, trace.beta),
        "beta": None if trace.beta is None else number(trace.beta),
        "influence_chart": figures.influence_chart(
            trace.tokens,
            trace.influence,
            trace.beta,
            start,
            alt=_influence_alt(trace, late, above),
            label="influence of the soft prompt on each token",
        ),
        "share_chart": None if trace.ratio is None else _share_chart(trace.ratio, trace.tau),
        **_profile(trace),
        "layer_charts": [
            (_layer_chart(trace.prompt_to_question, "question"), "pq", "question"),
            (_layer_chart(trace.prompt_to_rationale, "rationale"), "pr", "rationale"),
        ],
    }


def _influence_alt(trace: Trace, late: int, above: int | None) -> str:
    shape = f"Influence of the soft prompt on each of {len(trace.tokens)} rationale tokens"
    if above is None or trace.beta is None:
        return shape + "."
    return f"{shape}; {above} of the {late} late tokens are above beta, {number(trace.beta)}."


def _share_chart(ratio: float, tau: float) -> str:
    return figures.share_chart(
        ratio,
        tau,
        alt=f"Share R of late tokens above beta: {ratio:.2f}, threshold {_tau_words(tau)}.",
        label="share of late tokens above β",
    )


def _profile(trace: Trace) -> dict[str, Any]:
    """The accumulation profile; the key token is masked only where the trigger fired."""
    if not trace.profile:
        return {"profile_chart": None, "profile_peak": None}
    key, mean = trace.key_token, sum(trace.profile) / len(trace.profile)
    role = "masked" if trace.triggered else "key"
    alt = f"Accumulated saliency of each of {len(trace.profile)} soft tokens"
    chart = figures.bar_chart(
        trace.profile,
        alt=alt + ("." if key is None else f"; the {role} token is number {key}."),
        labels=("soft token, counted from 0", "accumulated saliency"),
        mark=None if key is None else Mark(key, f"{role}: token {key}"),
    )
    return {"profile_chart": chart, "profile_peak": f"{max(trace.profile) / mean:.1f}" if mean > 0 else None}


def _layer_chart(values: Sequence[float], to: str) -> str:
    peak = max(range(len(values)), key=lambda layer: values[layer], default=0)
    return figures.line_chart(
        list(enumerate(values)),
        alt=f"Mean saliency from prompt to {to} in each of {len(values)} layers, largest in layer {peak}.",
        labels=("layer, counted from 0", f"saliency, prompt to {to}"),
        x_ticks=figures.whole_ticks(len(values)),
    )
