"""The page: it stands alone, shows what was measured, keeps hostile text as text, and names damaged files."""

from __future__ import annotations

import base64
import hashlib
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

from dpc.cli import run_command
from dpc.records.results import parse_results, results_json
from dpc.records.summary import summarize
from dpc.report import baseline_verdict, live_page, page_data, trace_page, verdict, write_page
from dpc.report.document import SCRIPTS, asset, script_json
from dpc.report.page_data import Instance, Pass, outcome, payload
from dpc.settings import MethodSettings
from dpc.types import Decision, Evidence, Example, Generation, Record, Score
from tests.report.examples import HOSTILE, Page, page_of, put_everywhere, results
from tests.report.made_run import TAU, retold, rows, tokens_of, write_run
from tracked import tracked_files

N = 120
# The name of a drawing's language, which nothing fetches.
NAMESPACE = "http://www.w3.org/2000/svg"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Record]]]:
    path = tmp_path_factory.mktemp("run")
    made = write_run(path, rows(N))
    write_page(path)
    return path, made


@pytest.fixture(scope="module")
def html(whole: tuple[Path, Any]) -> str:
    return (whole[0] / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def data_of(page: Page) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(page.text("script", type="application/json")[0])
    return value


def policy_of(page: Page) -> dict[str, str]:
    content = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    return {part.split()[0]: " ".join(part.split()[1:]) for part in content.split("; ")}


def sha256(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_the_report_needs_no_torch(whole: tuple[Path, Any]) -> None:
    code = (
        "import sys, pathlib, dpc.report as r; path = pathlib.Path(sys.argv[1]); r.write_page(path);"
        "r.rich_table(r.read_run(path).results);"
        "print([m for m in ('torch', 'transformers', 'peft', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(whole[0])], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_page_stands_alone_and_may_do_nothing_but_run_its_own_script(html: str, page: Page) -> None:
    tags = [tag for tag, _ in page.elements]
    assert not {"iframe", "object", "embed", "base", "form"} & set(tags)
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("srcset", "style", "xlink:href")]
        assert attributes.get("href", "data:").startswith(("data:", "#"))
        assert attributes.get("src", "data:").startswith("data:"), tag
    [data, script] = [(a, text) for (t, a), text in zip(page.elements, page.texts, strict=True) if t == "script"]
    assert data[0]["type"] == "application/json"
    [style] = page.text("style")
    assert policy_of(page) == {
        "default-src": "'none'",
        "script-src": sha256("".join(script[1])),
        "style-src": sha256(style),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"https?://", html.replace(NAMESPACE, ""))


def test_scripts_are_all_listed_and_never_parse_text_as_html() -> None:
    written = {Path(name).name for name in tracked_files() if name.endswith(".js")}
    assert written - set(SCRIPTS) == {"lab.js"}
    for name in written:
        text = asset(name)
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text)
        assert "</script" not in text


def test_the_page_can_be_read_without_seeing_it(page: Page) -> None:
    elements = dict(page.elements)
    assert elements["html"]["lang"] == "en"
    assert page.text("title")[0] == "Dynamic Prompt Corruption: zoo with zoo"
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below <= above + 1 for above, below in pairwise(levels))
    drawings = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(drawings) == len(page.text("figure")) == len([c for c in page.text("figcaption") if c.strip()]) == 8
    assert all(a["role"] == "img" and len(a["aria-label"]) > 20 for a in drawings)
    assert all(len(caption) > 10 for caption in page.text("caption"))
    assert len(page.text("caption")) == len(page.text("table")) == 2
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(set(ids)) == len(ids)
    assert {a["aria-labelledby"] for _, a in page.elements if "aria-labelledby" in a} <= set(ids)
    assert {a["href"][1:] for t, a in page.elements if t == "a"} <= set(ids)
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in page.having("scroll"))


def test_the_verdict_comes_before_everything_else(whole: tuple[Path, Any], html: str, page: Page) -> None:
    found = parse_results(json.loads((whole[0] / "results.json").read_text()))
    assert page.text("p", **{"class": "verdict"})[0].replace("\u00a0", " ") == verdict(found)
    assert html.index('class="verdict"') < html.index("<svg") < html.index("<table")
    assert baseline_verdict(found) in [text.replace("\u00a0", " ") for text in page.text("p")]


def test_the_page_says_how_to_repeat_the_run(whole: tuple[Path, Any], page: Page, tmp_path: Path) -> None:
    found = json.loads((whole[0] / "results.json").read_text())
    assert page.text("pre")[0] == "dpc run --output runs/demo"
    facts = dict(zip(page.text("dt"), page.text("dd"), strict=True))
    assert facts.pop("commit") == "5f0c2a91d6e84b7c3a1f9e0d2b4c6a8e7f5d3b1c, with changes that were not committed"
    assert facts == found["made_by"]["versions"]
    assert json.loads(page.text("pre")[1]) == json.loads((whole[0] / "run.json").read_text())["stages"]["eval"]
    found["made_by"]["source"] = {}
    assert "not recorded" in Page(page_of(found, tmp_path)).text("dd")[0]


def chart(page: Page, words: str) -> list[tuple[str, dict[str, str]]]:
    """Elements of the drawing whose description has ``words``."""
    start = next(i for i, (t, a) in enumerate(page.elements) if t == "svg" and words in a["aria-label"])
    return page.elements[start : page.ends[start]]


def test_accuracies_and_differences_are_drawn_with_the_numbers_of_the_results(
    whole: tuple[Path, Any], page: Page
) -> None:
    methods = json.loads((whole[0] / "results.json").read_text())["methods"]
    values = [float(a["data-value"]) for _, a in chart(page, "Accuracy:") if "data-value" in a]
    assert values == [100 * method["accuracy"] for method in methods.values()]
    values = [float(a["data-value"]) for _, a in chart(page, "Difference to prompt tuning") if "data-value" in a]
    assert values == [100 * methods[name]["versus_prompt_tuning"]["difference"] for name in ("pretrained", "dpc")]


def test_both_threshold_curves_are_drawn_and_the_chosen_threshold_is_marked_on_them(
    whole: tuple[Path, Any], page: Page
) -> None:
    found = json.loads((whole[0] / "results.json").read_text())
    dev, test = found["calibration"]["curve"], found["test_curve"]["points"]
    drawing = chart(page, "Trigger rate against the threshold")
    lines = [a["points"].split() for t, a in drawing if t == "polyline"]
    assert [len(line) for line in lines] == [len(dev), len(test)]
    for line in lines:
        heights = [float(place.split(",")[1]) for place in line]
        assert heights == sorted(heights)
    chosen = next(point for point in dev if point["tau"] == found["calibration"]["tau"])
    for words, key in (("Accuracy against", "accuracy"), ("Trigger rate against", "trigger_rate")):
        [dot] = [a for _, a in chart(page, words) if a.get("class") == "dot chosen"]
        assert float(dot["data-value"]) == 100 * chosen[key]
    # Without all second answers the accuracy of a low threshold isn't known, and isn't drawn.
    known = [point for point in test if point["accuracy"] is not None]
    accuracy = [a["points"].split() for t, a in chart(page, "Accuracy against") if t == "polyline"]
    assert len(known) < len(test)
    assert sum(map(len, accuracy)) == len(dev) + len(known)


def test_the_histogram_counts_every_judged_instance_once(whole: tuple[Path, Any], page: Page) -> None:
    own = whole[1]["dpc"]
    judged = [r for r in own if r.answer.decision is not None and r.answer.decision.judged]
    bars = [a for _, a in chart(page, "R of") if "data-count" in a]
    for kind, right in (("bar first", True), ("bar other", False)):
        counts = [int(a["data-count"]) for a in bars if a["class"] == kind]
        ratios = [r.answer.decision.statistic for r in judged if r.score_first.correct is right and r.answer.decision]
        bins = [sum(min(int(ratio * 20), 19) == i for ratio in ratios if ratio is not None) for i in range(20)]
        assert counts == bins


def test_the_table_of_costs_sums_the_records(whole: tuple[Path, Any], page: Page) -> None:
    own = [record.answer.cost for record in whole[1]["dpc"]]
    names = page.cells("th", "costs")[8:]
    cells = page.cells("td", "costs")[7 * names.index("DPC") :][:7]
    before = sum(record.answer.cost.forward_tokens for record in whole[1]["prompt_tuning"])
    forward = sum(cost.forward_tokens for cost in own)
    assert cells == [
        f"{forward:,.0f}",
        f"{forward / before:.2f}",
        f"{sum(cost.backward_tokens for cost in own):,.0f}",
        f"{sum(cost.forward_passes for cost in own):,}",
        f"{sum(cost.backward_passes for cost in own):,}",
        f"{sum(cost.generated_tokens for cost in own):,}",
        f"{sum(cost.seconds for cost in own):.1f}",
    ]


def test_what_the_scripts_are_told_is_what_the_records_say(whole: tuple[Path, Any], page: Page) -> None:
    found, made, data = json.loads((whole[0] / "results.json").read_text()), whole[1], data_of(page)
    assert [each["id"] for each in data["instances"]] == [record.example_id for record in made["dpc"]]
    for each, record, example in zip(data["instances"], made["dpc"], rows(N), strict=True):
        decision = record.answer.decision
        assert decision is not None
        assert (each["question"], each["gold"]) == (example.question, example.answer)
        assert each["first"]["text"] == record.answer.first.text
        assert [data["vocabulary"][place] for place in each["first"]["tokens"]] == tokens_of(record.answer.first.text)
        assert each["first"]["cut"] == (record.answer.first.finish == "length")
        assert (each["second"] or {}).get("text") == (record.answer.second.text if record.answer.second else None)
        final = each["second"] or each["first"]
        assert final["extracted"] == record.score_final.extracted
        told, evidence = each["decision"], decision.evidence
        assert (told["triggered"], told["threshold"]) == (decision.triggered, TAU)
        assert told["statistic"] == decision.statistic
        assert (told["judged"], told["trigger"], told["symbol"]) == (decision.judged, "flow", "R")
        for key in ("beta", "reason", "corruption", "accumulated"):
            assert told[key] == getattr(evidence, key)
        for key in ("influence", "profile"):
            values = getattr(evidence, key)
            assert told[key] == (None if values is None else list(values))
    versus = found["methods"]["dpc"]["versus_prompt_tuning"]
    outcomes = [each["outcome"] for each in data["instances"]]
    assert (outcomes.count("fixed"), outcomes.count("broken")) == (versus["fixed"], versus["broken"])
    assert min(versus["fixed"], versus["broken"]) > 0
    silent = sum(not (each["second"] or each["first"])["found"] for each in data["instances"])
    assert silent == found["methods"]["dpc"]["no_answer"] > 0
    assert sum("flow" in each for each in data["instances"]) == 2
    assert data["instances"][3]["answers"] == [
        [name, own[3].score_final.extracted, own[3].score_final.correct] for name, own in made.items()
    ]


def test_common_tokens_come_first_in_the_vocabulary_so_that_their_numbers_are_short(page: Page) -> None:
    data = data_of(page)
    used = [place for each in data["instances"] for place in each["first"]["tokens"]]
    counts = [used.count(place) for place in range(len(data["vocabulary"]))]
    assert counts == sorted(counts, reverse=True)


def test_influences_beyond_the_limit_are_left_out_and_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def instance(name: str, fires: bool) -> Instance:
        decision = Decision(fires, 0.5, 0.4, evidence=Evidence(beta=1.0, influence=(1.0,) * 10))
        one = Pass(Generation((), "", "eos"), Score(True, "1", "match"))
        return Instance(Example(name, "q", "1"), one, one if fires else None, decision)

    monkeypatch.setattr(page_data, "MOST_INFLUENCES", 20)
    told = payload([instance("a", False), instance("b", False), instance("c", True)], MethodSettings())["instances"]
    assert [each["decision"]["influence"] is not None for each in told] == [True, False, True]
    assert [each["decision"]["left_out"] for each in told] == [False, True, False]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str, page: Page, tmp_path: Path) -> None:
    write_run(tmp_path, retold(rows(N), text))
    found = put_everywhere(json.loads((tmp_path / "results.json").read_text()), text)
    found["methods"][text] = found["methods"]["pretrained"]
    found["made_by"]["versions"][text] = text
    (tmp_path / "results.json").write_text(json.dumps(found), encoding="utf-8")
    hostile = Page(write_page(tmp_path).read_text(encoding="utf-8"))
    # A row more in the tables and charts, and notes on what does not follow from the records.
    more = {"line", "circle", "text", "tr", "th", "td", "dt", "dd", "p", "span"}
    for tag in {tag for tag, _ in hostile.elements} - more:
        assert len(hostile.text(tag)) == len(page.text(tag)), tag
    notes = hostile.text("p", **{"class": "note"})
    assert f"{text} has no records: its figures are those of results.json, not checked." in notes
    names = {name for _, attributes in page.elements for name in attributes}
    assert {name for _, attributes in hostile.elements for name in attributes} == names
    assert hostile.text("title")[0] == f"Dynamic Prompt Corruption: {text} with {text}"
    assert text.replace("_", " ") in hostile.cells("th", "results")
    assert {each["question"] for each in data_of(hostile)["instances"]} == {text}
    assert data_of(hostile)["instances"][7]["id"] == f"{text} 7"


@settings(deadline=None, max_examples=30)
@given(
    st.recursive(
        st.text() | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_json_in_a_script_element_is_the_same_value_and_no_markup(value: Any) -> None:
    text = script_json(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)


def test_half_a_surrogate_pair_and_control_characters_do_not_stop_the_page(tmp_path: Path) -> None:
    write_run(tmp_path, retold(rows(N), "control \x00\x1b[31m"))
    known = json.loads((tmp_path / "vocabulary.json").read_text())
    (tmp_path / "vocabulary.json").write_text(json.dumps(dict.fromkeys(known, "half \ud83c")), encoding="utf-8")
    told = data_of(Page(write_page(tmp_path).read_text(encoding="utf-8")))
    assert told["instances"][0]["question"] == "control \x00\x1b[31m"
    assert told["vocabulary"] == ["half ?"]


def test_a_run_without_dpc_calibration_or_rows_has_a_page(records: dict[str, list[Record]], tmp_path: Path) -> None:
    page = Page(page_of(results_json(results(summarize({"pretrained": records["pretrained"]}))), tmp_path))
    assert page.text("h2") == ["Results", "Cost", "To repeat this run"]
    assert page.text("p", **{"class": "verdict"}) == ["DPC was not among the methods of this run."]
    assert page.text("script", type="application/json") == []
    assert len(page.text("figure")) == 1


def test_a_method_of_one_pass_can_be_followed(tmp_path: Path) -> None:
    write_run(tmp_path, rows(20))
    for name in ("dpc", "prompt_tuning"):
        (tmp_path / "records" / f"{name}.jsonl").unlink()
    each = data_of(Page(write_page(tmp_path).read_text(encoding="utf-8")))["instances"][0]
    assert each["outcome"] in ("right", "wrong")
    assert each["decision"] is None


def test_an_outcome_is_against_prompt_tuning_and_by_the_answer_that_counts() -> None:
    def told(before: bool | None, first: bool, second: bool, fires: bool, gold: str = "1") -> str:
        passes = [Pass(Generation((), "", "eos"), Score(right, "1", "match")) for right in (first, second)]
        return outcome(Instance(Example("a", "q", gold), *passes, Decision(fires, 0.5, 0.4), before))

    assert told(False, False, True, True) == "fixed"
    assert told(False, False, True, False) == "both_wrong"
    assert told(True, True, False, True) == "broken"
    assert told(True, False, True, True) == "both_right"
    assert told(None, False, True, True) == "right"
    assert told(None, False, True, False) == "wrong"
    assert told(None, False, True, True, gold="") == ""


def test_one_question_has_a_page_of_its_own() -> None:
    first, second = (Generation((1, 2), text, "eos") for text in ("a b", "a c"))
    evidence = Evidence(beta=1e-6, influence=(1e-6, 2e-6), profile=(1e-4,) * 4)
    decision = Decision(False, 0.25, 0.4, 3, evidence=evidence)
    graded = Score(False, "7", "mismatch")
    one = Instance(
        Example("question", HOSTILE[0], ""), Pass(first, graded, ("a", " b")), Pass(second, graded), decision
    )
    page = Page(trace_page(one, MethodSettings(), {"model": "zoo"}))
    [each] = data_of(page)["instances"]
    assert (each["question"], each["gold"], each["second"]["text"]) == (HOSTILE[0], None, "a c")
    assert (each["decision"]["triggered"], each["decision"]["key"]) == (False, 3)
    assert (page.text("dt"), page.text("dd")) == (["model"], ["zoo"])
    assert "connect-src" not in policy_of(page)


def test_a_live_page_may_ask_its_own_server_and_no_other() -> None:
    page = Page(live_page("start(1)").decode())
    assert policy_of(page)["connect-src"] == "'self'"
    [script] = page.text("script")
    assert policy_of(page)["script-src"] == sha256(script)
    assert script.rstrip().endswith("start(1)\n}")


def test_the_same_run_makes_the_same_page(whole: tuple[Path, Any], html: str) -> None:
    assert write_page(whole[0]).read_text(encoding="utf-8") == html


def test_the_command_writes_the_page_and_says_where(
    whole: tuple[Path, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (whole[0] / "report.html").unlink()
    assert run_command(["report", str(whole[0])]) == 0
    printed = capsys.readouterr()
    said = printed.out.splitlines()
    assert printed.err == ""
    assert said[1] == f"page: {(whole[0] / 'report.html').resolve().as_uri()}"
    assert (whole[0] / "report.html").is_file()
    assert run_command(["report", str(whole[0] / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
