"""``dpc trace``: one question as text, JSON, arrays or a page, and hostile text as text in all of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from dpc.cli import run_command
from dpc.cli.terminal import BLOCKS
from dpc.methods.trace import BY_HAND
from dpc.model.loading import load_lm
from dpc.prompt.soft_prompt import init_prompt, save_adapter
from dpc.settings import MethodSettings
from tests.paths import PACKAGE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untuned prompt, without a calibration."""
    lm, path = load_lm("zoo"), tmp_path_factory.mktemp("prompt")
    save_adapter(init_prompt(lm, 6, "text", 0, "Tom has 8 pens."), lm, path, {})
    return path


ASKED = "Tom has 8 pens. In January Tom buys 5 pens. How many pens does Tom have now?"


def test_a_trace_is_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["trace", ASKED, "--prompt", str(folder), "--tau", "-1"]) == 0
    out = capsys.readouterr().out
    for words in ("tau = -1.000: triggered", "(counts)", "beta = ", "S_acc(j)", "^ p", " s: first answer"):
        assert words in out
    assert any(block in out for block in BLOCKS)
    assert "\x1b" not in out


def test_json_stands_alone_on_standard_output(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, numbers = tmp_path / "page.html", tmp_path / "numbers.npz"
    command = ["trace", ASKED, "--prompt", str(folder), "--tau", "-1", "--token", "2", "--set", "method.gamma=25"]
    assert run_command([*command, "--json", "--html", str(page), "--npz", str(numbers)]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert [line.split(":")[0] for line in printed.err.splitlines()[-2:]] == ["numbers", "page"]
    assert (found["method"], found["settings"]["gamma"], found["decision"]["masked_token"]) == ("dpc", 25.0, 2)
    assert found["decision"]["corruption"] == f"{BY_HAND}: masked, gamma 25 percent per vector"
    assert (found["decision"]["trigger"], found["decision"]["threshold"]) == ("flow", -1.0)
    assert found["decision"]["triggered"]
    assert found["decision"]["judged"]
    assert "".join(found["first"]["tokens"]) == found["first"]["text"]
    assert found["second"]["counts"]
    assert found["answer"] == found["second"]["answer"]
    with np.load(numbers) as arrays:
        prompt_stop, first = arrays["spans"][0, 1], arrays["spans"][2, 0] - arrays["spans"][1, 0]
        np.testing.assert_allclose(arrays["scores"], arrays["saliency"][:, :, :prompt_stop], rtol=1e-6)
        assert found["decision"]["influence"] == pytest.approx(arrays["s"].tolist(), rel=1e-3)
        assert found["prompt_to_rationale"] == pytest.approx(
            arrays["scores"][:, first:].mean((1, 2)).tolist(), rel=1e-4
        )
        assert not arrays["corrupted"][2].any()
        assert int(arrays["masked_token"]) == 2
    assert b'id="payload"' in page.read_bytes()


def test_a_hostile_question_is_text_on_the_page_and_in_the_terminal(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    asked = "</script><script>alert(1)</script> \x1b[31m 🙂 \u202eשבת"
    assert run_command(["trace", asked, "--prompt", str(folder), "--tau", "0.5", "--html", str(page)]) == 0
    assert "\x1b" not in capsys.readouterr().out
    html = page.read_text("utf-8")
    assert "<script>alert" not in html
    payload = re.search(r'<script type="application/json" id="payload">(.*?)</script>', html, re.S)
    assert payload is not None
    assert json.loads(payload[1])["instances"][0]["question"] == asked


def calibrated(folder: Path, target: Path, **changes: object) -> Path:
    """A copy of the prompt with a calibration beside it, made with other settings of the method where asked."""
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    sha256 = json.loads((folder / "dpc.json").read_text())["prompt_sha256"]
    method = MethodSettings.model_validate(changes).deciding()
    asked = {"format": "raw", "shots": []}
    made_from = {"prompt_sha256": sha256, "asked": asked, "method": method, "data": {"task": "zoo"}}
    curve = [{"tau": 0.25, "accuracy": 1.0, "trigger_rate": 0.0}]
    stored = {"tau": 0.25, "n": 1, "rows": [], "curve": curve, "from": made_from}
    (target / "calibration.json").write_text(json.dumps(stored))
    return target


def test_another_corruption_keeps_the_calibrated_threshold_and_says_so(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = calibrated(folder, tmp_path / "prompt", gamma=30)
    assert run_command(["trace", ASKED, "--prompt", str(target), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["decision"]["threshold"] == 0.25
    assert "note: tau was chosen with gamma 30.0" in printed.err


WEIGHTS = str(PACKAGE / "zoo" / "model" / "model.safetensors")
MISTAKES = {
    "no threshold": ([], "dpc calibrate"),
    "a token that is none": (["--tau", "0", "--token", "6"], "virtual token 6: expected one of the prompt's, 0 to 5"),
    "an unknown setting": (["--tau", "0", "--set", "method.gama=3"], "gama"),
    "a page that can't be written": (["--tau", "0", "--html", "/dev/null/page.html"], "cannot write"),
    "a page that is a folder": (["--tau", "0", "--html", "."], "--html .: is a folder"),
    "arrays over weights": (["--tau", "0", "--npz", WEIGHTS], "belongs to an adapter, a model or a run"),
    "a method of one pass": (
        ["--method", "prompt_tuning"],
        "expected a method with trigger and corruption, such as dpc",
    ),
    "an unknown method": (["--method", "dcp"], "did you mean dpc"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, named = MISTAKES[mistake]
    capsys.readouterr()
    assert run_command(["trace", ASKED, "--prompt", str(folder), *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.strip().splitlines()) == 1
    assert named in printed.err


def test_a_threshold_for_another_trigger_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = calibrated(folder, tmp_path / "prompt", head_reduction="sum_of_abs")
    assert run_command(["trace", ASKED, "--prompt", str(target)]) == 2
    assert "run `dpc calibrate` again" in capsys.readouterr().err
