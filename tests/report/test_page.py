"""The page: it stands alone, draws what was measured, keeps hostile text as text, and names damaged results."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpc.errors import UserError
from dpc.report import baseline_verdict, verdict, write_page
from dpc.report.figures import ticks, whole_ticks
from dpc.report.formats import number
from dpc.report.page import compared_lines
from dpc.results import summarize
from dpc.types import Record
from tests.report.examples import HOSTILE, MENDED, STEPS, Page, page_of, put_everywhere, results


def test_the_report_needs_no_torch(full: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(full), encoding="utf-8")
    code = (
        "import sys, pathlib, json, dpc.report as r; path = pathlib.Path(sys.argv[1]); r.write_page(path);"
        "r.rich_table(json.loads((path / 'results.json').read_text()));"
        "print([m for m in ('torch', 'transformers', 'peft', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_page_stands_alone(full: dict[str, Any], tmp_path: Path) -> None:
    html = page_of(full, tmp_path)
    page = Page(html)
    tags = [tag for tag, _ in page.elements]
    assert not {"script", "iframe", "object", "embed", "img", "base", "form"} & set(tags)
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "srcset", "xlink:href")]
        assert attributes.get("href", "data:").startswith(("data:", "#"))
    style = page.text("style")[0]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "http://" not in html
    assert "https://" not in html


def test_the_page_can_be_read_without_seeing_it(full: dict[str, Any], tmp_path: Path) -> None:
    page = Page(page_of(full, tmp_path))
    elements = dict(page.elements)
    assert elements["html"]["lang"] == "en"
    assert page.text("title")[0] == "Dynamic Prompt Corruption: zoo with zoo"
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below <= above + 1 for above, below in pairwise(levels))
    drawings = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(drawings) == len(page.text("figure")) == len([c for c in page.text("figcaption") if c.strip()]) == 7
    assert all(a["role"] == "img" and len(a["aria-label"]) > 20 for a in drawings)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(set(ids)) == len(ids)
    assert {a["aria-labelledby"] for _, a in page.elements if "aria-labelledby" in a} <= set(ids)
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in page.having("scroll"))


def test_the_verdict_comes_before_everything_else(full: dict[str, Any], tmp_path: Path) -> None:
    html = page_of(full, tmp_path)
    page = Page(html)
    assert page.text("p", **{"class": "verdict"})[0].replace("\u00a0", " ") == verdict(full)
    assert html.index('class="verdict"') < html.index("<table") < html.index("<svg")
    assert baseline_verdict(full) in [text.replace("\u00a0", " ") for text in page.text("p")]


def test_the_page_says_how_to_repeat_the_run(full: dict[str, Any], tmp_path: Path) -> None:
    page = Page(page_of(full, tmp_path))
    assert page.text("pre") == ["dpc run --output runs/demo"]
    facts = dict(zip(page.text("dt"), page.text("dd"), strict=True))
    assert facts.pop("commit") == "5f0c2a91d6e84b7c3a1f9e0d2b4c6a8e7f5d3b1c, with changes that were not committed"
    assert facts == full["made_by"]["versions"]
    full["made_by"]["source"] = {}
    assert "not recorded" in Page(page_of(full, tmp_path)).text("dd")[0]


def test_the_chosen_threshold_is_marked_where_it_is(full: dict[str, Any], tmp_path: Path) -> None:
    page = Page(page_of(full, tmp_path))
    chosen = [a for a in page.having("chosen") if "r" in a]
    curve, tau = full["calibration"]["curve"], full["calibration"]["tau"]
    index = [point["tau"] for point in curve].index(tau)
    lines = [a["points"].split() for a in page.having("line")][:2]
    assert [len(line) for line in lines] == [len(curve)] * 2
    assert [line[index] for line in lines] == [f"{a['cx']},{a['cy']}" for a in chosen]
    heights = [float(place.split(",")[1]) for place in lines[0]]
    assert min(heights) == float(chosen[0]["cy"])
    rates = [float(place.split(",")[1]) for place in lines[1]]
    assert rates == sorted(rates)


def test_a_threshold_that_always_or_never_fires_is_on_the_curve(full: dict[str, Any], tmp_path: Path) -> None:
    for tau, words in ((-1.0, "−1 (always)"), (1.0, "1 (never)")):
        full["calibration"]["tau"] = tau
        assert f"τ = {words}" in Page(page_of(full, tmp_path)).text(
            "text", **{"class": "strong" if tau < 0 else "strong end"}
        )


def test_bars_above_the_line_of_beta_are_the_share_r(full: dict[str, Any], tmp_path: Path) -> None:
    page = Page(page_of(full, tmp_path))
    start = next(i for i, (_, a) in enumerate(page.elements) if "rationale tokens" in a.get("aria-label", ""))
    stop = next(i for i, (t, _) in enumerate(page.elements) if t == "svg" and i > start)
    drawing = [a for _, a in page.elements[start:stop]]
    bars = [a for a in drawing if "bar" in a.get("class", "").split()]
    line = next(float(a["y1"]) for a in drawing if a.get("class") == "beta")
    n = len(full["trace"]["tokens"])
    late = bars[n // 2 :]
    assert len(bars) == n
    assert [a["class"] for a in bars[: n // 2]] == ["bar early"] * (n // 2)
    above = [a for a in late if float(a["y"]) < line]
    assert [a["class"] for a in above] == ["bar chosen"] * len(above)
    assert len(above) / len(late) == full["trace"]["ratio"]
    assert len([a for a in late if a["class"] == "bar chosen"]) == len(above)
    assert f"{len(above)} of the {len(late)} late tokens lie above" in " ".join(page.text("figcaption"))


def test_one_huge_influence_does_not_hide_the_line_of_beta(full: dict[str, Any], tmp_path: Path) -> None:
    full["trace"]["influence"][0] = 50 * full["trace"]["beta"]
    page = Page(page_of(full, tmp_path))
    line = next(float(a["y1"]) for a in page.having("beta"))
    bars = [a for a in page.having("bar") if float(a["x"]) > 0]
    floor, tallest = (float(bars[0]["y"]) + float(bars[0]["height"]), float(bars[0]["height"]))
    assert (floor - line) / tallest == pytest.approx(1 / 6, abs=0.01)
    assert "Bars longer than the axis carry their value." in " ".join(page.text("figcaption"))
    assert page.text("text", **{"class": "token middle"}) == [f"{50 * full['trace']['beta'] * 1e4:.3g}"]


def test_the_page_says_what_the_chosen_threshold_is_worth(full: dict[str, Any], tmp_path: Path) -> None:
    curve, tau = full["calibration"]["curve"], full["calibration"]["tau"]
    best, never = max(point["accuracy"] for point in curve), curve[-1]["accuracy"]
    said = " ".join(" ".join(Page(page_of(full, tmp_path)).text("p")).split())
    assert f"Among {len(curve)} candidates, τ = {number(tau)} was chosen on the 400 instances" in said
    assert f"It answered {100 * best:.1f}% of them right; without any second answer, {100 * never:.1f}% are." in said
    assert "optimistic" in said
    full["calibration"]["tau"] = 1.0
    said = " ".join(" ".join(Page(page_of(full, tmp_path)).text("p")).split())
    assert (
        f"It leaves every first answer as it is: {100 * never:.1f}% right; "
        f"the best of those that answer again reached {100 * best:.1f}%." in said
    )
    assert "optimistic" not in said


def test_the_masked_token_is_the_highest_bar_of_the_profile(full: dict[str, Any], tmp_path: Path) -> None:
    page = Page(page_of(full, tmp_path))
    start = next(i for i, (_, a) in enumerate(page.elements) if "soft tokens" in a.get("aria-label", ""))
    bars = [a for _, a in page.elements[start:] if "bar" in a.get("class", "").split()]
    assert len(bars) == 16
    assert [i for i, a in enumerate(bars) if "chosen" in a["class"]] == [3]
    assert min(range(16), key=lambda i: float(bars[i]["y"])) == 3
    assert "masked: token 3" in page.text("text")
    full["trace"] |= {"triggered": False, "second": None, "tau": 0.9}
    untouched = Page(page_of(full, tmp_path))
    assert "key: token 3" in untouched.text("text")
    assert "None: the trigger did not fire." in untouched.text("p")


def test_lines_in_which_the_rationales_differ_are_marked(full: dict[str, Any], tmp_path: Path) -> None:
    page = Page(page_of(full, tmp_path))
    first, second = STEPS.splitlines(), MENDED.splitlines()
    assert page.text("div", dir="auto") == first + second
    assert page.text("div", **{"class": "differs"}) == first[2:] + second[2:]
    assert compared_lines("a\nb", "a") == [("a", False), ("b", True)]
    assert compared_lines("a", "a\nb") == [("a", False)]
    assert compared_lines("a", None) == [("a", False)]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str, full: dict[str, Any], tmp_path: Path) -> None:
    harmless = Page(page_of(put_everywhere(full, "words"), tmp_path))
    hostile = put_everywhere(full, text)
    hostile["methods"][text] = hostile["methods"]["pretrained"]
    hostile["made_by"]["versions"][text] = text
    page = Page(page_of(hostile, tmp_path))
    extra = [("tr", 1), ("th", 1), ("td", 9), ("dt", 1), ("dd", 1)]
    for tag in {tag for tag, _ in page.elements}:
        assert len(page.text(tag)) == len(harmless.text(tag)) + dict(extra).get(tag, 0)
    names = {name for _, attributes in harmless.elements for name in attributes}
    assert {name for _, attributes in page.elements for name in attributes} == names
    assert page.text("title")[0] == f"Dynamic Prompt Corruption: {text} with {text}"
    assert page.text("p", **{"class": "text"}) == [text]
    assert page.text("div", dir="auto") == [text, text]
    assert page.text("pre") == [text]
    assert text.replace("_", " ") in page.text("th", scope="row")
    assert page.text("strong") == [text]


def test_half_a_surrogate_pair_and_control_characters_do_not_stop_the_page(
    full: dict[str, Any], tmp_path: Path
) -> None:
    full["trace"]["question"] = "half \ud83c and \x00\x1b[31m"
    full["trace"]["tokens"][:4] = ["\ud83c", "\x07", "\n", " "]
    page = Page(page_of(full, tmp_path))
    assert page.text("p", **{"class": "text"})[0].startswith("half ? and ")
    assert page.text("text", **{"class": "token end central"})[:4] == ["␣", "␣", "↵", "␣"]


def test_a_long_token_is_cut_in_the_label_and_whole_in_its_title(full: dict[str, Any], tmp_path: Path) -> None:
    full["trace"]["tokens"][0] = " " + "x" * 500
    page = Page(page_of(full, tmp_path))
    assert page.text("text", **{"class": "token end central"})[0] == "x" * 10 + "…"
    assert page.text("title")[1].startswith(" " + "x" * 500)


def test_a_run_without_dpc_calibration_or_trace_has_a_page(records: dict[str, list[Record]], tmp_path: Path) -> None:
    page = Page(page_of(results(summarize({"pretrained": records["pretrained"]})), tmp_path))
    assert page.text("h2") == ["Results", "To repeat this run"]
    assert page.text("p", **{"class": "verdict"}) == ["DPC was not among the methods of this run."]
    assert not page.text("figure")


def test_an_instance_that_could_not_be_judged_has_a_page(full: dict[str, Any], tmp_path: Path) -> None:
    full["trace"] |= {
        "first": "9",
        "second": None,
        "triggered": False,
        "ratio": None,
        "beta": None,
        "key_token": None,
        "tokens": ["9"],
        "influence": [0.0],
        "profile": [],
    }
    page = Page(page_of(full, tmp_path))
    assert any("too short for the trigger to judge" in text for text in page.text("p"))
    full["trace"] |= {
        "tokens": [],
        "influence": [],
        "prompt_to_question": [],
        "prompt_to_rationale": [1e-9],
        "first": "",
    }
    assert len(Page(page_of(full, tmp_path)).text("svg")) == 5


def test_flat_and_huge_figures_are_drawn(full: dict[str, Any], tmp_path: Path) -> None:
    n = len(full["trace"]["tokens"])
    for scale in (0.0, 5e-324, 1e-30, 1e12):
        full["trace"] |= {"influence": [scale] * n, "beta": scale, "ratio": 0.0, "profile": [scale] * 100}
        full["trace"] |= {"prompt_to_question": [scale] * 40}
        html = page_of(full, tmp_path)
        assert not re.search(r'="(nan|inf|-\d)', html)


def test_what_the_table_leaves_out_is_noted(full: dict[str, Any], tmp_path: Path) -> None:
    full["methods"]["prompt_tuning"]["no_answer"] = 12
    notes = Page(page_of(full, tmp_path)).text("p", **{"class": "note"})
    assert "Counted as wrong because no answer could be read: prompt tuning 12." in notes
    assert "Rationales too short for the trigger to judge: DPC 4." in notes


def test_the_same_results_make_the_same_page(full: dict[str, Any], tmp_path: Path) -> None:
    assert page_of(full, tmp_path) == page_of(full, tmp_path)


def broken(full: dict[str, Any], how: str) -> str:
    if how == "no number":
        full["methods"]["dpc"]["accuracy"] = None
    elif how == "not a share":
        full["methods"]["dpc"]["accuracy"] = 45.2
    elif how == "not finite":
        full["trace"]["influence"][2] = float("nan")
    elif how == "lengths":
        full["trace"]["tokens"].append("more")
    elif how == "key":
        full["trace"]["key_token"] = 16
    elif how == "off the curve":
        full["calibration"]["tau"] = 0.123
    elif how == "no methods":
        del full["methods"]
    elif how == "format":
        full["format"] = 2
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
        ("not finite", "trace.influence.2: input should be a finite number"),
        ("lengths", "trace: 40 tokens with 39 influences"),
        ("key", "trace: key token 16 in a profile of 16"),
        ("off the curve", "calibration: tau 0.123 is not on the curve"),
        ("no methods", "methods: field required"),
        ("format", "has format 2, expected 1"),
        ("list", "its top level: input should be a dictionary"),
        ("torn", "is not a readable results file"),
    ],
)
def test_damaged_results_are_named_in_one_line(how: str, words: str, full: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(broken(full, how), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        write_page(tmp_path)
    said = str(caught.value)
    assert words in said
    assert said.startswith(str(tmp_path / "results.json"))
    assert "\n" not in said
    assert not (tmp_path / "report.html").exists()


def test_missing_results_say_what_makes_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"results\.json: no results there; make them with dpc run --output"):
        write_page(tmp_path)


def test_a_page_that_cannot_be_written_leaves_nothing_half_made(full: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(full), encoding="utf-8")
    (tmp_path / "report.html").mkdir()
    with pytest.raises(UserError, match=r"cannot write '.*report\.html'"):
        write_page(tmp_path)
    assert not (tmp_path / "report.html.new").exists()


@settings(deadline=None)
@given(st.floats(-5, 100), st.floats(0.01, 100))
def test_ticks_are_even_round_and_inside(low: float, span: float) -> None:
    made = ticks(low, low + span)
    assert 2 <= len(made) <= 7
    assert all(low - 1e-6 <= t <= low + span + 1e-6 for t in made)
    gaps = [b - a for a, b in pairwise(made)]
    assert max(gaps) - min(gaps) < 1e-6


@settings(deadline=None)
@given(st.integers(0, 5000))
def test_ticks_of_indices_name_both_ends(count: int) -> None:
    made = whole_ticks(count)
    places = [at for at, _ in made]
    assert places[0] == 0
    assert places[-1] == max(count - 1, 0)
    assert places == sorted(set(places))
    assert len(made) <= 10
