"""The table of a run and its verdict in a sentence: every number of a report is formatted here, once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from dpc.methods import BASELINE
from dpc.report.formats import SIGNIFICANT, UNDEFINED, number, p_value, percent, points, seconds
from dpc.report.schema import Comparison, MethodResult, Results, Trigger, parse

COLUMNS = (
    "method",
    "accuracy %",
    "vs prompt tuning, points",
    "fixed / broken",
    "trigger rate %",
    "precision %",
    "recall %",
    "AUC",
    "forward passes",
    "seconds",
)


def results_rows(results: Results | Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row of plain strings a method, in the order of ``COLUMNS``; what is not defined is a dash.

    Accuracy comes with its 95% interval; the difference to prompt tuning with its 95% interval and exact McNemar p.
    Precision, recall and AUC are the trigger's, as a detector of wrong first answers.
    """
    return [_row(name, method) for name, method in parse(results).methods.items()]


def _row(name: str, method: MethodResult) -> tuple[str, ...]:
    versus = method.versus_prompt_tuning
    low, high = (percent(bound) for bound in method.interval)
    return (
        label(name),
        f"{percent(method.accuracy)} ({low} to {high})",
        UNDEFINED if versus is None else f"{points(versus.difference)} ({_range(versus)}), {p_value(versus.p)}",
        UNDEFINED if versus is None else f"{versus.fixed} / {versus.broken}",
        *_trigger_cells(method.trigger),
        f"{method.cost.forward_passes:,}",
        seconds(method.cost.seconds),
    )


def _trigger_cells(trigger: Trigger | None) -> tuple[str, ...]:
    if trigger is None:
        return (UNDEFINED,) * 4
    shares = map(percent, (trigger.rate, trigger.precision, trigger.recall))
    return (*shares, UNDEFINED if trigger.auc is None else f"{trigger.auc:.2f}")


def rich_table(results: Results | Mapping[str, Any]) -> Table:
    """The table for a terminal, a column a method: three of them fit into 80 characters."""
    headings, *quantities = zip(COLUMNS, *results_rows(results), strict=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    # As Text, so that brackets in a name are no markup.
    for index, heading in enumerate(headings):
        table.add_column(Text(heading), justify="right" if index else "left")
    for title, *cells in quantities:
        table.add_row(title, *(cell.replace(" (", "\n(").replace("), ", ")\n") for cell in cells))
    return table


def markdown_table(results: Results | Mapping[str, Any]) -> str:
    """The table for a text, without a line end."""
    rows = [COLUMNS, ("---", *["---:"] * (len(COLUMNS) - 1)), *results_rows(results)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def verdict(results: Results | Mapping[str, Any]) -> str:
    """What the run says about Dynamic Prompt Corruption, in one sentence that claims no more than p < 0.05 allows."""
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
    return f"DPC: {_compared('prompt tuning', versus, own.n)}{silent}{time}."


def baseline_verdict(results: Results | Mapping[str, Any]) -> str | None:
    """What prompt tuning gained over the model without a prompt, in one sentence; None unless both were run."""
    methods = parse(results).methods
    pretrained = methods.get("pretrained")
    if pretrained is None or pretrained.versus_prompt_tuning is None:
        return None
    versus = pretrained.versus_prompt_tuning.reversed()
    return f"Prompt tuning: {_compared('the pretrained model', versus, pretrained.n)}."


def _compared(other: str, versus: Comparison, n: int) -> str:
    if versus.p >= SIGNIFICANT:
        words = "no significant difference"
    else:
        words = "significantly better" if versus.difference > 0 else "significantly worse"
    figures = f"95% CI {_range(versus)}, {p_value(versus.p)}, n = {n:,}"
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
