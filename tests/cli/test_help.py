"""Help, and mistakes that can be told at once, do not wait for torch."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dpc.cli import COMMANDS, run_command
from dpc.methods import METHODS


def test_help_and_version_are_quick() -> None:
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "dpc", "--help"], capture_output=True, text=True, check=True)
    assert "calibrate" in done.stdout
    # torch alone takes longer than this to import; the bound is wide because machines are busy.
    assert time.monotonic() - began < 2.0
    version = subprocess.run([sys.executable, "-m", "dpc", "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.startswith("dpc ")
    assert os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_the_bare_command_prints_its_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(arguments) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = printed.out.splitlines()
    assert lines[0].startswith("Usage: dpc")
    assert {line.split()[0] for line in lines if line.startswith("  ")} >= {*COMMANDS, "zoo"}
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("command", [*COMMANDS, "zoo"])
def test_every_command_has_help_by_either_name(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for option in ("-h", "--help"):
        assert run_command([command, option]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    assert shown[0].startswith(f"Usage: dpc {command}")


@pytest.mark.parametrize("command", ["run", "eval", "generate", "trace", "lab"])
def test_the_names_of_methods_are_in_the_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([command, "--help"]) == 0
    shown = "".join(capsys.readouterr().out.split())
    for name in METHODS:
        assert name in shown


MISTAKES = {
    "eval --output OUT --methods dcp": "did you mean dpc?",
    "eval --output OUT --prompt nowhere": "--prompt nowhere: no such folder",
    "eval --output OUT --model ./nowhere": "--model ./nowhere: no such folder",
    "eval --output OUT --set method.gama=20": "did you mean gamma?",
    "eval --output OUT --task gsm9k": "gsm8k",
    "eval --output OUT --data nowhere.jsonl --methods pretrained": "nowhere.jsonl",
    "eval --output OUT --methods nowhere.py:METHOD": "nowhere.py: no such file",
    "tune --output OUT --set tuning.lenght=9": "did you mean length?",
    "calibrate --prompt nowhere": "--prompt nowhere: no such folder",
    "calibrate --prompt . --split test": "--split test",
    "generate nowhere.jsonl --method pretrained": "nowhere.jsonl: can't be read",
    "generate x --prompt nowhere": "--prompt nowhere: no such folder",
    "trace Why? --prompt nowhere": "--prompt nowhere: no such folder",
    "trace Why? --prompt . --tau nan": "--tau nan",
    "trace Why? --prompt . --html .": "--html .: is a folder",
    "lab --prompt nowhere": "--prompt nowhere: no such folder",
    "run nothing --output OUT": "recipe nothing: no such file",
    "run --output OUT --json": "--dry-run",
    "run": "--output",
    "evaluate": "No such command",
}
PROGRAM = """
import sys
from dpc.cli import run_command
for line in sys.stdin.read().splitlines():
    code = run_command(line.split())
    print(code, "torch" in sys.modules or "transformers" in sys.modules, flush=True)
"""


def test_mistakes_that_need_no_model_are_told_before_torch_is_loaded(tmp_path: Path) -> None:
    commands = "\n".join(MISTAKES).replace("OUT", str(tmp_path / "out"))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=commands, capture_output=True, text=True, check=True, cwd=tmp_path
    )
    found = dict(zip(MISTAKES, done.stdout.splitlines(), strict=True))
    assert found == dict.fromkeys(MISTAKES, "2 False")
    for line, (command, message) in zip(done.stderr.splitlines(), MISTAKES.items(), strict=True):
        assert line.startswith("error: "), command
        assert message in line, command
    assert not list(tmp_path.iterdir())
