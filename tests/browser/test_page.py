"""The page of a run in a real browser: it requests nothing, runs no text of a run, and shows what the records hold."""

from __future__ import annotations

import base64
import re
import shutil
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dpc.report import write_page
from tests.browser.conftest import OWNED, Browser
from tests.browser.looks import choose, decision, fired
from tests.report.examples import HOSTILE

pytestmark = pytest.mark.browser

MOST_BYTES, MOST_LOAD_MS, MOST_FILTER_MS = 10_000_000, 2000, 100


def test_the_page_requests_nothing_and_logs_nothing(browser: Browser, page: str) -> None:
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
    ratios = sorted((decision(r).statistic or 0 for r in wanted), reverse=True)
    assert browser.text(".browser [role=status]") == f"{len(wanted)} of 1,000 instances"
    by_id = {r.example_id: decision(r).statistic for r in wanted}
    shown = browser.run("return $$('[role=option] .foreign').map((each) => each.textContent)")
    assert [by_id[name] for name in shown] == ratios[: len(shown)]
    browser.run(change, "[type=search]", "nothing like this", "input")
    assert browser.text(".browser [role=status]") == "None of 1,000 instances fits"


def test_the_figures_of_an_instance_are_drawn_with_the_numbers_of_its_record(
    browser: Browser, page: str, run: Any
) -> None:
    browser.open(page)
    chosen = [r for r in run[1] if fired(r)][5:8] + [r for r in run[1] if not fired(r) and decision(r).statistic][:2]
    for record in chosen:
        choose(browser, record)
        own, evidence = decision(record), decision(record).evidence
        assert evidence.influence is not None
        values = browser.run(
            "return $$('.instance figure svg').map((svg) => [...svg.querySelectorAll('[data-value]')].map((each) => "
            "[each.getAttribute('class'), Number(each.dataset.value)]))"
        )
        influence, ratio = values[:2]
        assert [value for kind, value in influence if kind.startswith("bar")] == list(evidence.influence)
        assert [value for kind, value in influence if kind == "beta"] == [evidence.beta]
        late = len(evidence.influence) - len(evidence.influence) // 2
        assert len([kind for kind, _ in influence if kind == "bar chosen"]) / late == own.statistic
        assert [value for _, value in ratio] == [own.statistic, own.threshold]
        if own.triggered:
            profile = [(kind, value) for kind, value in values[2] if kind.startswith("bar")]
            assert [value for _, value in profile] == list(evidence.profile or ())
            assert [kind for kind, _ in profile].index("bar chosen") == own.key_token
            assert f"virtual token {own.key_token}, {evidence.corruption}" in browser.text(".lead")


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


@pytest.mark.parametrize("width", [1440, 390])
def test_no_width_needs_sideways_scrolling(browser: Browser, page: str, run: Any, width: int) -> None:
    browser.open(page, width)
    browser.wait("$('.flow .map canvas')")
    for record in run[1][:14]:
        choose(browser, record)
        assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run("return $('.verdict').getBoundingClientRect().top") < 900


def test_a_narrow_window_shows_the_difference_to_prompt_tuning_without_scrolling(browser: Browser, page: str) -> None:
    browser.open(page, 390)
    right = browser.run(
        "const at = $$('.results thead th').findIndex((each) => each.textContent.startsWith('vs prompt tuning'));"
        "return $$('.results tr').map((row) => row.children[at].getBoundingClientRect().right)"
    )
    assert max(right) <= 390
    heights = browser.run("return $$('.results tbody tr').map((row) => row.getBoundingClientRect().height)")
    assert max(heights) < 120


def luminance(colour: list[int]) -> float:
    return sum(colour[:3]) / 765


def test_figures_of_the_paper_are_dark_in_dark_mode_and_can_be_read(browser: Browser, run: Any, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(run[0], path)
    (path / "analysis").mkdir()
    drawing = (
        "<svg xmlns='http://www.w3.org/2000/svg' width='300' height='100'><rect width='300' height='100' fill='#fff'/>"
        "<rect x='100' width='100' height='100' fill='#1a1a1a'/>"
        "<rect x='200' width='100' height='100' fill='#2a78b8'/></svg>"
    )
    (path / "analysis" / "4a.svg").write_text(drawing)
    address = write_page(path).as_uri()
    for dark in (False, True):
        browser.open(address, dark=dark)
        browser.wait("$('img.paper')?.complete")
        browser.run("$('img.paper').scrollIntoView({block: 'center', behavior: 'instant'})")
        time.sleep(0.3)
        box = browser.run("const b = $('img.paper').getBoundingClientRect(); return [b.x, b.y]")
        shot = Image.open(BytesIO(base64.b64decode(browser.driver.get_screenshot_as_base64()))).convert("RGB")
        paper, ink, blue = (list(shot.getpixel((int(box[0]) + 13 + x, int(box[1]) + 60))) for x in (50, 150, 250))
        assert (luminance(paper) < 0.15) == dark
        assert abs(luminance(paper) - luminance(ink)) > 0.6
        assert blue[2] == max(blue)
        assert abs(luminance(paper) - luminance(blue)) > 0.2


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
