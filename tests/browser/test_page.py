"""The page of a run in a real browser: it asks for nothing, runs nothing foreign, and shows what the records hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpc.report import write_page, write_trace_page
from dpc.report.flow_data import Flow
from dpc.report.page_data import Instance, Pass
from dpc.types import Decision, Example, Generation, Record, Score
from tests.browser.conftest import Browser
from tests.report.examples import HOSTILE
from tests.report.made_run import P, arrays, rows, write_run

pytestmark = pytest.mark.browser

N = 1000
OWNED = [
    "<script>document.title='owned';owned=1</script>",
    "</script><script>owned=1</script>",
    "<img src=x onerror=owned=1>",
]
MOST_BYTES, MOST_LOAD_MS, MOST_FILTER_MS = 10_000_000, 2000, 100


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    path = tmp_path_factory.mktemp("run")
    made = write_run(path, rows(N, [*OWNED, *HOSTILE]))
    write_page(path)
    return path, made["dpc"]


@pytest.fixture(scope="module")
def page(run: tuple[Path, Any]) -> str:
    return (run[0] / "report.html").as_uri()


def decision(record: Record) -> Decision:
    assert record.answer.decision is not None
    return record.answer.decision


def fired(record: Record) -> bool:
    return decision(record).triggered


def choose(browser: Browser, record: Record) -> None:
    """Look at one instance, by its address."""
    browser.run("location.hash = 'instance=' + encodeURIComponent(arguments[0])", record.example_id)
    browser.wait("$('.instance h3 .foreign')?.textContent === arguments[0]", record.example_id)


def spelled(text: str) -> float:
    """A number as the page writes it."""
    found = re.search(r"([\d.]+)(?:\s×\s10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+))?$", text)
    assert found is not None, text
    exponent = (found[2] or "0").translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    return float(found[1]) * 10.0 ** int(exponent)


def test_the_page_asks_for_nothing_and_complains_of_nothing(browser: Browser, page: str) -> None:
    browser.open(page)
    browser.wait("$('.flow canvas')")
    assert {url for url in browser.requests() if not url.startswith("data:")} == {page}


def test_hostile_questions_are_shown_as_they_are_and_never_run(browser: Browser, page: str, run: Any) -> None:
    browser.open(page)
    title = browser.driver.title
    for record, text in zip(run[1], [*OWNED, *HOSTILE], strict=False):
        choose(browser, record)
        assert browser.text(".instance .question") == text
        browser.run("$('.instance').querySelectorAll('summary').forEach((each) => each.click())")
    assert browser.driver.title == title
    assert browser.run("return typeof owned") == "undefined"
    assert browser.run("return $$('script, img, iframe').length") == 2
    assert {url for url in browser.requests() if not url.startswith("data:")} == {page}


def test_filters_count_what_the_records_hold(browser: Browser, page: str, run: Any) -> None:
    browser.open(page)
    own, before = run[1], {r.example_id: r.score_first.correct for r in run[1]}
    wanted = {
        "fixed": [r for r in own if r.score_final.correct and not before[r.example_id]],
        "broken": [r for r in own if not r.score_final.correct and before[r.example_id]],
        "both_wrong": [r for r in own if not r.score_final.correct and not before[r.example_id]],
        "both_right": [r for r in own if r.score_final.correct and before[r.example_id]],
        "yes": [r for r in own if fired(r)],
        "no": [r for r in own if not fired(r)],
        "found": [r for r in own if r.score_final.reason == "no_answer"],
    }
    for value, records in wanted.items():
        assert records
        count = browser.run("return $(`input[value=${arguments[0]}] ~ .count`).dataset.count", value)
        assert int(count) == len(records), value
        browser.run("$(`input[value=${arguments[0]}]`).click()", value)
        assert browser.text(".browser [role=status]") == f"{len(records):,} of 1,000 instances"
        shown = browser.run("return $$('[role=option] .foreign').map((each) => each.textContent)")
        assert shown == [record.example_id for record in records][: len(shown)]
        assert shown
        browser.run("$$('input[value=\"\"], input[value=found]:checked').forEach((each) => each.click())")
    assert browser.text(".browser [role=status]") == "1,000 instances"


def test_filters_search_and_order_work_together(browser: Browser, page: str, run: Any) -> None:
    browser.open(page)
    browser.run("$('input[value=yes]').click()")
    change = "const each = $(arguments[0]); each.value = arguments[1]; each.dispatchEvent(new Event(arguments[2]));"
    browser.run(change, "[type=search]", " TEST/1", "input")
    browser.run(change, "select", "high", "change")
    wanted = [r for r in run[1] if fired(r) and "test/1" in r.example_id]
    ratios = sorted((decision(r).ratio or 0 for r in wanted), reverse=True)
    assert browser.text(".browser [role=status]") == f"{len(wanted)} of 1,000 instances"
    by_id = {r.example_id: decision(r).ratio for r in wanted}
    shown = browser.run("return $$('[role=option] .foreign').map((each) => each.textContent)")
    assert [by_id[name] for name in shown] == ratios[: len(shown)]
    browser.run(change, "[type=search]", "nothing like this", "input")
    assert browser.text(".browser [role=status]") == "None of 1,000 instances fits"


def test_the_figures_of_an_instance_are_drawn_with_the_numbers_of_its_record(
    browser: Browser, page: str, run: Any
) -> None:
    browser.open(page)
    chosen = [r for r in run[1] if fired(r)][5:8] + [r for r in run[1] if not fired(r) and decision(r).ratio][:2]
    for record in chosen:
        choose(browser, record)
        own = decision(record)
        values = browser.run(
            "return $$('.instance figure svg').map((svg) => [...svg.querySelectorAll('[data-value]')].map((each) => "
            "[each.getAttribute('class'), Number(each.dataset.value)]))"
        )
        influence, ratio = values[:2]
        assert [value for kind, value in influence if kind.startswith("bar")] == own.evidence["influence"]
        assert [value for kind, value in influence if kind == "beta"] == [own.evidence["beta"]]
        late = len(own.evidence["influence"]) - len(own.evidence["influence"]) // 2
        assert len([kind for kind, _ in influence if kind == "bar chosen"]) / late == own.ratio
        assert [value for _, value in ratio] == [own.ratio, own.threshold]
        if own.triggered:
            profile = [(kind, value) for kind, value in values[2] if kind.startswith("bar")]
            assert [value for _, value in profile] == own.evidence["profile"]
            assert [kind for kind, _ in profile].index("bar chosen") == own.key_token
            assert f"soft token {own.key_token} masked" in browser.text(".lead")


def test_both_rationales_stand_beside_each_other_with_their_differences_marked(
    browser: Browser, page: str, run: Any
) -> None:
    browser.open(page)
    record = next(r for r in run[1] if fired(r) and r.score_final.correct and not r.score_first.correct)
    choose(browser, record)
    texts = browser.run("return $$('.instance .pair .text').map((each) => each.textContent)")
    assert texts == [record.answer.first.text, record.answer.second.text]
    first, second = (
        browser.run("return $$(arguments[0]).map((each) => each.textContent)", f".instance {mark}")
        for mark in ("del", "ins")
    )
    for marked, text, other in ((first, texts[0], texts[1]), (second, texts[1], texts[0])):
        assert marked
        assert all(piece in text for piece in marked)
        # What is left of both without the marked words is the same.
        assert not all(piece in other for piece in marked)
    plain = (
        "return $$('.instance .pair .text').map((each) => "
        "[...each.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data).join(''))"
    )
    left = browser.run(plain)
    assert left[0] == left[1]
    extracted = browser.run("return $$('.graded strong').map((each) => each.textContent)")
    assert extracted == [record.score_first.extracted, record.score_final.extracted]
    assert browser.run("return $$('.graded .grade').map((each) => each.textContent)") == ["✗ wrong", "✓ right"]


def test_everything_can_be_done_with_keys_alone(browser: Browser, page: str, run: Any) -> None:
    browser.open(page)
    mapped = next(r for r in run[1] if fired(r))
    choose(browser, mapped)
    browser.run("$('[type=search]').focus()")
    for _ in range(12):
        browser.press("TAB")
        if browser.run("return document.activeElement.getAttribute('role') === 'listbox'"):
            break
    browser.press("HOME", "ARROW_DOWN", "ARROW_DOWN", "ARROW_UP")
    assert browser.text(".instance h3 .foreign") == run[1][1].example_id
    active = browser.run(
        "return document.getElementById($('[role=listbox]').getAttribute('aria-activedescendant'))?.textContent"
    )
    assert run[1][1].example_id in active
    browser.press("END")
    assert browser.text(".instance h3 .foreign") == run[1][-1].example_id
    assert browser.run("return $('[aria-selected=true]').getAttribute('aria-posinset')") == "1000"
    browser.press("ENTER")
    assert browser.run("return document.activeElement.tagName") == "H3"
    for _ in range(40):
        browser.press("TAB")
        if browser.run("return document.activeElement.classList.contains('back')"):
            break
    browser.press("ENTER")
    assert browser.run("return document.activeElement.getAttribute('role')") == "listbox"


def test_the_heat_map_says_the_value_of_the_cell_that_keys_move_to(browser: Browser, page: str, run: Any) -> None:
    with np.load(run[0] / "maps" / "0.npz") as made:
        maps = dict(made)
    record = next(r for r in run[1] if r.example_id == str(maps["example_id"]))
    browser.open(page)
    choose(browser, record)
    browser.wait("$('.flow .map canvas')")
    error = float(re.search(r"±([\d.]+)%", browser.text(".legend"))[1]) / 100 + 0.006  # type: ignore[index]
    last, layer = maps["saliency"].shape[1] - 1, 1
    browser.run("$('.flow .map').focus()")
    for quantity in ("saliency", "attention"):
        browser.run("$(`.flow input[value=${arguments[0]}]`).click(); $('.flow .map').focus()", quantity)
        browser.press("HOME", *["ARROW_DOWN"] * 3, "ARROW_RIGHT", "ARROW_RIGHT", "ARROW_RIGHT")
        said = browser.text(".readout")
        assert f"reads soft token 3: {quantity}" in said
        assert said.startswith(f"Layer {layer}: ")
        assert spelled(said) == pytest.approx(float(maps[quantity][layer, last, 3]), rel=error)
        browser.press("PAGE_UP")
        assert spelled(browser.text(".readout")) == pytest.approx(float(maps[quantity][layer + 1, last, 3]), rel=error)
        browser.press("PAGE_DOWN", "ARROW_UP", "ENTER")
        listed = browser.run("return $$('.reading li').map((each) => each.firstChild.data)")
        row = maps[quantity][layer, last - 1]
        assert [spelled(each) for each in listed] == pytest.approx(sorted(map(float, row), reverse=True)[:8], rel=error)
    assert "soft token 3" in browser.text(".legend") or "no soft token" in browser.text(".legend")
    browser.run("$(`.flow input[value=saliency]`).click()")
    assert browser.text(".marks").endswith("soft token 3")


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
    assert "(question 0) reads soft token 2: saliency" in browser.text(".readout")
    assert "(question 0) read from" in browser.text(".reading h5")


def test_a_long_map_says_that_it_is_down_sampled(browser: Browser, tmp_path: Path) -> None:
    made = arrays([f" q{i}" for i in range(400)], [f" r{i}" for i in range(300)])
    (a, b, c) = [tuple(span) for span in made["spans"].tolist()]
    flow = Flow(made["saliency"], made["attention"], tuple(made["tokens"].tolist()), (a, b, c), (0, 1, 2, 3, 4))
    graded, text = Score(False, "7", "mismatch"), Generation((), "so 7", "eos")
    one = Instance(Example("question", "<b>7?</b>", ""), Pass(text, graded), decision=None, flow=flow)
    write_trace_page(tmp_path / "one.html", one, k=2.0)
    assert (tmp_path / "one.html").stat().st_size < 2_500_000
    browser.open((tmp_path / "one.html").as_uri())
    browser.wait("$('.flow .map canvas')")
    assert "Down-sampled: each cell is the largest of 3 × 3 positions, of 716." in browser.text(".plot")
    assert browser.text(".question") == "<b>7?</b>"
    assert browser.run("return $$('.grade').length") == 0


@pytest.mark.parametrize("width", [1440, 390])
def test_no_width_needs_sideways_scrolling(browser: Browser, page: str, run: Any, width: int) -> None:
    browser.open(page, width)
    browser.wait("$('.flow .map canvas')")
    for record in run[1][:14]:
        choose(browser, record)
        assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run("return $('.verdict').getBoundingClientRect().top") < 900


def test_dark_is_dark_and_words_can_be_read_on_both(browser: Browser, page: str) -> None:
    seen = []
    for dark in (False, True):
        browser.open(page, dark=dark)
        browser.wait("$('.flow .map canvas')")
        colours = browser.run("const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]")
        paper, ink = (sum(map(int, re.findall(r"\d+", colour)[:3])) / 765 for colour in colours)
        assert abs(paper - ink) > 0.7
        seen.append(paper)
        pixel = browser.run(
            "const c = $('.map canvas'); return [...c.getContext('2d').getImageData(110, 102, 1, 1).data]"
        )
        assert pixel[3] == 255
    assert seen[0] > 0.9
    assert seen[1] < 0.15


def test_an_address_names_an_instance_and_follows_the_one_that_is_looked_at(
    browser: Browser, page: str, run: Any
) -> None:
    wanted = run[1][777].example_id
    browser.open(f"{page}#instance={wanted.replace('/', '%2F')}")
    assert browser.text(".instance h3 .foreign") == wanted
    browser.run("$('[role=listbox]').focus()")
    browser.press("ARROW_DOWN")
    browser.wait("location.hash === '#instance=' + encodeURIComponent(arguments[0])", run[1][778].example_id)


def test_every_control_and_every_drawing_has_a_name(browser: Browser, page: str) -> None:
    browser.open(page)
    browser.wait("$('.flow .map canvas')")
    nameless = "[...document.querySelectorAll('input, select')].filter((each) => !each.labels?.[0]?.textContent.trim())"
    assert browser.run(f"return {nameless}.length") == 0
    assert browser.run("return $$('svg[role=img]').every((each) => each.getAttribute('aria-label').length > 20)")
    assert browser.run("return $$('svg').length === $$('svg[role=img]').length")
    assert browser.run("return $$('figure figcaption').every((each) => each.textContent.trim().length > 5)")
    assert browser.run("return $$('[tabindex=\"0\"]').every((each) => each.getAttribute('aria-label'))")
    browser.run("$$('.instance summary').forEach((each) => each.click())")
    assert browser.wait("$$('.instance .numbers table').length") == browser.run(
        "return $$('.instance .numbers').length"
    )


def test_the_page_of_a_thousand_instances_is_small_and_quick(browser: Browser, page: str, run: Any) -> None:
    assert (run[0] / "report.html").stat().st_size < MOST_BYTES
    loads, filters = [], []
    for _ in range(3):
        browser.open(page)
        browser.wait("$('.flow .map canvas')")
        timing = "const t = performance.getEntriesByType('navigation')[0]; return t.loadEventEnd - t.startTime"
        loads.append(browser.run(timing))
        for value in ("fixed", "both_right", "broken"):
            filters.append(
                browser.run(
                    "const began = performance.now(); $(`input[value=${arguments[0]}]`).click();"
                    "document.body.offsetHeight; return performance.now() - began",
                    value,
                )
            )
        filters.append(
            browser.run(
                "const s = $('[type=search]'), began = performance.now(); s.value = 'tom'; "
                "s.dispatchEvent(new Event('input')); document.body.offsetHeight; return performance.now() - began"
            )
        )
    # The best of a few: what else the machine does is no property of the page.
    assert min(loads) < MOST_LOAD_MS
    assert sorted(filters)[len(filters) // 2] < MOST_FILTER_MS
    assert browser.run("return $$('[role=option]').length") < 40
