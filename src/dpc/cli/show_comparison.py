"""What ``dpc compare`` prints: pair by pair, then the settings in which the runs differ."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from dpc.records.compare import Compared, Pair
from dpc.report.formats import UNDEFINED, method_label, p_value, percent, points
from dpc.stats import Interval

# Rows that are listed on the terminal; --json lists all.
_NAMED = 12


def print_comparison(compared: Compared) -> None:
    """Print a comparison; names are printed as they are, never as markup."""
    console = Console(highlight=False, markup=False)
    console.print(f"A  {compared.a}\nB  {compared.b}", soft_wrap=True)
    for pair in compared.pairs:
        console.print()
        for line in _lines(pair, len(compared.pairs)):
            console.print(line)
    console.print()
    if not compared.settings:
        console.print("no setting differs")
    else:
        console.print("settings that differ, A then B")
    for each in compared.settings:
        console.print(f"  {each.setting}: {_value(each.a)}, {_value(each.b)}", soft_wrap=True)


def _lines(pair: Pair, pairs: int) -> list[str]:
    found = pair.found
    a, b = method_label(pair.method_a), method_label(pair.method_b)
    holm = f"; adjusted by Holm over {pairs} pairs, {p_value(pair.p_holm)}" if pairs > 1 else ""
    left_out = pair.only_a + pair.only_b
    return [
        f"{a if a == b else f'{a} in A, {b} in B'}, {found.n:,} rows of both",
        f"  A          {percent(pair.accuracy_a)}% right, 95% CI {_range(pair.interval_a, percent)}",
        f"  B          {percent(pair.accuracy_b)}% right, 95% CI {_range(pair.interval_b, percent)}",
        f"  B - A      {points(found.difference)} points, 95% CI {_range(found.interval, points)} (Tango), "
        f"{_range(found.bootstrap, points)} (bootstrap)",
        f"  McNemar    {p_value(found.p)}{holm}",
        f"  fixed      {_named(pair.fixed_ids)}",
        f"  broken     {_named(pair.broken_ids)}",
        *([f"  left out   {pair.only_a:,} rows only of A, {pair.only_b:,} only of B"] if left_out else []),
    ]


def _range(interval: Interval, write: Any) -> str:
    return f"{write(interval.low)} to {write(interval.high)}"


def _named(ids: Sequence[str]) -> str:
    """The number of rows, and the ids of the first ones."""
    more = f" and {len(ids) - _NAMED:,} more" if len(ids) > _NAMED else ""
    return f"{len(ids):,}{': ' if ids else ''}{', '.join(ids[:_NAMED])}{more}"


def _value(value: Any) -> str:
    """As JSON; texts without quotes, digests shortened."""
    if isinstance(value, str):
        return f"{value[:12]}..." if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", value) else value
    return UNDEFINED if value is None else json.dumps(value)
