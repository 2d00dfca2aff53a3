"""docs/new-method.md, followed to the letter, on the embedded model with a prompt that was never tuned."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from dpc.cli import run_command
from dpc.engine import Decoder, Request
from dpc.flow.likelihood import token_log_probs
from dpc.methods import get_method
from dpc.model.lm import load_lm
from dpc.prompt.soft_prompt import init_prompt, load_adapter, save_adapter
from dpc.records.directory import RunDirectory
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "new-method.md").read_text("utf-8")
FILE = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)[0]
COMMANDS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)[0].splitlines()
ROWS = "6"


@pytest.fixture
def followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the page's file and a prompt, and the current directory."""
    (tmp_path / "mine.py").write_text(FILE, "utf-8")
    lm = load_lm("zoo")
    prompt = init_prompt(lm, 5, "sample-vocab", 0)
    save_adapter(prompt, lm, tmp_path / "runs/demo/prompt", {})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_of_the_page_run(followed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [command.split()[1] for command in COMMANDS] == ["calibrate", "eval", "trace"]
    assert run_command(["calibrate", "--prompt", "runs/demo/prompt", "--limit", ROWS]) == 0
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        assert program == "dpc"
        assert run_command([*arguments, *(() if "trace" in arguments else ("--limit", ROWS))]) == 0
    stored = json.loads(Path("runs/demo/prompt/calibration_surprise.json").read_text())
    assert (stored["trigger"], stored["n"]) == ("surprise", int(ROWS))
    shown = capsys.readouterr().out
    assert "attenuate unsure" in shown
    assert "surprise = " in shown
    assert "key token times 0.25" in shown


def test_the_method_does_what_its_page_says(followed: Path) -> None:
    command = "eval --prompt runs/demo/prompt --tau 0.02 --output runs/mine --methods mine.py:METHOD --limit"
    assert run_command([*command.split(), ROWS]) == 0
    lm = load_lm("zoo")
    prompt = load_adapter(lm, Path("runs/demo/prompt"))
    run = RunDirectory(Path("runs/mine"))
    assert run.methods() == ["attenuate_unsure"]
    examples = {example.id: example for example in run.read_examples()}
    records = run.records("attenuate_unsure").read()
    assert any(record.answer.second for record in records)
    for record in records:
        decision, first, second = record.answer.decision, record.answer.first, record.answer.second
        assert decision is not None
        question = lm.encode(f"Question: {examples[record.example_id].question}\nAnswer:")
        [log_probs] = token_log_probs(lm, prompt.vectors, [question], [first.ids])
        assert decision.statistic == pytest.approx(-float(log_probs.mean()), rel=1e-3)
        assert decision.triggered == (decision.statistic > 0.02)
        assert (second is None) == (not decision.triggered)
        if second is not None:
            vectors = prompt.vectors.clone()
            assert decision.key_token is not None
            vectors[decision.key_token] *= 0.25
            corrupted = type(prompt).of(vectors, prompt.base_model)
            [again] = Decoder(lm).all([Request(question, corrupted)], len(second.ids) + 1)
            assert again.ids[: len(second.ids)] == second.ids


def test_a_run_is_not_continued_with_another_version_of_the_file(
    followed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "eval",
        "--prompt",
        "runs/demo/prompt",
        "--tau",
        "0.1",
        "--output",
        "runs/mine",
        "--methods",
        "mine.py",
        "--limit",
        "2",
    ]
    assert run_command(command) == 0
    Path("mine.py").write_text(FILE.replace("0.25", "0.5"))
    assert run_command(command) == 2
    assert "method_attenuate_unsure was begun with source" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "--methods mine.py: no such file; expected a Python file with METHOD"),
        ("x = 1\n1 / 0\n", "mine.py:2: does not run (ZeroDivisionError: division by zero); mend the file"),
        ("x = 1\n", "mine.py: has no METHOD; end the file with METHOD = ..., as docs/new-method.md shows"),
        ("METHOD = 1\n", "mine.py: METHOD is no Method; write METHOD = Method(...); docs/new-method.md shows it"),
        (FILE.replace('name="attenuate_unsure"', 'name="Mine!"'), "does not run (UserError: method 'Mine!': expected"),
        (FILE.replace('name="attenuate_unsure"', 'name="dpc"'), "its method is called dpc, as one that ships with dpc"),
        ("import sys\nsys.exit(3)\n", "mine.py:2: does not run (SystemExit: 3); mend the file"),
    ],
)
def test_a_file_that_is_no_method_is_named_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: str | None,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("mine.py").write_text(content)
    assert run_command(["eval", "--methods", "mine.py", "--output", "run"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_method_of_a_file_carries_the_hash_of_the_file(followed: Path) -> None:
    assert len(get_method("mine.py:METHOD").source) == 64
    assert get_method("dpc").source == ""
