"""The lab in a real browser: what is typed and moved is what is traced, and nothing foreign runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dpc.cli.lab import answer, page
from dpc.cli.server import PageServer
from dpc.methods import get_method
from dpc.model.loading import load_lm
from dpc.prompt.soft_prompt import SoftPrompt, init_prompt, save_adapter
from dpc.run.session import Session
from dpc.settings import Settings
from dpc.tasks import get_task
from tests.browser.conftest import Browser
from tests.report.examples import HOSTILE

pytestmark = pytest.mark.browser

QUESTION = "Tom has 8 pens. In January Tom buys 5 pens. In February Tom loses 3 pens. How many pens does Tom have now?"
OWNED = "</script><script>owned=1</script><img src=x onerror=owned=1> 🙂 \u202eשבת"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    lm, folder = load_lm("zoo"), tmp_path_factory.mktemp("prompt")
    # Large enough for a change of it to change an answer.
    vectors = 3 * init_prompt(lm, 6, "random", 0).vectors
    save_adapter(SoftPrompt.of(vectors, lm.name), lm, folder, {})
    return Session(lm, get_task("zoo"), folder, Settings(), get_method("dpc"), 0.25)


@pytest.fixture
def server(session: Session) -> Iterator[PageServer]:
    made = PageServer(0, lambda token: page(session, token), lambda asked: answer(session, asked))
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def expected(session: Session, **changes: Any) -> dict[str, Any]:
    asked = {"question": QUESTION, "tau": 0.25, "gamma": 10, "token": None, "flow": False} | changes
    [instance] = answer(session, asked)["payload"]["instances"]
    return dict(instance)


def type_and_ask(browser: Browser, question: str) -> None:
    browser.run("$('#question').value = arguments[0]; $('.lab [type=submit]').click()", question)
    browser.wait("$('#result .question')?.textContent === arguments[0] && !$('#result').ariaBusy", question)


def move(browser: Browser, control: str, value: str) -> None:
    """Set a control as a user does, and wait until the answer to it is shown."""
    browser.run("$('#result').firstChild.id = 'before'")
    browser.run("$(arguments[0]).value = arguments[1]", control, value)
    browser.run("for (const e of ['input', 'change']) $(arguments[0]).dispatchEvent(new Event(e))", control)
    browser.wait("!$('#before') && !$('#result').ariaBusy")


def rationales(browser: Browser) -> list[str]:
    found: list[str] = browser.run("return $$('#result .pair .text').map((each) => each.textContent)")
    return found


def test_the_lab_asks_its_own_server_alone(browser: Browser, server: PageServer) -> None:
    browser.open(server.url)
    type_and_ask(browser, QUESTION)
    browser.wait("$('.flow canvas')")
    assert {url for url in browser.requests() if not url.startswith("data:")} == {server.url, f"{server.url}ask"}


def test_what_is_moved_is_what_is_shown(browser: Browser, server: PageServer, session: Session) -> None:
    browser.open(server.url)
    type_and_ask(browser, QUESTION)
    first = expected(session)
    assert rationales(browser) == [first["first"]["text"], first["second"]["text"]]
    browser.wait("$('.flow input[type=range]')")
    browser.run("$('.flow').id = 'kept'; const s = $('#kept input[type=range]'); s.value = '2'")

    passes: list[int] = []
    with session.lm.model.register_forward_pre_hook(lambda module, args: passes.append(1)):
        for tau in ("-0.01", "1"):
            move(browser, "#tau", tau)
            fires = expected(session, tau=float(tau))["decision"]["triggered"]
            assert fires == (tau == "-0.01")
            assert browser.text("#result .lead").startswith("R = ")
            assert ("answered again" in browser.text("#result .lead")) == fires
            assert ("Triggered" in browser.text("[role=status]")) == fires
    assert not passes

    token = (first["decision"]["key"] + 1) % 6
    move(browser, "#token", str(token))
    other = expected(session, token=token)
    assert other["second"]["text"] != first["second"]["text"]
    assert rationales(browser) == [other["first"]["text"], other["second"]["text"]]
    move(browser, "#gamma", "100")
    last = expected(session, gamma=100.0, token=token)
    assert last["second"]["text"] != other["second"]["text"]
    assert rationales(browser)[1] == last["second"]["text"]
    assert browser.run("return $('#kept input[type=range]').value") == "2"

    browser.run("$('.lab [type=button]').click()")
    browser.wait("arguments[0] === $$('#result .pair .text')[1]?.textContent", first["second"]["text"])
    assert browser.run("return [$('#tau').value, $('#gamma').value, $('#token').value]") == ["0.25", "10", ""]


@pytest.mark.parametrize("question", [OWNED, *HOSTILE])
def test_a_hostile_question_is_shown_as_it_is_and_never_runs(
    browser: Browser, server: PageServer, question: str
) -> None:
    browser.open(server.url)
    shown = browser.run(
        "const t = document.createElement('textarea'); t.value = arguments[0]; return t.value", question
    )
    type_and_ask(browser, shown)
    assert browser.text("#result .question") == shown
    assert browser.run("return typeof owned") == "undefined"


def test_the_keyboard_is_enough(browser: Browser, server: PageServer) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open(server.url)
    assert browser.run("return document.activeElement.id") == "question"
    browser.driver.switch_to.active_element.send_keys(QUESTION, Keys.CONTROL, Keys.ENTER)
    browser.wait("$('#result .instance')")
    browser.press("TAB", "TAB")
    assert browser.run("return document.activeElement.id") == "tau"
    browser.press("HOME")
    browser.wait("$('#result .lead').textContent.includes('answered again')")
    browser.press("TAB", "TAB")
    assert browser.run("return document.activeElement.id") == "token"
    browser.press("ARROW_DOWN")
    browser.wait("$('#result .lead').textContent.includes('virtual token 0')")
    assert browser.run("return $$('.lab input, .lab select, .lab textarea').every((each) => each.labels.length === 1)")


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_the_lab_fits_its_window(browser: Browser, server: PageServer, width: int, dark: bool) -> None:
    browser.open(server.url, width, dark=dark)
    type_and_ask(browser, QUESTION)
    browser.wait("$('.flow canvas')")
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")


def test_what_goes_wrong_is_said_and_the_next_question_answered(
    chromium: Browser, server: PageServer, session: Session
) -> None:
    chromium.open(server.url)
    chromium.run("$('#question').value = arguments[0]; $('.lab [type=submit]').click()", "many words " * 1000)
    chromium.wait("$('[role=alert]').textContent.includes('the context of zoo holds')")
    type_and_ask(chromium, QUESTION)
    assert chromium.run("return $('[role=alert]').textContent") == ""
    server.token = "another"
    chromium.run("$('.lab [type=submit]').click()")
    chromium.wait("$('[role=alert]').textContent.includes('load it again')")
    server.shutdown()
    server.server_close()
    chromium.run("$('.lab [type=submit]').click()")
    chromium.wait("$('[role=alert]').textContent.includes('is it still running?')")
    assert rationales(chromium)[0] == expected(session)["first"]["text"]
