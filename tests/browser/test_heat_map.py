"""The heat map, and the decision, of one instance in a real browser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpc.report import trace_page
from dpc.report.flow_data import Flow
from dpc.report.page_data import Instance, Pass
from dpc.settings import MethodSettings
from dpc.types import Decision, Evidence, Example, Generation, Score
from tests.browser.conftest import Browser
from tests.browser.looks import choose, decision, spelled
from tests.report.made_run import P, arrays

pytestmark = pytest.mark.browser


def test_the_heat_map_says_the_value_of_the_cell_that_keys_move_to(browser: Browser, page: str, run: Any) -> None:
    with np.load(run[0] / "maps" / "0.npz") as made:
        maps = dict(made)
    record = next(r for r in run[1] if r.example_id == str(maps["example_id"]))
    browser.open(page)
    choose(browser, record)
    browser.wait("$('.flow .map canvas')")
    error = float(re.search(r"±([\d.]+)%", browser.text(".legend"))[1]) / 100 + 0.006  # type: ignore[index]
    last, layer = maps["saliency"].shape[1] - 1, 1
    move = "const s = $('.flow input[type=range]'); s.value = arguments[0]; s.dispatchEvent(new Event('input'));"
    browser.run(move, layer)
    browser.run("$('.flow .map').focus()")
    for quantity in ("saliency", "attention"):
        browser.run("$(`.flow input[value=${arguments[0]}]`).click(); $('.flow .map').focus()", quantity)
        browser.press("HOME", *["ARROW_DOWN"] * 3, "ARROW_RIGHT", "ARROW_RIGHT", "ARROW_RIGHT")
        said = browser.text(".readout")
        assert f"reads virtual token 3: {quantity}" in said
        assert said.startswith(f"Layer {layer}: ")
        assert spelled(said) == pytest.approx(float(maps[quantity][layer, last, 3]), rel=error)
        browser.press("PAGE_UP")
        assert spelled(browser.text(".readout")) == pytest.approx(float(maps[quantity][layer + 1, last, 3]), rel=error)
        browser.press("PAGE_DOWN", "ARROW_UP", "ENTER")
        listed = browser.run("return $$('.reading li').map((each) => each.firstChild.data)")
        row = maps[quantity][layer, last - 1]
        assert [spelled(each) for each in listed] == pytest.approx(sorted(map(float, row), reverse=True)[:8], rel=error)
    assert "virtual token 3" in browser.text(".legend") or "no virtual token" in browser.text(".legend")
    browser.run("$(`.flow input[value=saliency]`).click()")
    assert browser.text(".marks").endswith("virtual token 3")


def test_a_heat_map_opens_on_the_layer_that_chose_the_key_token_and_marks_its_column(
    browser: Browser, page: str, run: Any
) -> None:
    with np.load(run[0] / "maps" / "0.npz") as made:
        maps = dict(made)
    record = next(r for r in run[1] if r.example_id == str(maps["example_id"]))
    key = decision(record).key_token
    assert key is not None
    shallow = [0, 1, 2]
    browser.open(page)
    choose(browser, record)
    browser.wait("$('.flow .map canvas')")
    chosen = max(shallow, key=lambda layer: maps["saliency"][layer, :, key].mean())
    assert browser.text(".slider output") == f"{chosen} of 4"
    assert browser.text(".key-column").endswith(f"virtual token {key}")
    # The frame of the column, and a column beside it without one.
    blues = browser.run(
        "const c = $('.map canvas'), cell = (c.clientWidth - 108 - 6) / arguments[0];"
        "const line = c.getContext('2d').getImageData(0, 300, c.width, 1).data;"
        "const edge = (column) => 4 * (Math.round(108 + column * cell) - 1);"
        "return [arguments[1], (arguments[1] + 3) % 16].map((at) => [...line.slice(edge(at), edge(at) + 3)])",
        maps["saliency"].shape[2],
        key,
    )
    assert blues[0] == [0x00, 0x67, 0xA8]
    assert blues[1] != blues[0]


def test_layer_curves_hold_the_means_of_the_map_and_choose_the_layer(browser: Browser, page: str, run: Any) -> None:
    with np.load(run[0] / "maps" / "0.npz") as made:
        maps = dict(made)
    record = next(r for r in run[1] if r.example_id == str(maps["example_id"]))
    browser.open(page)
    choose(browser, record)
    browser.wait("$('.side svg')")
    [_, [_, question_stop], _] = maps["spans"].tolist()
    for kind, part in (("first", slice(0, question_stop - P)), ("other", slice(question_stop - P, None))):
        values = browser.run("return $$(`.side .dot.${arguments[0]}`).map((each) => Number(each.dataset.value))", kind)
        assert values == pytest.approx(maps["saliency"][:, part, :P].mean(axis=(1, 2)).tolist(), rel=1e-3)
    browser.run(
        "const drawing = $('.side svg'), box = drawing.getBoundingClientRect();"
        "drawing.dispatchEvent(new MouseEvent('click', {clientX: box.right - 20, clientY: box.top + 80}))"
    )
    assert browser.text(".slider output") == "4 of 4"


def test_a_cell_under_the_pointer_is_the_cell_that_is_told(browser: Browser, page: str, run: Any) -> None:
    browser.open(page)
    browser.wait("$('.flow .map canvas')")
    point = (
        "const c = $('.overlay'), b = c.getBoundingClientRect(), cell = (b.width - 108 - 6) / arguments[0];"
        "const at = {clientX: b.left + 108 + 2.5 * cell, clientY: b.top + 100 + 0.5 * cell};"
        "c.dispatchEvent(new PointerEvent('pointermove', at)); c.dispatchEvent(new MouseEvent('click', at));"
    )
    chosen = browser.text(".instance h3 .foreign")
    with np.load(run[0] / "maps" / "0.npz") as made:
        assert str(made["example_id"]) == chosen
        columns = made["saliency"].shape[2]
    browser.run(point, columns)
    assert "(question 0) reads virtual token 2: saliency" in browser.text(".readout")
    assert "(question 0) read from" in browser.text(".reading h5")


def test_a_long_map_says_that_it_is_down_sampled(browser: Browser, tmp_path: Path) -> None:
    made = arrays([f" q{i}" for i in range(400)], [f" r{i}" for i in range(300)])
    (a, b, c) = [tuple(span) for span in made["spans"].tolist()]
    flow = Flow(made["saliency"], made["attention"], tuple(made["tokens"].tolist()), (a, b, c), (0, 1, 2, 3, 4))
    graded, text = Score(False, "7", "mismatch"), Generation((), "so 7", "eos")
    one = Instance(Example("question", "<b>7?</b>", ""), Pass(text, graded), decision=None, flow=flow)
    (tmp_path / "one.html").write_text(trace_page(one, MethodSettings()), encoding="utf-8")
    assert (tmp_path / "one.html").stat().st_size < 2_500_000
    browser.open((tmp_path / "one.html").as_uri())
    browser.wait("$('.flow .map canvas')")
    assert "Down-sampled: each cell is the largest of 3 × 3 positions, of 716." in browser.text(".plot")
    assert browser.text(".question") == "<b>7?</b>"
    assert browser.run("return $$('.grade').length") == 0


def test_the_statistic_of_another_trigger_is_shown_under_the_triggers_name(browser: Browser, tmp_path: Path) -> None:
    evidence = Evidence(corruption="every vector halved", more={"mean_log_prob": -1.25})
    own = Decision(True, 1.25, -0.5, trigger="likelihood", evidence=evidence)
    graded, text = Score(False, "7", "mismatch"), Generation((), "so 7", "eos")
    one = Instance(Example("question", "7?", "7"), Pass(text, graded), Pass(text, graded), own)
    (tmp_path / "one.html").write_text(trace_page(one, MethodSettings()), encoding="utf-8")
    browser.open((tmp_path / "one.html").as_uri())
    assert browser.text(".lead") == (
        "likelihood = 1.25 exceeds τ = −0.5: answered again with a corrupted prompt (every vector halved)."
    )
    values = browser.run("return $$('.instance svg [data-value]').map((each) => Number(each.dataset.value))")
    assert values == [1.25, -0.5]
    assert "mean_log_prob" in browser.text(".instance")


@pytest.mark.parametrize(
    ("decided", "words"),
    [
        (None, "This method answers once: there is no decision."),
        (
            Decision(False, None, 0.5, judged=False, evidence=Evidence(reason="rationale of 2 tokens")),
            "Not judged (rationale of 2 tokens): the first answer is kept.",
        ),
        (Decision(False, None, 0.5, trigger="random"), "Trigger “random”: the first answer is kept."),
        (Decision(False, 0.5, 0.5), "R = 0.50 does not exceed τ = 0.50: the first answer is kept."),
        (
            Decision(True, 0.502, 0.5, 3),
            "R = 0.5020 exceeds τ = 0.5000: answered again with a corrupted prompt (virtual token 3).",
        ),
        (
            Decision(True, -2.0, -1.7e308, trigger="own"),
            "own = −2 exceeds τ = −∞: answered again with a corrupted prompt.",
        ),
    ],
)
def test_a_decision_in_words(decided: Decision | None, words: str, browser: Browser, tmp_path: Path) -> None:
    one = Pass(Generation((), "so 7", "eos"), Score(True, "7", "match"))
    (tmp_path / "one.html").write_text(
        trace_page(Instance(Example("question", "7?", "7"), one, None, decided), MethodSettings()), encoding="utf-8"
    )
    browser.open((tmp_path / "one.html").as_uri())
    assert browser.text(".lead") == words
