"""The table of a run, for a terminal and for a text, and its verdict in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from dpc.methods import BASELINE
from dpc.records.results import MethodResult, Results, TriggerResult, Versus
from dpc.report.formats import SIGNIFICANT, UNDEFINED, method_label, number, p_value, percent, points, seconds
from dpc.types import ZERO_SHOT

COLUMNS = (
    "method",
    "asked",
    "accuracy %",
    "vs prompt tuning, points",
    "p (Holm)",
    "fixed / broken",
    "also graded %",
    "oracle %",
    "trigger rate %",
    "precision %",
    "recall %",
    "AUC",
    "forward tokens",
    "seconds",
)
# Columns of each block of the table on a terminal.
BLOCKS = (
    ("method", "accuracy %", "vs prompt tuning, points", "p (Holm)"),
    ("method", "asked", "also graded %", "fixed / broken", "oracle %", "forward tokens", "seconds"),
    ("method", "trigger rate %", "precision %", "recall %", "AUC"),
)


def results_rows(results: Results) -> list[tuple[str, ...]]:
    """One row of plain strings per method, in the order of ``COLUMNS``; what is not defined is a dash.

    Asked: raw is the task's text, chat the model's chat template, 3-shot after three worked examples; a dash where all
    methods ask raw and 0-shot.
    Accuracy and the difference to prompt tuning come with their 95% intervals (Wilson's and Tango's); p is that of
    McNemar's exact test, adjusted by Holm over all methods that are compared with prompt tuning. Also graded: what the
    task's further graders give for the same answers. Oracle: right in either pass. Precision, recall and AUC (with
    Newcombe's interval) are the trigger's, as a detector of wrong first answers. Forward tokens: tokens through the
    whole network; one through a part of its blocks counts as that part.
    """
    plain = all(method.asked == ZERO_SHOT for method in results.methods.values())
    return [_row(name, method, UNDEFINED if plain else method.asked) for name, method in results.methods.items()]


def _row(name: str, method: MethodResult, asked: str) -> tuple[str, ...]:
    versus = method.versus_prompt_tuning
    low, high = (percent(bound) for bound in method.interval)
    also = ", ".join(f"{grader} {percent(found.accuracy)}" for grader, found in method.also_graded.items())
    return (
        method_label(name),
        asked,
        f"{percent(method.accuracy)} ({low} to {high})",
        UNDEFINED if versus is None else f"{points(versus.difference)} ({_range(versus)})",
        UNDEFINED if versus is None else p_value(versus.p_holm).removeprefix("p ").removeprefix("= "),
        UNDEFINED if versus is None else f"{versus.fixed} / {versus.broken}",
        also or UNDEFINED,
        percent(method.oracle),
        *_trigger_cells(method.trigger),
        UNDEFINED if method.cost.forward_tokens is None else f"{method.cost.forward_tokens:,.0f}",
        seconds(method.cost.seconds),
    )


def _trigger_cells(trigger: TriggerResult | None) -> tuple[str, ...]:
    if trigger is None:
        return (UNDEFINED,) * 4
    shares = map(percent, (trigger.rate, trigger.precision, trigger.recall))
    if trigger.auc is None:
        return (*shares, UNDEFINED)
    bounds = trigger.auc_interval
    return (*shares, f"{trigger.auc:.2f}" + (f" ({bounds[0]:.2f} to {bounds[1]:.2f})" if bounds else ""))


def rich_table(results: Results) -> Group:
    """The table for a terminal of 80 characters, a row per method, in blocks; columns without a value are left out."""
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in results_rows(results)]
    blocks: list[Table | Text] = []
    for names in BLOCKS:
        shown = [row for row in rows if any(row[name] != UNDEFINED for name in names[1:])]
        columns = [name for name in names if any(row[name] != UNDEFINED for row in shown)]
        if shown:
            blocks += [_block(columns, shown), Text()]
    return Group(*blocks)


def _block(columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for index, heading in enumerate(columns):
        # A slash stays on the line of the word before it.
        words = heading.replace(" /", "\u00a0/")
        width = max(*(len(part) for row in rows for part in row[heading].split(", ")), *map(len, words.split(" ")))
        # As Text, so that brackets in a name are no markup.
        table.add_column(Text("\n".join(wrap(words, width))), justify="right" if index else "left")
    for row in rows:
        table.add_row(*(Text(row[heading].replace(", ", "\n")) for heading in columns))
    return table


def markdown_table(results: Results) -> str:
    """The table for a text, without a line end; columns without a value are left out."""
    rows = results_rows(results)
    kept = [index for index in range(len(COLUMNS)) if not index or any(row[index] != UNDEFINED for row in rows)]
    lines = [COLUMNS, ("---", *["---:"] * (len(COLUMNS) - 1)), *rows]
    return "\n".join("| " + " | ".join(row[index].replace("|", "\\|") for index in kept) + " |" for row in lines)


def verdict(results: Results) -> str:
    """What the run says about DPC, or else its first method with a trigger: a sentence that p < 0.05 allows.

    p is adjusted by Holm over all methods of the run that are compared with prompt tuning.
    """
    methods = results.methods
    baseline = methods.get(BASELINE)
    deciding = [name for name, method in methods.items() if method.trigger is not None]
    name = "dpc" if "dpc" in methods else next(iter(deciding), "dpc")
    own, said = methods.get(name), method_label(name)
    if own is None:
        return "DPC was not among the methods of this run."
    versus = own.versus_prompt_tuning
    if versus is None:
        low, high = (percent(bound) for bound in own.interval)
        return (
            f"{said}: {percent(own.accuracy)}% right (95% CI {low} to {high}, n = {own.n:,}); "
            "prompt tuning was not among the methods of this run, so there is no difference to report."
        )
    triggered = own.trigger is None or own.trigger.rate is None or own.trigger.rate > 0
    cost = _relative_cost(own, baseline)
    if not triggered and not versus.fixed and not versus.broken:
        tau = number(own.trigger.tau) if own.trigger else UNDEFINED
        return f"{said}: no instance triggered (tau = {tau}, n = {own.n:,}), so it answered as prompt tuning did{cost}."
    silent = "" if triggered else ", although no instance triggered"
    return f"{said}: {_compared('prompt tuning', versus, own.n, methods)}{silent}{cost}."


def threshold_verdict(results: Results) -> str | None:
    """What tau gained over never triggering on the calibration rows, and on these; None unless both are known.

    The best threshold of these rows was chosen on them, so its gain is an upper bound.
    """
    chosen, here = results.calibration, results.test_curve
    if chosen is None or here is None or here.tau != chosen.tau:
        return None
    there = {point.tau: point.accuracy for point in chosen.curve}
    never = next((point.accuracy for point in chosen.curve if not point.trigger_rate), None)
    known = {point.tau: point.accuracy for point in here.points if point.accuracy is not None}
    silent = next((point.accuracy for point in here.points if not point.trigger_rate), None)
    if never is None or silent is None or chosen.tau not in known:
        return None
    partly = "" if len(known) == len(here.points) else ", as far as second answers are known,"
    gained = points(there[chosen.tau] - never), points(known[chosen.tau] - silent)
    return (
        f"Threshold: tau = {number(chosen.tau)} gained {gained[0]} points on the {chosen.n:,} rows it was chosen on, "
        f"{gained[1]} on the {here.n:,} here; the best for these rows{partly} would have gained "
        f"{points(max(known.values()) - silent)}."
    )


def baseline_verdict(results: Results) -> str | None:
    """What prompt tuning gained over the model without a prompt, in one sentence; None unless both were run."""
    methods = results.methods
    pretrained = methods.get("pretrained")
    if pretrained is None or pretrained.versus_prompt_tuning is None:
        return None
    versus = pretrained.versus_prompt_tuning.reversed()
    return f"Prompt tuning: {_compared('the pretrained model', versus, pretrained.n, methods)}."


def _compared(other: str, versus: Versus, n: int, methods: Mapping[str, MethodResult]) -> str:
    if versus.p_holm >= SIGNIFICANT:
        words = "no statistically significant difference"
    else:
        words = f"significantly {'better' if versus.difference > 0 else 'worse'}"
    adjusted = "Holm-adjusted " if sum(m.versus_prompt_tuning is not None for m in methods.values()) > 1 else ""
    figures = f"95% CI {_range(versus)}, {adjusted}{p_value(versus.p_holm)}, n = {n:,}"
    counts = f"fixed {versus.fixed}, broke {versus.broken}"
    return f"{points(versus.difference)} points against {other} ({figures}): {words}; {counts}"


def _relative_cost(own: MethodResult, baseline: MethodResult | None) -> str:
    """The last part of the verdict: what the method cost relative to prompt tuning."""
    if baseline is None or not baseline.cost.forward_tokens or own.cost.forward_tokens is None:
        return ""
    return f"; {own.cost.forward_tokens / baseline.cost.forward_tokens:.2f} times the forward tokens"


def _range(versus: Versus) -> str:
    return " to ".join(map(points, versus.interval))
