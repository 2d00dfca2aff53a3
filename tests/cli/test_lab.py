"""``dpc lab``: what the page asks is what is traced, by any method of two passes."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch

from dpc.cli import run_command
from dpc.cli.lab import answer, page
from dpc.cli.server import HOST, TOKEN_HEADER
from dpc.errors import UserError
from dpc.methods import get_method
from dpc.methods.corruptions import Corruption
from dpc.methods.method import Method
from dpc.methods.triggers import StatisticTrigger
from dpc.model.loading import load_lm
from dpc.prompt.soft_prompt import SoftPrompt, init_prompt, save_adapter
from dpc.report.document import script_json
from dpc.run.session import Session
from dpc.settings import Settings
from dpc.tasks import get_task


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lm = load_lm("zoo")
    path = tmp_path_factory.mktemp("prompt")
    save_adapter(init_prompt(lm, 6, "text", 0, "Tom has 8 pens."), lm, path, {})
    return path


@pytest.fixture(scope="module")
def session(folder: Path) -> Session:
    return Session(load_lm("zoo"), get_task("zoo"), folder, Settings(), get_method("dpc"))


QUESTION = "Tom has 8 pens. In January Tom buys 5 pens. How many pens does Tom have now?"


def shown(session: Session, **changes: Any) -> dict[str, Any]:
    asked = {"question": QUESTION, "tau": 0.5, "gamma": 10, "token": None, "flow": True} | changes
    found = answer(session, asked)
    [instance] = found["payload"]["instances"]
    return instance | {"most": found["key"]}


def test_the_lab_shows_what_the_controls_change(session: Session) -> None:
    first = shown(session)
    assert first["flow"]["groups"][0][2] == 6
    passes: list[int] = []
    with session.lm.model.register_forward_pre_hook(lambda module, args: passes.append(1)):
        always, never = shown(session, tau=-1, flow=False), shown(session, tau=1)
    assert not passes
    decided = [each["decision"] for each in (first, always, never)]
    assert [each["triggered"] for each in decided[1:]] == [True, False]
    assert "flow" not in always
    assert len({each["statistic"] for each in decided}) == 1
    key = decided[0]["key"]
    assert key == first["most"] == int(torch.tensor(decided[0]["profile"]).argmax())
    other = shown(session, token=(key + 1) % 6, gamma=100.0)
    assert other["decision"]["key"] == (key + 1) % 6
    assert other["first"] == first["first"]
    assert other["second"] != first["second"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": " "}, "the question is empty"),
        ({"question": 7}, "question: input should be a valid string"),
        ({"question": "\ud800"}, "question"),
        ({"question": "a" * 20_001}, "question: string should have at most 20000 characters"),
        ({"question": "word " * 3000}, "the context of zoo holds"),
        ({"tau": float("nan")}, "tau: input should be a finite number"),
        ({"tau": "0.5"}, "tau: input should be a valid number"),
        ({"gamma": 101}, "gamma: input should be less than or equal to 100"),
        ({"token": 6}, "virtual token 6: expected one of the prompt's, 0 to 5"),
        ({"token": True}, "token: input should be a valid integer"),
        ({"more": 1}, "more: extra inputs are not permitted"),
    ],
)
def test_a_question_that_is_none_is_refused(session: Session, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        shown(session, **changes)
    assert shown(session)["question"] == QUESTION


def settings_of(html: bytes) -> dict[str, Any]:
    """What the page's script knows of the lab."""
    found: dict[str, Any] = json.loads(re.findall(rb"const LAB = (\{.*?\});", html)[0])
    return found


def test_the_lab_shows_a_method_whose_corruption_fixes_gamma_as_it_is(folder: Path) -> None:
    session = Session(load_lm("zoo"), get_task("zoo"), folder, Settings(), get_method("key_only"), 0.25)
    known = settings_of(page(session, "t"))
    assert (known["gamma"], known["tau"], known["origin"]) == (0.0, 0.25, "given")
    assert (known["movesTau"], known["movesCorruption"]) == (True, True)
    untouched = shown(session, gamma=known["gamma"])["decision"]["corruption"]
    assert untouched == "largest S_acc, others not pruned: masked, gamma 0 percent per vector"
    assert "masked, gamma 30 percent" in shown(session, gamma=30)["decision"]["corruption"]


def test_the_lab_shows_a_method_of_ones_own_with_its_own_threshold(folder: Path) -> None:
    doubt = StatisticTrigger("doubt", lambda first: 7.0, symbol="D")
    halved = Corruption("halved", lambda p, _: SoftPrompt.of(p.vectors / 2, p.base_model), token=None)
    method = Method("halving", "half of it", doubt, halved)
    session = Session(load_lm("zoo"), get_task("zoo"), folder, Settings(), method, 6.5)
    known = settings_of(page(session, "t"))
    assert (known["movesTau"], known["movesCorruption"]) == (False, False)
    decision = shown(session, tau=None, gamma=None)["decision"]
    assert (decision["triggered"], decision["statistic"], decision["threshold"]) == (True, 7.0, 6.5)
    assert (decision["corruption"], decision["key"]) == ("halved", None)
    with pytest.raises(UserError, match="takes neither a token nor gamma"):
        shown(session, tau=None, gamma=20)
    without = Session(load_lm("zoo"), get_task("zoo"), folder, Settings(), method)
    with pytest.raises(UserError, match="no threshold beside it; run `dpc calibrate` first, or pass --tau"):
        shown(without, tau=None, gamma=None)


def test_a_method_of_one_pass_has_no_lab(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["lab", "--prompt", str(folder), "--method", "prompt_tuning"]) == 2
    assert "--method prompt_tuning: does not corrupt the prompt" in capsys.readouterr().err


def test_the_page_brings_its_script_and_names_it_in_its_policy(session: Session) -> None:
    html = page(session, "</script><b>").decode()
    assert script_json("</script><b>") in html
    [policy] = re.findall(r'<meta http-equiv="Content-Security-Policy" content="(.*?)">', html)
    assert {"default-src 'none'", "connect-src 'self'"} <= set(unescape(policy).split("; "))
    assert html.count("<script>") == 1
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", html)


def test_the_command_serves_until_ctrl_c(folder: Path) -> None:
    command = [sys.executable, "-m", "dpc", "lab", "--prompt", str(folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    port = int(line.split(":")[3].split("/")[0])
    with closing(http.client.HTTPConnection(HOST, port, timeout=20)) as connection:
        connection.request("GET", "/")
        html = connection.getresponse().read()
        token = settings_of(html)["token"]
        asked = json.dumps({"question": QUESTION, "tau": 0.5, "gamma": 10})
        connection.request("POST", "/ask", asked, {TOKEN_HEADER: token, "Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200
        assert json.loads(response.read())["payload"]["instances"][0]["question"] == QUESTION
    with closing(http.client.HTTPConnection(HOST, port, timeout=20)) as connection:
        # In the middle of an answer.
        asked = json.dumps({"question": "Tom has 9 pens. " * 20, "tau": 0.5, "gamma": 10})
        connection.request("POST", "/ask", asked, {TOKEN_HEADER: token, "Content-Type": "application/json"})
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")


def test_a_port_in_use_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        assert run_command(["lab", "--prompt", str(folder), "--port", str(port)]) == 2
    assert capsys.readouterr().err.strip().startswith(f"error: --port {port}: Address already in use")
