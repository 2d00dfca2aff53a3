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
from dpc.model.loading import load_lm
from dpc.prompt.soft_prompt import init_prompt, load_adapter, save_adapter
from dpc.records.directory import RunDirectory
from tests.paths import ROOT

pytestmark = pytest.mark.xdist_group("new_method")

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


BAD = """
from dpc import Method
from dpc.methods.corruptions import KEY_TOKEN, Corruption
from dpc.methods.triggers import ALWAYS_TRIGGER, StatisticTrigger
from dpc.prompt.soft_prompt import SoftPrompt

def corrupt(change):
    return Method("bad", "bad", ALWAYS_TRIGGER, Corruption("bad", change))

def trigger(statistic):
    return Method("bad", "bad", StatisticTrigger("bad", statistic), KEY_TOKEN)

def shorten(prompt, traced):
    return SoftPrompt.of(prompt.vectors[:2], prompt.base_model)

def in_place(prompt, traced):
    prompt.vectors.zero_()
    return prompt
"""
EVAL = ["eval", "--prompt", "runs/demo/prompt", "--tau", "0.1", "--limit", "3", "--output"]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("corrupt(shorten)", r"corruption 'bad': gave \(2, 128\), expected a SoftPrompt of shape \(5, 128\)"),
        ("corrupt(lambda p, t: p.vectors)", "corruption 'bad': gave Tensor, expected a SoftPrompt"),
        ("corrupt(lambda p, t: SoftPrompt.of(p.vectors / 0, 'zoo'))", "gave vectors that are not finite numbers"),
        ("corrupt(lambda p, t: 1 / 0)", r"corruption 'bad': does not run \(ZeroDivisionError"),
        ("trigger(lambda first: float('nan'))", "trigger bad: its statistic is nan, expected a finite number"),
        ("trigger(lambda first: first.log_probs.mean())", "it did not ask for influence or likelihood"),
    ],
)
def test_a_method_that_fails_while_it_runs_is_named_in_one_line(
    followed: Path, capsys: pytest.CaptureFixture[str], method: str, message: str
) -> None:
    Path("bad.py").write_text(f"{BAD}\nMETHOD = {method}\n")
    assert run_command([*EVAL, "run", "--methods", "bad.py"]) == 2
    assert re.search(message, capsys.readouterr().err.splitlines()[-1])


def test_a_corruption_that_changes_its_prompt_changes_no_other_method(followed: Path) -> None:
    Path("bad.py").write_text(f"{BAD}\nMETHOD = corrupt(in_place)\n")
    assert run_command([*EVAL, "alone", "--methods", "all_corruption"]) == 0
    assert run_command([*EVAL, "both", "--methods", "bad.py,all_corruption"]) == 0
    alone, after = (
        {record.example_id: record.answer.second for record in RunDirectory(Path(run)).records("all_corruption").read()}
        for run in ("alone", "both")
    )
    assert alone == after
    zeros = load_adapter(load_lm("zoo"), Path("runs/demo/prompt"))
    for record in RunDirectory(Path("both")).records("bad").read():
        example = next(e for e in RunDirectory(Path("both")).read_examples() if e.id == record.example_id)
        lm = load_lm("zoo")
        vectors = type(zeros).of(zeros.vectors * 0, zeros.base_model)
        [second] = Decoder(lm).all([Request(lm.encode(f"Question: {example.question}\nAnswer:"), vectors)], 160)
        assert record.answer.second == second
