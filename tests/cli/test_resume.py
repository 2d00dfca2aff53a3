"""A command that stopped goes on when it is given again; two commands never write one folder at once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dpc.cli import run_command
from dpc.cli.progress import Terminal
from dpc.run.reporter import Progress
from tests.cli.commands import SMALL, answers, uncalibrated


@contextmanager
def stopped(error: BaseException, stage: str, done: int) -> Iterator[None]:
    """Inside, ``error`` is raised once ``stage`` has ``done`` steps behind it; every record is kept at once."""

    def progress(terminal: Terminal, progress: Progress) -> None:
        if progress.stage == stage and progress.done >= done:
            raise error

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Terminal, "progress", progress)
        patched.setattr("dpc.run.evaluate._MOMENT", 0.0)
        yield


def test_an_interrupted_tuning_goes_on_by_the_same_command_to_the_same_prompt(
    rows: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["tune", "--output", str(tmp_path / "prompt"), "--data", str(rows), *SMALL]
    with stopped(KeyboardInterrupt(), "tune", 4):
        assert run_command(command) == 130
    assert "give the same command again to go on" in capsys.readouterr().err
    assert len((tmp_path / "prompt" / "history.jsonl").read_text().splitlines()) == 4
    assert not (tmp_path / "prompt" / "adapter_model.safetensors").exists()
    assert run_command(command) == 0
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "prompt" / name).read_bytes() == (run / "prompt" / name).read_bytes()
    steps = [json.loads(line)["step"] for line in (tmp_path / "prompt" / "history.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "prompt").glob("adapter*")}
    assert run_command(command) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    capsys.readouterr()
    assert run_command([*command, "--set", "tuning.seed=9"]) == 2
    assert "seed" in capsys.readouterr().err


def test_after_running_out_of_memory_a_smaller_batch_goes_on_with_the_same_records(
    rows: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", "--output", str(tmp_path), "--prompt", str(run / "prompt"), "--data", str(rows), "--limit", "9"]
    with stopped(RuntimeError("CUDA out of memory"), "dpc", 3):
        assert run_command([*command, "--set", "decoding.batch_size=16"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: out of memory; what was computed is kept")
    assert "--set decoding.batch_size=N" in told
    kept = {path: path.read_bytes() for path in (tmp_path / "records").iterdir()}
    assert {path.stem for path in kept} == {"pretrained", "prompt_tuning", "dpc"}
    assert not (tmp_path / "results.json").exists()
    smaller = [*command, "--set", "decoding.batch_size=2", "--set", "decoding.saliency_batch_size=1"]
    assert run_command(smaller) == 0
    for path, content in kept.items():
        assert path.read_bytes().startswith(content)
    for method in ("pretrained", "prompt_tuning", "dpc"):
        made = answers(tmp_path, method)
        assert len(made) == 9
        assert made.items() <= answers(run, method).items()
    stage = json.loads((tmp_path / "run.json").read_text())["stages"]["eval"]
    sizes = [each["recorded"]["decoding"]["batch_size"] for each in [stage, *stage["continued"]]]
    assert sizes == [16, 2]


def test_an_interrupted_calibration_goes_on_with_another_batch_size(rows: Path, run: Path, tmp_path: Path) -> None:
    prompt = uncalibrated(run, tmp_path)
    command = ["calibrate", "--prompt", str(prompt), "--data", str(rows)]
    with stopped(KeyboardInterrupt(), "calibrate", 10):
        assert run_command([*command, "--set", "decoding.batch_size=8"]) == 130
    records = prompt / "records" / "calibration.jsonl"
    kept = records.read_bytes()
    assert 10 <= kept.count(b"\n") < 24
    assert not (prompt / "calibration.json").exists()
    assert run_command([*command, "--set", "decoding.batch_size=3"]) == 0
    assert records.read_bytes().startswith(kept)
    ours, theirs = (json.loads((p / "calibration.json").read_text()) for p in (prompt, run / "prompt"))
    assert (ours["tau"], ours["curve"], ours["from"]) == (theirs["tau"], theirs["curve"], theirs["from"])


def test_how_answers_are_decoded_is_recorded_and_their_longest_length_is_part_of_the_run(
    rows: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", "--output", str(tmp_path), "--prompt", str(run / "prompt"), "--data", str(rows), "--limit", "4"]
    assert run_command([*command, "--methods", "dpc"]) == 0
    other = ["drafts=false", "draft_tokens=0", "local_trigger=false", "saliency_by_block=false", "slots=false"]
    settings = [text for setting in other for text in ("--set", f"decoding.{setting}")]
    assert run_command([*command, "--methods", "dpc", *settings]) == 0
    stage = json.loads((tmp_path / "run.json").read_text())["stages"]["eval"]
    assert [each["recorded"]["decoding"]["slots"] for each in [stage, *stage["continued"]]] == [True, False]
    capsys.readouterr()
    assert run_command([*command, "--methods", "dpc", "--set", "decoding.max_new_tokens=5"]) == 2
    assert "eval was begun with decoding.max_new_tokens = " in capsys.readouterr().err
    assert run_command([*command, "--methods", "dpc", "--set", "method.gamma=20", "--tau", "0.5"]) == 2


@pytest.fixture
def held(run: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the prompt in a folder that another process writes."""
    folder = uncalibrated(run, tmp_path)
    program = (
        "import sys; from pathlib import Path; from dpc.records.directory import RunDirectory\n"
        "with RunDirectory(Path(sys.argv[1]), 'dpc eval').lock():\n    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield folder
    process.communicate("")


def test_a_folder_that_another_command_writes_is_refused(
    held: Path, rows: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name for path in held.iterdir()}
    data = ["--data", str(rows)]
    commands = [
        ["tune", "--output", str(held), *data, *SMALL],
        ["calibrate", "--prompt", str(held), *data],
        ["calibrate", "--prompt", str(held), *data, "--method", "act"],
        ["eval", "--output", str(held), "--prompt", str(run / "prompt"), *data],
        ["run", "--output", str(held), *data, *SMALL],
    ]
    for command in commands:
        capsys.readouterr()
        assert run_command(command) == 2
        [line] = capsys.readouterr().err.strip().splitlines()
        assert line.startswith(f"error: {held}: process ")
        assert "(dpc eval) is writing it; wait until that ends, or choose another --output" in line
    assert {path.name for path in held.iterdir()} == before
