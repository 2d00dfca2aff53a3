"""The page of a run: its numbers follow from the records, the tuning curve is there, figures say what they show."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dpc.cli import run_command
from dpc.records.directory import RunDirectory
from dpc.records.results import read_results
from dpc.report import read_run, trace_page, verdict, write_page
from dpc.report.formats import threshold_words
from dpc.report.page_data import Instance, Pass, payload
from dpc.report.tuning_curve import MOST_POINTS, TuningCurve, Update, tuning_section
from dpc.settings import MethodSettings
from dpc.types import Decision, Evidence, Example, Generation, Record, Score
from tests.report.examples import HOSTILE, Page
from tests.report.examples import page_of as page_of_results
from tests.report.made_run import rows, write_history, write_run

N = 60


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, dict[str, list[Record]]]:
    return tmp_path, write_run(tmp_path, rows(N))


def page_of(run: Path) -> Page:
    return Page(write_page(run).read_text(encoding="utf-8"))


def test_an_edited_accuracy_is_not_believed(
    run: tuple[Path, dict[str, list[Record]]], capsys: pytest.CaptureFixture[str]
) -> None:
    path, made = run
    honest = page_of(path)
    value = json.loads((path / "results.json").read_text())
    value["methods"]["dpc"]["accuracy"] = 0.999
    value["methods"]["dpc"]["versus_prompt_tuning"] |= {"difference": 0.4, "p_holm": 0.0}
    (path / "results.json").write_text(json.dumps(value))
    page = page_of(path)
    assert page.cells("td", "results") == honest.cells("td", "results")
    assert page.text("p", **{"class": "verdict"}) == honest.text("p", **{"class": "verdict"})
    [note] = [text for text in page.text("p", **{"class": "note"}) if "results.json has" in text]
    right = sum(record.score_final.correct for record in made["dpc"]) / N
    assert f"methods.dpc.accuracy = 0.999, the records give {right:.6g}" in note
    assert "(3 figures differ)" in note
    assert run_command(["report", str(path)]) == 0
    printed = capsys.readouterr()
    assert printed.err == f"note: {note[:-1]}\n"
    assert printed.out.splitlines()[0] == verdict(read_run(path).results)


def test_results_that_were_just_computed_are_not_computed_again(
    run: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = read_results(run[0] / "results.json")
    before = write_page(run[0]).read_bytes()
    monkeypatch.setattr("dpc.report.run_data.recompute", lambda *_: pytest.fail("was computed again"))
    assert write_page(run[0], fresh).read_bytes() == before


def points_of(page: Page, words: str) -> list[int]:
    """Points of each line of the drawing whose description begins with ``words``."""
    start = next(i for i, (t, a) in enumerate(page.elements) if t == "svg" and a["aria-label"].startswith(words))
    inside = page.elements[start : page.ends[start]]
    return [len(a["points"].split()) for tag, a in inside if tag == "polyline"]


def test_the_tuning_curve_is_on_the_page(run: tuple[Path, Any]) -> None:
    page = page_of(run[0])
    assert "Tuning of the soft prompt" in page.text("h2")
    assert points_of(page, "Loss of tuning by update: 1.100 at update 1, 0.103 at update 300") == [150, 6]
    assert points_of(page, "Accuracy on the dev rows by update, at most 80.0%") == [6]
    assert "kept: update 300" in page.text("text")
    RunDirectory(run[0]).history.unlink()
    assert "Tuning of the soft prompt" not in page_of(run[0]).text("h2")


@pytest.mark.parametrize("count", [1, 2, MOST_POINTS, 7 * MOST_POINTS + 3])
def test_a_tuning_curve_of_any_length_is_drawn_with_few_points(count: int) -> None:
    updates = [Update(step, 1.0 / step) for step in range(1, count + 1)]
    found = tuning_section(TuningCurve(updates, None))
    assert found is not None
    [(svg, _)] = found["charts"]
    points = svg.split('points="')[1].split('"')[0].split() if count > 1 or "points=" in svg else []
    assert len(points) <= MOST_POINTS
    assert found["averaged"] == (count > MOST_POINTS)


def test_a_tuning_curve_without_loss_or_without_a_right_answer_is_drawn() -> None:
    found = tuning_section(TuningCurve([Update(1, 0.0, 0.0, 0.0), Update(2, 0.0, 0.0, 0.0)], 1))
    assert found is not None
    assert len(found["charts"]) == 2


def test_a_torn_last_line_of_the_history_is_ignored(run: tuple[Path, Any]) -> None:
    write_history(RunDirectory(run[0]).history, 100)
    with RunDirectory(run[0]).history.open("a") as file:
        file.write('{"step": 101, "lo')
    found = read_run(run[0]).tuning
    assert found is not None
    assert len(found.updates) == 100


def test_a_figure_says_which_instances_it_shows_and_whether_they_are_those_of_the_run(run: tuple[Path, Any]) -> None:
    path = run[0]
    evaluated = json.loads((path / "run.json").read_text())["stages"]["eval"]["from"]
    (path / "analysis").mkdir()
    made = {"instances": 20, "seed": 3, "data": evaluated["data"], "method": evaluated["method"]}
    figures = {"2a": {"from": made}, "4b": {"from": made | {"data": {"sha256": "1" * 64}}}, "6": {"caption": "So."}}
    for name in figures:
        (path / "analysis" / f"{name}.svg").write_text("<svg/>")
    (path / "analysis" / "analysis.json").write_text(json.dumps({"figures": figures}))
    drawn = "Drawn with --instances 20 --seed 3."
    stale = "It shows other answers than this run has now: draw it again with dpc analyze."
    assert page_of(path).text("figcaption")[-3:] == [drawn, f"{drawn} {stale}", "So."]


def own_decision(**changes: Any) -> Decision:
    more = {"mean_log_prob": -0.5}
    decision = Decision(True, 0.5, 0.25, trigger="likelihood", evidence=Evidence(corruption="attenuated", more=more))
    return replace(decision, **changes)


def instance(decision: Decision | None) -> Instance:
    one = Pass(Generation((1,), "so 7", "eos"), Score(True, "7", "match"))
    return Instance(Example("a", "7?", "7"), one, one if decision and decision.triggered else None, decision)


def test_the_statistic_of_another_trigger_has_the_triggers_name() -> None:
    [told] = payload([instance(own_decision())], MethodSettings())["instances"]
    decision = told["decision"]
    assert (decision["symbol"], decision["statistic"], decision["threshold"]) == ("likelihood", 0.5, 0.25)
    assert (decision["corruption"], decision["more"]) == ("attenuated", {"mean_log_prob": -0.5})
    assert "likelihood" in trace_page(instance(own_decision()), MethodSettings())


def test_whether_an_answer_was_judged_is_read_from_the_decision_alone() -> None:
    short = Decision(False, None, 0.5, judged=False)
    always = Decision(True, None, -1.0, trigger="always", evidence=Evidence(reason=None))
    told = [each["decision"] for each in payload([instance(short), instance(always)], MethodSettings())["instances"]]
    assert [each["judged"] for each in told] == [False, True]


@pytest.mark.parametrize(
    ("threshold", "trigger", "words"),
    [
        (0.25, "flow", "0.25"),
        (-1.0, "flow", "−1 (always)"),
        (1.0, "flow", "1 (never)"),
        (1.0, "likelihood", "1"),
        (-2.5, "likelihood", "−2.5"),
        (1.7976931348623157e308, "likelihood", "never"),
        (-1.7976931348623157e308, "likelihood", "always"),
    ],
)
def test_a_threshold_in_words(threshold: float, trigger: str, words: str) -> None:
    assert threshold_words(threshold, trigger) == words


@pytest.mark.parametrize("text", [HOSTILE[0], "Saliency <i>shallow</i>"])
def test_figures_of_the_paper_are_pictures_that_can_run_nothing(
    text: str, full: dict[str, Any], tmp_path: Path
) -> None:
    page_of_results(full, tmp_path)
    drawing = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'><script>alert(1)</script></svg>"
    (tmp_path / "analysis").mkdir()
    for name in ("2a", "4b"):
        (tmp_path / "analysis" / f"{name}.svg").write_bytes(drawing)
    words = {"figures": {"2a": {"title": text, "finding": "It peaks.", "caption": f"{text}."}}}
    (tmp_path / "analysis" / "analysis.json").write_text(json.dumps(words), encoding="utf-8")
    page = Page(write_page(tmp_path).read_text(encoding="utf-8"))
    pictures = page.having("paper")
    assert [base64.b64decode(a["src"].removeprefix("data:image/svg+xml;base64,")) for a in pictures] == [drawing] * 2
    assert [a["alt"] for a in pictures] == [f"Figure 2a. {text}. It peaks.", "Figure 4b"]
    assert page.text("h3") == [f"Figure 2a. {text}", "Figure 4b"]
    assert f"{text}." in page.text("figcaption")
    assert len(page.text("script")) == 1


def test_what_the_table_leaves_out_is_noted(full: dict[str, Any], tmp_path: Path) -> None:
    full["methods"]["prompt_tuning"]["no_answer"] = 12
    full["methods"]["dpc"]["trigger"]["not_judged"] = 4
    notes = Page(page_of_results(full, tmp_path)).text("p", **{"class": "note"})
    assert "Counted as wrong because no answer could be read: prompt tuning 12." in notes
    assert "Rationales too short for the trigger to judge: DPC 4." in notes
