"""The table of a run and its verdict in a sentence: every number of a report is formatted here, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from dpc.methods import BASELINE
from dpc.report.formats import SIGNIFICANT, UNDEFINED, number, p_value, percent, points, seconds
from dpc.report.schema import Comparison, MethodResult, Results, Trigger, parse

COLUMNS = (
    "method",
    "accuracy %",
    "also graded %",
    "vs prompt tuning, points",
    "p (Holm)",
    "fixed / broken",
    "oracle %",
    "trigger rate %",
    "precision %",
    "recall %",
    "AUC",
    "forward passes",
    "seconds",
)
# Columns that stand beside each other on a terminal.
BLOCKS = (
    ("method", "accuracy %", "vs prompt tuning, points", "p (Holm)"),
    ("method", "also graded %", "fixed / broken", "oracle %", "forward passes", "seconds"),
    ("method", "trigger rate %", "precision %", "recall %", "AUC"),
)


def results_rows(results: Results | Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row of plain strings a method, in the order of ``COLUMNS``; what is not defined is a dash.

    Accuracy and the difference to prompt tuning come with their 95% intervals (Wilson's and Tango's); p is that of
    McNemar's exact test, adjusted by Holm over all methods that are compared with prompt tuning. Also graded: what the
    task's further graders make of the same answers. Oracle: right in either pass. Precision, recall and AUC (with
    Newcombe's interval) are the trigger's, as a detector of wrong first answers.
    """
    return [_row(name, method) for name, method in parse(results).methods.items()]


def _row(name: str, method: MethodResult) -> tuple[str, ...]:
    versus = method.versus_prompt_tuning
    low, high = (percent(bound) for bound in method.interval)
    also = ", ".join(f"{grader} {percent(found.accuracy)}" for grader, found in method.also_graded.items())
    return (
        label(name),
        f"{percent(method.accuracy)} ({low} to {high})",
        also or UNDEFINED,
        UNDEFINED if versus is None else f"{points(versus.difference)} ({_range(versus)})",
        UNDEFINED if versus is None else p_value(versus.p_holm).removeprefix("p ").removeprefix("= "),
        UNDEFINED if versus is None else f"{versus.fixed} / {versus.broken}",
        percent(method.oracle),
        *_trigger_cells(method.trigger),
        f"{method.cost.forward_passes:,}",
        seconds(method.cost.seconds),
    )


def _trigger_cells(trigger: Trigger | None) -> tuple[str, ...]:
    if trigger is None:
        return (UNDEFINED,) * 4
    shares = map(percent, (trigger.rate, trigger.precision, trigger.recall))
    if trigger.auc is None:
        return (*shares, UNDEFINED)
    bounds = trigger.auc_interval
    return (*shares, f"{trigger.auc:.2f}" + (f" ({bounds[0]:.2f} to {bounds[1]:.2f})" if bounds else ""))


def rich_table(results: Results | Mapping[str, Any]) -> Group:
    """The table for a terminal of 80 characters, a row a method, in blocks; what no method has is left out."""
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


def markdown_table(results: Results | Mapping[str, Any]) -> str:
    """The table for a text, without a line end; a column in which nothing is defined is left out."""
    rows = results_rows(results)
    kept = [index for index in range(len(COLUMNS)) if not index or any(row[index] != UNDEFINED for row in rows)]
    lines = [COLUMNS, ("---", *["---:"] * (len(COLUMNS) - 1)), *rows]
    return "\n".join("| " + " | ".join(row[index].replace("|", "\\|") for index in kept) + " |" for row in lines)


def verdict(results: Results | Mapping[str, Any]) -> str:
    """What the run says about Dynamic Prompt Corruption, in one sentence that claims no more than p < 0.05 allows.

    p is adjusted by Holm over all methods of the run that are compared with prompt tuning: who runs a dozen of them
    looks at a dozen differences.
    """
    methods = parse(results).methods
    own, baseline = methods.get("dpc"), methods.get(BASELINE)
    if own is None:
        return "DPC was not among the methods of this run."
    versus = own.versus_prompt_tuning
    if versus is None:
        low, high = (percent(bound) for bound in own.interval)
        return (
            f"DPC: {percent(own.accuracy)}% right (95% CI {low} to {high}, n = {own.n:,}); "
            "prompt tuning was not among the methods of this run, so there is no difference to report."
        )
    fired = own.trigger is None or own.trigger.rate is None or own.trigger.rate > 0
    time = _times(own, baseline)
    if not fired and not versus.fixed and not versus.broken:
        tau = number(own.trigger.tau) if own.trigger else UNDEFINED
        return f"DPC: the trigger never fired (tau = {tau}, n = {own.n:,}), so it answered as prompt tuning did{time}."
    silent = "" if fired else ", although the trigger never fired"
    return f"DPC: {_compared('prompt tuning', versus, own.n, methods)}{silent}{time}."


def threshold_verdict(results: Results | Mapping[str, Any]) -> str | None:
    """What tau gained over never triggering where it was chosen, and what here; None unless both are known.

    The best threshold of these rows was found on them: it says what there is to gain, and how far chance goes.
    """
    parsed = parse(results)
    chosen, here = parsed.calibration, parsed.test_curve
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


def baseline_verdict(results: Results | Mapping[str, Any]) -> str | None:
    """What prompt tuning gained over the model without a prompt, in one sentence; None unless both were run."""
    methods = parse(results).methods
    pretrained = methods.get("pretrained")
    if pretrained is None or pretrained.versus_prompt_tuning is None:
        return None
    versus = pretrained.versus_prompt_tuning.reversed()
    return f"Prompt tuning: {_compared('the pretrained model', versus, pretrained.n, methods)}."


def _compared(other: str, versus: Comparison, n: int, methods: Mapping[str, MethodResult]) -> str:
    if versus.p_holm >= SIGNIFICANT:
        words = "no significant difference"
    else:
        words = "significantly better" if versus.difference > 0 else "significantly worse"
    adjusted = "Holm-adjusted " if sum(m.versus_prompt_tuning is not None for m in methods.values()) > 1 else ""
    figures = f"95% CI {_range(versus)}, {adjusted}{p_value(versus.p_holm)}, n = {n:,}"
    counts = f"fixed {versus.fixed}, broke {versus.broken}"
    return f"{points(versus.difference)} points against {other} ({figures}): {words}; {counts}"


def _times(own: MethodResult, baseline: MethodResult | None) -> str:
    if baseline is None or not baseline.cost.seconds or not own.cost.seconds:
        return ""
    return f"; {own.cost.seconds / baseline.cost.seconds:.2f} times the time"


def _range(versus: Comparison) -> str:
    return " to ".join(map(points, versus.interval))


def label(name: str) -> str:
    """A method's name as it is written in prose."""
    return {"dpc": "DPC", "act": "ACT"}.get(name, name.replace("_", " "))
