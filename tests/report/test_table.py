"""The rows, the table and the verdict: the same cells everywhere, in numbers that claim no more than they may."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from dpc.methods import METHODS
from dpc.records.results import Graded, MethodResult, Results, parse_results, results_json
from dpc.records.summary import summarize
from dpc.report import (
    COLUMNS,
    baseline_verdict,
    markdown_table,
    results_rows,
    rich_table,
    threshold_verdict,
    verdict,
)
from dpc.report.formats import number, p_value, points
from dpc.report.results_table import BLOCKS
from dpc.types import Record
from tests.report.examples import Page, page_of, pairs, record, results


def test_a_row_states_the_numbers_of_its_method() -> None:
    rows = results_rows(pairs(fixed=31, broken=19, both=400, neither=550))
    plain, dpc = (dict(zip(COLUMNS, row, strict=True)) for row in rows)
    assert plain == {
        "method": "prompt tuning",
        "asked": "–",
        "accuracy %": "41.9 (38.9 to 45.0)",
        "vs prompt tuning, points": "–",
        "p (Holm)": "–",
        "fixed / broken": "–",
        "also graded %": "–",
        "oracle %": "–",
        "trigger rate %": "–",
        "precision %": "–",
        "recall %": "–",
        "AUC": "–",
        "forward tokens": "100,000",
        "seconds": "60.0",
    }
    assert dpc == {
        "method": "DPC",
        "asked": "–",
        "accuracy %": "43.1 (40.1 to 46.2)",
        "vs prompt tuning, points": "+1.2 (−0.2 to +2.7)",
        "p (Holm)": "0.12",
        "fixed / broken": "31 / 19",
        "also graded %": "–",
        "oracle %": "45.0",
        "trigger rate %": "100.0",
        "precision %": "58.1",
        "recall %": "100.0",
        "AUC": "0.50 (0.46 to 0.54)",
        "forward tokens": "125,000",
        "seconds": "75.0",
    }


def test_further_graders_are_beside_the_accuracy(methods: dict[str, MethodResult]) -> None:
    graded = {"flexible": Graded(500, 0.5, (0.4, 0.6)), "loose": Graded(625, 0.625, (0.0, 1.0))}
    rows = results_rows(results({"dpc": replace(methods["dpc"], also_graded=graded)}))
    assert dict(zip(COLUMNS, rows[0], strict=True))["also graded %"] == "flexible 50.0, loose 62.5"


def test_what_is_not_defined_is_a_dash() -> None:
    row = dict(zip(COLUMNS, results_rows(pairs(0, 0, 5, 0, fires=False))[1], strict=True))
    assert (row["trigger rate %"], row["precision %"], row["recall %"], row["AUC"]) == ("0.0", "–", "–", "–")


def printed(value: Results, width: int) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(rich_table(value))
    return capture.get()


def cells(line: str) -> list[str]:
    return line.strip("| ").split(" | ")


def test_text_and_page_show_the_same_cells(full: dict[str, Any], tmp_path: Path) -> None:
    found = parse_results(full)
    rows = results_rows(found)
    markdown = [cells(line) for line in markdown_table(found).splitlines()]
    kept = [index for index, name in enumerate(COLUMNS) if name in markdown[0]]
    assert markdown[2:] == [[row[index] for index in kept] for row in rows]
    page = Page(page_of(full, tmp_path))
    shown = [index for index, name in enumerate(COLUMNS) if name != "asked" or name in markdown[0]]
    assert page.cells("th", "results") == [*(COLUMNS[index] for index in shown), *(row[0] for row in rows)]
    assert page.cells("td", "results") == [row[index] for row in rows for index in shown[1:]]


def test_a_text_leaves_out_a_column_only_where_nothing_is_in_it(full: dict[str, Any]) -> None:
    heading = cells(markdown_table(parse_results(full)).splitlines()[0])
    rows = results_rows(parse_results(full))
    assert heading == [name for i, name in enumerate(COLUMNS) if any(row[i] != "–" for row in rows)]
    assert "also graded %" not in heading
    full["methods"]["dpc"]["also_graded"] = {"flexible": {"correct": 500, "accuracy": 0.5, "interval": [0.4, 0.6]}}
    assert "also graded %" in cells(markdown_table(parse_results(full)).splitlines()[0])


def dozen(full: dict[str, Any]) -> dict[str, Any]:
    """As many methods as there are, with the widest figures that a large benchmark gives."""
    wide = json.loads(json.dumps(full["methods"]["dpc"]))
    wide["also_graded"] = {"flexible": {"correct": 1000, "accuracy": 1.0, "interval": [1.0, 1.0]}}
    wide["versus_prompt_tuning"] |= {"difference": -0.5, "interval": [-0.555, -0.444], "fixed": 1000, "broken": 1000}
    wide["cost"] |= {"forward_tokens": 1e7, "seconds": 100_000.0}
    return {**full, "methods": dict.fromkeys(METHODS, wide)}


@pytest.mark.parametrize("many", [False, True])
def test_a_terminal_of_80_characters_shows_every_figure(full: dict[str, Any], many: bool) -> None:
    shown = parse_results(dozen(full) if many else full)
    text = printed(shown, 80)
    assert "…" not in text
    blocks = [block.splitlines() for block in text.strip("\n").split("\n\n")]
    read: dict[str, dict[str, str]] = {}
    for lines, names in zip(blocks, BLOCKS, strict=True):
        rule = next(i for i, line in enumerate(lines) if set(line.strip()) == {"─"})
        rows = [re.split(r"\s{2,}", line.strip()) for line in lines[rule + 1 :]]
        # A heading's words stand over each other.
        heading = Counter(word for line in lines[:rule] for word in line.split())
        present = [name for name in names if Counter(name.split()) <= heading]
        for row in rows:
            read.setdefault(row[0], {}).update(zip(present, row, strict=True))
    for row in results_rows(shown):
        wanted = dict(zip(COLUMNS, row, strict=True))
        assert read[row[0]] == {name: cell for name, cell in wanted.items() if name in read[row[0]]}
        assert {name for name, cell in wanted.items() if cell != "–"} <= read[row[0]].keys()


def test_a_name_is_never_markup(methods: dict[str, MethodResult]) -> None:
    odd = results({"[red]a|b[/red]": methods["prompt_tuning"]})
    assert "[red]a|b[/red]" in printed(odd, 80)
    assert markdown_table(odd).splitlines()[2].startswith("| [red]a\\|b[/red] |")


@pytest.mark.parametrize(
    ("fixed", "broken", "words"),
    [
        (
            31,
            19,
            "+1.2 points against prompt tuning (95% CI −0.2 to +2.7, p = 0.12, n = 1,000): "
            "no statistically significant difference",
        ),
        (40, 10, "+3.0 points against prompt tuning (95% CI +1.7 to +4.5, p < 0.001, n = 1,000): significantly better"),
        (10, 40, "−3.0 points against prompt tuning (95% CI −4.5 to −1.7, p < 0.001, n = 1,000): significantly worse"),
        (
            20,
            20,
            "0.0 points against prompt tuning (95% CI −1.3 to +1.3, p = 1.00, n = 1,000): "
            "no statistically significant difference",
        ),
    ],
)
def test_the_verdict_claims_what_the_test_allows(fixed: int, broken: int, words: str) -> None:
    said = verdict(pairs(fixed, broken, 400, 600 - fixed - broken))
    assert said == f"DPC: {words}; fixed {fixed}, broke {broken}; 1.25 times the forward tokens."


def test_the_verdict_says_that_no_instance_triggered() -> None:
    said = verdict(pairs(0, 0, 60, 40, fires=False))
    silent = "DPC: no instance triggered (tau = 1, n = 100), so it answered as prompt tuning did"
    assert said == f"{silent}; 1.25 times the forward tokens."
    odd = verdict(pairs(1, 0, 60, 39, fires=False))
    assert "fixed 1, broke 0, although no instance triggered" in odd


def test_the_verdict_of_an_incomplete_run(methods: dict[str, MethodResult], records: dict[str, list[Record]]) -> None:
    without = results({name: methods[name] for name in ("pretrained", "prompt_tuning")})
    assert verdict(without) == "DPC was not among the methods of this run."
    alone = results(summarize({"dpc": records["dpc"]}))
    assert re.fullmatch(
        r"DPC: [\d.]+% right \(95% CI .* n = 1,000\); prompt tuning was not .* to report\.", verdict(alone)
    )
    assert baseline_verdict(alone) is None


def curves(dev: list[float], test: list[float | None], tau: float, tau_here: float | None = None) -> Results:
    """Results with accuracies at tau 0.2, 0.6 and 1, where it never triggers."""
    taus, rates = (0.2, 0.6, 1.0), (0.9, 0.4, 0.0)
    point = {"precision": None, "recall": None, "false_positive_rate": None}
    value = results_json(pairs(1, 1, 50, 48)) | {
        "calibration": {
            "tau": tau,
            "n": 400,
            "from": {},
            "curve": [{"tau": t, "accuracy": a, "trigger_rate": r} for t, a, r in zip(taus, dev, rates, strict=True)],
        },
        "test_curve": {
            "tau": tau if tau_here is None else tau_here,
            "n": 1000,
            "auc": None,
            "oracle": None,
            "second_shared": 0,
            "second_differ": 0,
            "points": [
                {**point, "tau": t, "accuracy": a, "trigger_rate": r} for t, a, r in zip(taus, test, rates, strict=True)
            ],
        },
    }
    return parse_results(value)


def test_what_the_threshold_gained_where_it_was_chosen_stands_beside_what_it_gains_here() -> None:
    assert threshold_verdict(curves([0.52, 0.55, 0.50], [0.62, 0.59, 0.60], 0.6)) == (
        "Threshold: tau = 0.6 gained +5.0 points on the 400 rows it was chosen on, −1.0 on the 1,000 here; "
        "the best for these rows would have gained +2.0."
    )
    partly = threshold_verdict(curves([0.52, 0.55, 0.50], [None, 0.59, 0.60], 0.6))
    assert partly is not None
    assert "the best for these rows, as far as second answers are known, would have gained 0.0." in partly
    assert threshold_verdict(pairs(1, 1, 50, 48)) is None
    assert threshold_verdict(curves([0.52, 0.55, 0.50], [0.62, 0.59, 0.60], 0.6, tau_here=0.2)) is None


def test_prompt_tuning_is_compared_with_the_pretrained_model_in_its_own_direction() -> None:
    records = {
        "pretrained": [record(i, "pretrained", i < 30) for i in range(100)],
        "prompt_tuning": [record(i, "prompt_tuning", 5 <= i < 50) for i in range(100)],
    }
    said = baseline_verdict(results(summarize(records), 100))
    assert said is not None
    assert said.startswith("Prompt tuning: +15.0 points against the pretrained model (95% CI +5.")
    assert said.endswith("n = 100): significantly better; fixed 20, broke 5.")


def test_a_comparison_seen_from_the_other_side_is_mirrored() -> None:
    seen = pairs(31, 19, 400, 550).methods["dpc"].versus_prompt_tuning
    assert seen is not None
    other = seen.reversed()
    assert (other.difference, other.fixed, other.broken) == (-seen.difference, seen.broken, seen.fixed)
    assert other.interval == (-seen.interval[1], -seen.interval[0])
    assert other.bootstrap == (-seen.bootstrap[1], -seen.bootstrap[0])
    assert (other.p, other.p_holm) == (seen.p, seen.p_holm)
    assert other.reversed() == seen


@settings(deadline=None)
@given(st.floats(0, 1))
def test_a_printed_p_value_is_on_its_side_of_the_level(p: float) -> None:
    text = p_value(p)
    assert (float(text.split()[-1]) < 0.05) == (p < 0.05)


def test_a_difference_that_rounds_to_zero_has_no_sign() -> None:
    assert [points(d) for d in (-0.0004, 0.0, 0.0004, -0.004, 0.0123)] == ["0.0", "0.0", "0.0", "−0.4", "+1.2"]


def test_a_small_number_is_written_as_a_power_of_ten() -> None:
    assert [number(v) for v in (0.149, 1.0, -1.0, 1.694e-5, -2e-12)] == [
        "0.149",
        "1",
        "−1",
        "1.69 × 10⁻⁵",
        "−2 × 10⁻¹²",
    ]


def test_a_verdict_among_several_needs_more_than_a_verdict_alone() -> None:
    alone = pairs(14, 4, 43, 39)
    assert ": significantly better;" in verdict(alone)
    kinds = [(False, True)] * 14 + [(True, False)] * 4 + [(True, True)] * 43 + [(False, False)] * 39
    among = summarize(
        {
            "prompt_tuning": [record(i, "prompt_tuning", a) for i, (a, _) in enumerate(kinds)],
            "dpc": [record(i, "dpc", b) for i, (_, b) in enumerate(kinds)],
            "act": [record(i, "act", a) for i, (a, _) in enumerate(kinds)],
        }
    )
    versus = among["dpc"].versus_prompt_tuning
    assert versus is not None
    assert versus.p < 0.05 <= versus.p_holm
    said = verdict(results(among, 100))
    assert f"Holm-adjusted {p_value(versus.p_holm)}" in said
    assert ": no statistically significant difference;" in said
