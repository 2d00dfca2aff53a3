"""The rows, the table and the verdict: the same cells everywhere, in numbers that claim no more than they may."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from dpc.report import COLUMNS, baseline_verdict, markdown_table, results_rows, rich_table, verdict
from dpc.report.formats import number, p_value, points
from dpc.results import summarize
from dpc.types import Record
from tests.report.examples import Page, page_of, pairs, record, results


def test_a_row_states_the_numbers_of_its_method() -> None:
    rows = results_rows(pairs(fixed=31, broken=19, both=400, neither=550))
    plain, dpc = (dict(zip(COLUMNS, row, strict=True)) for row in rows)
    assert plain == {
        "method": "prompt tuning",
        "accuracy %": "41.9 (38.9 to 45.0)",
        "vs prompt tuning, points": "–",
        "fixed / broken": "–",
        "trigger rate %": "–",
        "precision %": "–",
        "recall %": "–",
        "AUC": "–",
        "forward passes": "40,000",
        "seconds": "60.0",
    }
    assert dpc == {
        "method": "DPC",
        "accuracy %": "43.1 (40.1 to 46.2)",
        "vs prompt tuning, points": "+1.2 (−0.2 to +2.7), p = 0.12",
        "fixed / broken": "31 / 19",
        "trigger rate %": "100.0",
        "precision %": "58.1",
        "recall %": "100.0",
        "AUC": "0.50",
        "forward passes": "50,000",
        "seconds": "75.0",
    }


def test_what_is_not_defined_is_a_dash() -> None:
    row = dict(zip(COLUMNS, results_rows(pairs(0, 0, 5, 0, fires=False))[1], strict=True))
    assert (row["trigger rate %"], row["precision %"], row["recall %"], row["AUC"]) == ("0.0", "–", "–", "–")


def printed(value: dict[str, Any], width: int) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(rich_table(value))
    return capture.get()


def test_text_and_page_show_the_same_cells(full: dict[str, Any], tmp_path: Path) -> None:
    rows = results_rows(full)
    markdown = [tuple(line.strip("| ").split(" | ")) for line in markdown_table(full).splitlines()]
    assert [markdown[0], *markdown[2:]] == [COLUMNS, *rows]
    page = Page(page_of(full, tmp_path))
    assert page.text("th", scope="col") == list(COLUMNS)
    assert page.text("th", scope="row") == [row[0] for row in rows]
    assert page.text("td") == [cell for row in rows for cell in row[1:]]


def test_a_terminal_of_80_characters_shows_every_figure(full: dict[str, Any]) -> None:
    lines = printed(full, 80).splitlines()
    assert "…" not in "".join(lines)
    assert re.split(r"\s{2,}", lines[0].strip()) == ["method", "pretrained", "prompt tuning", "DPC"]
    ends = [lines[0].index(word) + len(word) for word in ("pretrained", "prompt tuning", "DPC")]
    slices = [slice(0, 24), *(slice(a, b) for a, b in pairwise([24, *ends]))]
    # A cell's further lines stand below its first, under an empty title.
    rows: list[list[list[str]]] = []
    for line in lines[2:]:
        pieces = [line[part].strip() for part in slices]
        rows = rows if not pieces[0] else [*rows, [[], [], [], []]]
        for cell, piece in zip(rows[-1], pieces, strict=True):
            cell.extend([piece] if piece else [])
    read = [tuple(" ".join(cell) for cell in row) for row in rows]
    wanted = list(zip(COLUMNS, *results_rows(full), strict=True))[1:]
    assert read == [tuple(cell.replace("), ", ") ") for cell in row) for row in wanted]


def test_a_name_is_never_markup(methods: dict[str, Any]) -> None:
    odd = results({"[red]a|b[/red]": methods["prompt_tuning"]})
    assert "[red]a|b[/red]" in printed(odd, 80)
    assert markdown_table(odd).splitlines()[2].startswith("| [red]a\\|b[/red] |")


@pytest.mark.parametrize(
    ("fixed", "broken", "words"),
    [
        (
            31,
            19,
            "+1.2 points against prompt tuning (95% CI −0.2 to +2.7, p = 0.12, n = 1,000): no significant difference",
        ),
        (40, 10, "+3.0 points against prompt tuning (95% CI +1.7 to +4.5, p < 0.001, n = 1,000): significantly better"),
        (10, 40, "−3.0 points against prompt tuning (95% CI −4.5 to −1.7, p < 0.001, n = 1,000): significantly worse"),
        (
            20,
            20,
            "0.0 points against prompt tuning (95% CI −1.3 to +1.3, p = 1.00, n = 1,000): no significant difference",
        ),
    ],
)
def test_the_verdict_claims_what_the_test_allows(fixed: int, broken: int, words: str) -> None:
    said = verdict(pairs(fixed, broken, 400, 600 - fixed - broken))
    assert said == f"DPC: {words}; fixed {fixed}, broke {broken}; 1.25 times the time."


def test_the_verdict_says_that_the_trigger_never_fired() -> None:
    said = verdict(pairs(0, 0, 60, 40, fires=False))
    assert (
        said
        == "DPC: the trigger never fired (tau = 1, n = 100), so it answered as prompt tuning did; 1.25 times the time."
    )
    odd = verdict(pairs(1, 0, 60, 39, fires=False))
    assert "fixed 1, broke 0, although the trigger never fired" in odd


def test_the_verdict_of_an_incomplete_run(methods: dict[str, Any], records: dict[str, list[Record]]) -> None:
    without = results({name: methods[name] for name in ("pretrained", "prompt_tuning")})
    assert verdict(without) == "DPC was not among the methods of this run."
    alone = results(summarize({"dpc": records["dpc"]}))
    assert re.fullmatch(
        r"DPC: [\d.]+% right \(95% CI .* n = 1,000\); prompt tuning was not .* to report\.", verdict(alone)
    )
    assert baseline_verdict(alone) is None


def test_prompt_tuning_is_compared_with_the_pretrained_model_in_its_own_direction() -> None:
    records = {
        "pretrained": [record(i, "pretrained", i < 30) for i in range(100)],
        "prompt_tuning": [record(i, "prompt_tuning", 5 <= i < 50) for i in range(100)],
    }
    said = baseline_verdict(results(summarize(records), 100))
    assert said is not None
    assert said.startswith("Prompt tuning: +15.0 points against the pretrained model (95% CI +5.")
    assert said.endswith("n = 100): significantly better; fixed 20, broke 5.")


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
