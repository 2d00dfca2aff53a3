"""Damaged runs: one line that names the file and the fault, and no incomplete page. Axes: their ticks are round."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpc.errors import UserError
from dpc.report import write_page
from dpc.report.inline_svg import ticks
from tests.report.made_run import rows, write_run


def broken(full: dict[str, Any], how: str) -> str:
    if how == "no number":
        full["methods"]["dpc"]["accuracy"] = None
    elif how == "not a share":
        full["methods"]["dpc"]["accuracy"] = 45.2
    elif how == "not finite":
        full["methods"]["dpc"]["cost"]["seconds"] = float("nan")
    elif how == "off the curve":
        full["calibration"]["tau"] = 0.123
    elif how == "no methods":
        del full["methods"]
    elif how == "format":
        full["format"] = 1
    elif how == "list":
        return "[]"
    elif how == "torn":
        return json.dumps(full)[:-100]
    return json.dumps(full)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("no number", "methods.dpc.accuracy: input should be a valid number"),
        ("not a share", "methods.dpc.accuracy: input should be less than or equal to 1"),
        ("not finite", "methods.dpc.cost.seconds: input should be a finite number"),
        ("off the curve", "calibration: tau 0.123 is not on the curve"),
        ("no methods", "methods: field required"),
        ("format", "has format 1, expected 2"),
        ("list", "its top level: input should be a dictionary"),
        ("torn", "is not a readable results file"),
    ],
)
def test_damaged_results_are_named_in_one_line(how: str, words: str, full: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(broken(full, how), encoding="utf-8")
    said = complaint(tmp_path)
    assert words in said
    assert said.startswith(str(tmp_path / "results.json"))


def complaint(run: Path) -> str:
    """What is said where no page can be made, in one line, with nothing left behind."""
    with pytest.raises(UserError) as caught:
        write_page(run)
    assert "\n" not in str(caught.value)
    assert not (run / "report.html").exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("vocabulary.json", b"[]", "is not a readable vocabulary"),
        ("examples.jsonl", b"{}\n", "is not an example"),
        ("records/dpc.jsonl", b"{}\n", "is not a record"),
        ("run.json", b"[]", "is not a run description"),
        ("maps/0.npz", b"no archive", "is not a readable flow map"),
        ("maps/0.npz", b"PK\x03\x04 torn", "is not a readable flow map"),
        ("prompt/history.jsonl", b'{"step": 1}\n', "is not an update of tuning"),
        ("prompt/dpc.json", b"{", "is not a readable description of a prompt"),
    ],
)
def test_other_damaged_files_are_named_in_one_line(file: str, content: bytes, words: str, tmp_path: Path) -> None:
    write_run(tmp_path, rows(20))
    (tmp_path / file).write_bytes(content)
    said = complaint(tmp_path)
    assert words in said
    assert said.startswith(str(tmp_path / file))


@pytest.mark.parametrize("how", ["row", "nan", "negative", "label", "spans", "missing", "object"])
def test_a_map_whose_arrays_do_not_belong_together_is_refused(how: str, tmp_path: Path) -> None:
    write_run(tmp_path, rows(20))
    path = tmp_path / "maps" / "0.npz"
    with np.load(path) as file:
        arrays = dict(file)
    if how == "row":
        arrays["attention"] = arrays["attention"][:, :-1]
    elif how == "nan":
        arrays["saliency"][0, 0, 0] = np.nan
    elif how == "negative":
        arrays["saliency"][0, 0, 0] = -1
    elif how == "label":
        arrays["tokens"] = arrays["tokens"][:-1]
    elif how == "spans":
        arrays["spans"] = arrays["spans"][:2]
    elif how == "missing":
        del arrays["layers"]
    elif how == "object":
        arrays["tokens"] = np.array([{"a": 1}] * len(arrays["tokens"]), dtype=object)
    np.savez(path, **arrays)
    assert complaint(tmp_path).startswith(str(path))


def test_missing_results_say_what_makes_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"results\.json: no results there; make them with dpc run --output"):
        write_page(tmp_path)


def test_a_page_that_cannot_be_written_leaves_nothing_half_made(full: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(full), encoding="utf-8")
    (tmp_path / "report.html").mkdir()
    with pytest.raises(UserError, match=r"cannot write '.*report\.html'"):
        write_page(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "results.json"]


@settings(deadline=None)
@given(st.floats(-5, 100), st.floats(0.01, 100))
def test_ticks_are_even_round_and_inside(low: float, span: float) -> None:
    made = ticks(low, low + span)
    assert 2 <= len(made) <= 7
    assert all(low - 1e-6 <= t <= low + span + 1e-6 for t in made)
    gaps = [b - a for a, b in pairwise(made)]
    assert max(gaps) - min(gaps) < 1e-6
