"""A run that is stopped anywhere continues to the same end; it never mixes two recipes; seeds are complete runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import dpc.files
from dpc.cli import run_command
from dpc.records.directory import RecordFile, RunDirectory, file_sha256
from dpc.records.results import read_results
from dpc.records.seeds import parse_seeds
from tests.tiny_rows import TEST, write_model, write_rows

pytestmark = pytest.mark.xdist_group("runs_last")

# Answers of a few tokens, a prompt of a few updates: a whole run in a second.
SMALL = [
    *("--set", "tuning.steps=4", "--set", "tuning.length=4", "--set", "tuning.evaluate_every=2"),
    *("--set", "tuning.checkpoint_seconds=0", "--set", "decoding.max_new_tokens=6", "--set", "decoding.batch_size=3"),
    *("--set", "act.rows=2", "--set", "act.max_heads=2"),
    *("--methods", "pretrained,prompt_tuning,act,dpc,all_corruption", "--no-analyze", "--dtype", "float32"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows("gsm8k", tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def command(model: Path, rows: Path) -> list[str]:
    return ["run", "--model", str(model), "--task", "gsm8k", "--data", str(rows), *SMALL]


@pytest.fixture(scope="module")
def whole(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupted."""
    output = tmp_path_factory.mktemp("whole") / "run"
    assert run_command([*command, "--output", str(output)]) == 0
    return output


class Killed(BaseException):
    """What no handler of an ordinary interrupt sees, as little as a kill."""


@contextmanager
def stopped_at(number: int) -> Iterator[Callable[[], int]]:
    """Die at the so-manieth change of a file, before it is made; yields how many there have been."""
    seen = 0

    def count() -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            raise Killed

    write, append = dpc.files.os.fsync, RecordFile.append

    def append_after_counting(self: RecordFile, records: Any) -> None:
        count()
        append(self, records)

    def sync(descriptor: int) -> None:
        count()
        write(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        # Every file that is replaced whole is synced first; records are appended one at a time.
        patch.setattr("dpc.files.os.fsync", sync)
        patch.setattr(RecordFile, "append", append_after_counting)
        patch.setattr("dpc.run.evaluate._MOMENT", 0.0)
        yield lambda: seen


def end_of(run: Path) -> dict[str, Any]:
    """Everything that a run's figures stand on. Not: seconds and passes, which depend on who shares a batch."""
    found: dict[str, Any] = {"prompt": file_sha256(run / "prompt" / "adapter_model.safetensors")}
    for path in sorted((run / "records").glob("*.jsonl")):
        records = sorted(RecordFile(path).read(), key=lambda record: record.example_id)
        found[path.stem] = [
            (r.example_id, r.answer.first, r.answer.second, r.score_first, r.score_final) for r in records
        ]
    results = json.loads((run / "results.json").read_text())
    found["accuracy"] = {name: method["accuracy"] for name, method in results["methods"].items()}
    found["tau"] = json.loads((run / "prompt" / "calibration.json").read_text())["tau"]
    found["heads"] = json.loads((run / "prompt" / "act.json").read_text())["heads"]
    stages = json.loads((run / "run.json").read_text())["stages"]
    return found | {name: stage["from"] for name, stage in stages.items() if name != "search"}


def changes_of_a_whole_run(command: list[str], folder: Path) -> int:
    with stopped_at(0) as seen:
        assert run_command([*command, "--output", str(folder)]) == 0
        return seen()


def test_a_run_that_is_killed_anywhere_goes_on_to_the_same_end(command: list[str], whole: Path, tmp_path: Path) -> None:
    changes = changes_of_a_whole_run(command, tmp_path / "counted")
    expected = end_of(whole)
    assert end_of(tmp_path / "counted") == expected
    assert changes > 40
    # The run is killed, and goes on, again and again, each time a few changes further.
    output, kills, step = tmp_path / "killed", 0, 9
    for _ in range(changes):
        with stopped_at(step):
            try:
                assert run_command([*command, "--output", str(output)]) == 0
                break
            except Killed:
                kills += 1
                step = 9 + kills % 4
    assert kills > 5
    assert end_of(output) == expected


def test_a_process_that_is_killed_while_it_answers_goes_on(command: list[str], whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    # Without a slow machine or a fast one in mind: it holds on after its first records until it is killed.
    program = (
        "import time, sys, dpc.run.evaluate; from dpc.records.directory import RecordFile; append = RecordFile.append\n"
        "dpc.run.evaluate._MOMENT = 0.0\n"
        "def hold(self, records):\n"
        "    append(self, records)\n"
        "    if self.path.stem == 'prompt_tuning': time.sleep(600)\n"
        "RecordFile.append = hold\n"
        "from dpc.cli import main; main(sys.argv[1:])"
    )
    arguments = [sys.executable, "-c", program, *command, "--output", str(output)]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    kept, deadline = output / "records" / "prompt_tuning.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline and not (kept.exists() and kept.stat().st_size):
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    assert len(kept.read_bytes().splitlines()) < TEST
    with kept.open("ab") as file:
        file.write(b'{"example_id": "torn')
    assert run_command([*command, "--output", str(output)]) == 0
    assert end_of(output) == end_of(whole)


def test_a_run_that_is_done_makes_nothing_again(command: list[str], whole: Path) -> None:
    kept = [*(whole / "records").iterdir(), *(whole / "prompt").iterdir(), whole / "act_search.jsonl"]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in kept}
    assert run_command([*command, "--output", str(whole)]) == 0
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in kept} == before


def test_a_run_says_what_it_was_made_from(command: list[str], whole: Path, model: Path, rows: Path) -> None:
    manifest = json.loads((whole / "run.json").read_text())
    config, stages = manifest["config"], manifest["stages"]
    assert (config["model"], config["data"], config["settings"]["tuning"]["seed"]) == (str(model), str(rows), 0)
    assert list(stages) == ["tune", "calibrate", "act", "eval"]
    for stage in stages.values():
        assert {"python", "torch", "transformers", "dpc"} <= stage["versions"].keys()
        assert stage["source"] == {} or {"commit", "dirty"} <= stage["source"].keys()
        assert len(stage["from"]["model"]["revision"]) == 64
    made = stages["tune"]["done"]
    assert made["prompt/adapter_model.safetensors"] == file_sha256(whole / "prompt" / "adapter_model.safetensors")
    assert stages["eval"]["from"]["prompt_sha256"] == stages["calibrate"]["from"]["prompt_sha256"]
    assert len(stages["eval"]["from"]["data"]["sha256"]) == 64
    assert stages["eval"]["from"]["act_sha256"]


OTHER = {
    "tuning.seed": ["--set", "tuning.seed=5"],
    "method.gamma": ["--set", "method.gamma=20"],
    "max_new_tokens": ["--set", "decoding.max_new_tokens=5"],
    "data": ["--limit", "2"],
    "dtype": ["--dtype", "bfloat16"],
}


@pytest.mark.parametrize("named", OTHER)
def test_another_recipe_in_the_same_folder_is_refused_before_weights_are_loaded(
    named: str, command: list[str], whole: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpc.cli.commands.run.load_model", lambda *_: pytest.fail("weights were loaded"))
    before = (whole / "run.json").read_bytes()
    capsys.readouterr()
    assert run_command([*command, "--output", str(whole), *OTHER[named]]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert named in line
    assert "choose another --output" in line
    assert (whole / "run.json").read_bytes() == before


def test_other_weights_under_the_same_name_are_refused(
    command: list[str], model: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = (model / "model.safetensors").read_bytes()
    write_model(model, "llama")
    from tests.tiny_models import tiny_lm

    tiny_lm("llama", seed=1).model.save_pretrained(model)
    try:
        assert run_command([*command, "--output", str(whole)]) == 2
    finally:
        (model / "model.safetensors").write_bytes(weights)
    assert "model.revision" in capsys.readouterr().err


def test_a_file_of_a_stage_that_was_changed_is_not_skipped_over(
    command: list[str], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "run"
    for path in whole.rglob("*"):
        if path.is_file():
            (copy / path.relative_to(whole)).parent.mkdir(parents=True, exist_ok=True)
            (copy / path.relative_to(whole)).write_bytes(path.read_bytes())
    run = RunDirectory(copy)
    assert run.is_done("tune")
    assert run.is_done("calibrate")
    stored = json.loads((copy / "prompt" / "calibration.json").read_text())
    (copy / "prompt" / "calibration.json").write_text(json.dumps(stored | {"tau": 0.123}))
    assert not run.is_done("calibrate")
    assert run_command([*command, "--output", str(copy)]) == 0
    assert json.loads((copy / "prompt" / "calibration.json").read_text())["tau"] == stored["tau"]
    (copy / "prompt" / "adapter_model.safetensors").unlink()
    assert not run.is_done("tune")


def test_methods_can_join_later_and_what_they_need_is_made_then(
    command: list[str], whole: Path, tmp_path: Path
) -> None:
    for methods in ("pretrained", "pretrained,prompt_tuning", "dpc", "pretrained,prompt_tuning,act,dpc,all_corruption"):
        assert run_command([*command, "--output", str(tmp_path), "--methods", methods]) == 0
        assert (tmp_path / "prompt").exists() == (methods != "pretrained")
    assert end_of(tmp_path) == end_of(whole)


def test_a_recipe_of_the_paper_runs_through_on_a_tiny_model(model: Path, rows: Path, tmp_path: Path) -> None:
    command = ["run", "mistral-7b-gsm8k", "--model", str(model), "--data", str(rows), "--output", str(tmp_path)]
    assert run_command([*command, *SMALL[: SMALL.index("--methods")], "--no-analyze"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["methods"]) == ["pretrained", "prompt_tuning", "act", "dpc"]
    manifest = json.loads((tmp_path / "run.json").read_text())
    assert manifest["recipe"] == "mistral-7b-gsm8k"
    assert manifest["stages"]["tune"]["from"]["model"]["dtype"] == "bfloat16"
    assert (tmp_path / "report.html").exists()


@pytest.fixture(scope="module")
def seeded(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("seeded") / "run"
    assert run_command([*command, "--output", str(output), "--seeds", "2"]) == 0
    return output


def test_each_seed_is_a_complete_run_of_its_own(command: list[str], seeded: Path, whole: Path) -> None:
    assert sorted(path.name for path in seeded.iterdir()) == ["seed-0", "seed-1", "seeds.json"]
    assert end_of(seeded / "seed-0") == end_of(whole)
    prompts = {file_sha256(seeded / f"seed-{seed}" / "prompt" / "adapter_model.safetensors") for seed in range(2)}
    assert len(prompts) == 2
    for seed in range(2):
        config = json.loads((seeded / f"seed-{seed}" / "run.json").read_text())["config"]
        assert config["settings"]["tuning"]["seed"] == seed


def test_a_smaller_batch_continues_a_run_and_is_recorded(command: list[str], whole: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(whole, copy)
    kept = RunDirectory(copy).records("dpc").path
    lines = kept.read_bytes().splitlines(keepends=True)
    kept.write_bytes(b"".join(lines[:1]))
    assert run_command([*command, "--output", str(copy), "--set", "decoding.batch_size=1"]) == 0
    assert end_of(copy) == end_of(whole)
    stage = json.loads((copy / "run.json").read_text())["stages"]["eval"]
    assert stage["recorded"]["decoding"]["batch_size"] == 3
    assert [each["recorded"]["decoding"]["batch_size"] for each in stage["continued"]] == [1]


def test_a_seed_joins_and_those_that_are_done_stay(
    command: list[str], seeded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in (seeded / "seed-0" / "records").iterdir()}
    capsys.readouterr()
    assert run_command([*command, "--output", str(seeded), "--seeds", "3"]) == 0
    assert "3 tuning seeds" in capsys.readouterr().out
    summary = parse_seeds(json.loads((seeded / "seeds.json").read_text()))
    assert summary.seeds == [0, 1, 2]
    for name in ("prompt_tuning", "dpc"):
        found = [read_results(seeded / f"seed-{seed}" / "results.json").methods[name] for seed in range(3)]
        assert summary.methods[name].accuracy.values == [method.accuracy for method in found]
    assert summary.methods["prompt_tuning"].difference is None
    difference = summary.methods["dpc"].difference
    assert difference is not None
    assert len(difference.values) == 3
    assert {path: path.read_bytes() for path in (seeded / "seed-0" / "records").iterdir()} == before


def test_a_folder_holds_one_run_or_several_seeds(
    command: list[str], whole: Path, seeded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command([*command, "--output", str(whole), "--seeds", "2"]) == 2
    assert "holds a run of one seed" in capsys.readouterr().err
    assert run_command([*command, "--output", str(seeded)]) == 2
    assert "several seeds" in capsys.readouterr().err
