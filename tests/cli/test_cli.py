"""Whole commands, as a user types them, on the shipped model: what they write, how they resume, how they refuse."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dpc.cli import run_command
from dpc.records.directory import RecordFile
from dpc.stats import mcnemar_exact, wilson
from tests.cli.commands import SMALL, answers, dpc, uncalibrated
from tests.paths import PACKAGE

pytestmark = pytest.mark.xdist_group("cli")


def test_a_run_is_a_directory_with_everything_in_it(run: Path) -> None:
    stages = json.loads((run / "run.json").read_text())["stages"]
    assert set(stages) == {"tune", "calibrate", "eval"}
    assert (run / "prompt" / "adapter_model.safetensors").exists()
    assert (run / "prompt" / "calibration.json").exists()
    assert {p.stem for p in (run / "records").iterdir()} == {"pretrained", "prompt_tuning", "dpc", "calibration"}
    assert (run / "report.html").exists()
    eval_stage = stages["eval"]["from"]
    assert {"model", "prompt_sha256", "tau", "data", "method", "decoding"} <= eval_stage.keys()
    assert eval_stage["data"]["rows"] == 40


def test_the_table_follows_from_the_records(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    right = {}
    for name, found in results["methods"].items():
        records = {r.example_id: r for r in RecordFile(run / "records" / f"{name}.jsonl").read()}
        right[name] = [records[i].score_final.correct for i in sorted(records)]
        assert found["correct"] == sum(right[name])
        interval = wilson(sum(right[name]), 40)
        assert found["interval"] == pytest.approx([interval.low, interval.high])
    pairs = list(zip(right["prompt_tuning"], right["dpc"], strict=True))
    fixed, broken = pairs.count((False, True)), pairs.count((True, False))
    versus = results["methods"]["dpc"]["versus_prompt_tuning"]
    assert (versus["fixed"], versus["broken"]) == (fixed, broken)
    assert versus["p"] == pytest.approx(mcnemar_exact(fixed, broken))


def test_the_same_command_again_computes_nothing_again(run: Path, rows: Path) -> None:
    before = {p: p.read_bytes() for p in (run / "records").iterdir()}
    assert run_command(["run", "--output", str(run), "--data", str(rows), "--no-analyze", *SMALL]) == 0
    assert {p: p.read_bytes() for p in (run / "records").iterdir()} == before


@pytest.mark.parametrize(
    ("stop", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGKILL, -signal.SIGKILL, marks=pytest.mark.slow)],
)
def test_an_interrupted_evaluation_goes_on_where_it_stopped(
    run: Path, rows: Path, tmp_path: Path, stop: signal.Signals, code: int
) -> None:
    command = ["eval", "--output", str(tmp_path), "--prompt", str(run / "prompt"), "--data", str(rows), *SMALL]
    command += ["--set", "decoding.batch_size=5"]
    process = dpc(*command)
    kept = tmp_path / "records" / "pretrained.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (kept.exists() and kept.stat().st_size):
        time.sleep(0.02)
    process.send_signal(stop)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    if stop == signal.SIGINT:
        assert errors.strip().splitlines()[-1].startswith("interrupted; what was computed is kept")
        assert "Traceback" not in errors
    before = kept.read_bytes().rsplit(b"\n", 1)[0]
    assert not (tmp_path / "results.json").exists()
    assert run_command(command) == 0
    assert kept.read_bytes().startswith(before)
    assert answers(tmp_path) == answers(run)


def test_a_trace_holds_what_the_method_computed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    question = (
        "Tom has 8 pens. In January Tom buys 5 pens. In February Tom loses 3 pens. How many pens does Tom have now?"
    )
    target = tmp_path / "trace.npz"
    assert run_command(["trace", question, "--prompt", str(run / "prompt"), "--npz", str(target)]) == 0
    assert "tau" in capsys.readouterr().out
    with np.load(target) as found:
        layers, rows, prompt = found["scores"].shape
        (_, p), (q0, q1), (r0, r1) = found["spans"]
        assert (q0, q1 - q0, r1 - r0) == (p, len(found["question_ids"]), len(found["rationale_ids"]))
        assert (layers, rows, prompt) == (4, r1 - p, p)
        # s is what the method judged, from the last block alone.
        np.testing.assert_allclose(found["s"], found["scores"][-1, q1 - q0 :].mean(1), rtol=1e-3, atol=1e-15)
        half = (r1 - r0) // 2
        assert found["beta"] == pytest.approx(found["s"][:half].mean(), rel=1e-5)
        assert found["statistic"] == pytest.approx((found["s"][half:] > found["beta"]).mean())
        assert bool(found["triggered"]) == (found["statistic"] > found["threshold"])
        np.testing.assert_allclose(found["S_acc"], found["scores"][:2].mean((0, 1)), rtol=1e-4)
        assert found["key_token"] == found["S_acc"].argmax()
        assert not found["corrupted"][found["key_token"]].any()
        assert found["corrupted"].shape == (p, 128)


def bad_rows(tmp_path: Path) -> str:
    (tmp_path / "rows.jsonl").write_text('{"question": "How many?", "answer": "#### 1"}\n{"question": ""}\n')
    return str(tmp_path / "rows.jsonl")


def long_row(tmp_path: Path) -> str:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "why " * 3000, "answer": "#### 1"}) + "\n")
    return str(tmp_path / "rows.jsonl")


MISTAKES: dict[str, tuple[Callable[[Path, Path, Path], list[str]], str]] = {
    "no such model": (
        lambda run, rows, tmp: ["run", "--output", str(tmp), "--model", "no/such/model"],
        "no/such/model",
    ),
    "folder without a model": (
        lambda run, rows, tmp: ["run", "--output", str(tmp), "--model", str(tmp)],
        "config.json",
    ),
    "no such task": (lambda run, rows, tmp: ["run", "--output", str(tmp), "--task", "gsm9k"], "gsm8k"),
    "no such method": (
        lambda run, rows, tmp: ["eval", "--output", str(tmp), "--methods", "dcp"],
        "expected some of pretrained, prompt_tuning, act, dpc",
    ),
    "a method twice": (
        lambda run, rows, tmp: ["eval", "--output", str(tmp), "--methods", "dpc,dpc"],
        "each once",
    ),
    "no prompt": (lambda run, rows, tmp: ["eval", "--output", str(tmp), "--data", str(rows)], "--prompt"),
    "no such prompt": (
        lambda run, rows, tmp: ["eval", "--output", str(tmp), "--data", str(rows), "--prompt", "nowhere"],
        "--prompt nowhere: no such folder",
    ),
    "no threshold": (
        lambda run, rows, tmp: ["trace", "Why?", "--prompt", str(uncalibrated(run, tmp))],
        "dpc calibrate",
    ),
    "malformed rows": (
        lambda run, rows, tmp: ["eval", "--output", str(tmp), "--methods", "pretrained", "--data", bad_rows(tmp)],
        "rows.jsonl:2",
    ),
    "question beyond the context": (
        lambda run, rows, tmp: ["eval", "--output", str(tmp), "--methods", "pretrained", "--data", long_row(tmp)],
        "context",
    ),
    "settings": (lambda run, rows, tmp: ["run", "--output", str(tmp), "--set", "method.gamma=200"], "method.gamma"),
    "a setting that is none": (
        lambda run, rows, tmp: ["eval", "--output", str(tmp), "--set", "method.gama=20"],
        "method.gama: there is no such setting; did you mean gamma?",
    ),
    "resuming by an option": (lambda run, rows, tmp: ["tune", "--output", str(tmp), "--resume"], "--resume"),
    "no such option": (lambda run, rows, tmp: ["run", "--output", str(tmp), "--gama", "3"], "--gama"),
    "no output": (lambda run, rows, tmp: ["run"], "--output"),
    "empty question": (lambda run, rows, tmp: ["trace", " ", "--prompt", str(run / "prompt")], "empty"),
    "questions that are no JSON": (
        lambda run, rows, tmp: ["generate", str(text_file(tmp)), "--prompt", str(run / "prompt")],
        "questions.txt:1",
    ),
    "calibration rows as test": (
        lambda run, rows, tmp: [
            *("eval", "--output", str(tmp), "--prompt", str(run / "prompt"), "--data", str(rows), "--split", "dev")
        ],
        "were used to choose the threshold of flow",
    ),
    "calibrating on test rows": (
        lambda run, rows, tmp: ["calibrate", "--prompt", str(run / "prompt"), "--data", str(rows), "--split", "test"],
        "--split test",
    ),
    "one file for every split": (
        lambda run, rows, tmp: ["run", "--output", str(tmp), "--data", str(rows / "test.jsonl")],
        "evaluate on other rows",
    ),
    "some calibration rows as test": (
        lambda run, rows, tmp: [
            *("eval", "--output", str(tmp), "--prompt", str(run / "prompt"), "--data", str(rows / "dev.jsonl")),
            *("--limit", "3"),
        ],
        "3 of its rows",
    ),
    "a threshold that is no number": (
        lambda run, rows, tmp: ["trace", "Why?", "--prompt", str(run / "prompt"), "--tau", "nan"],
        "--tau nan",
    ),
    "half a character": (
        lambda run, rows, tmp: ["trace", "Why \ud800?", "--prompt", str(run / "prompt")],
        "no whole character",
    ),
    "no such device": (
        lambda run, rows, tmp: ["trace", "Why?", "--prompt", str(run / "prompt"), "--device", "meta"],
        "--device meta",
    ),
    "a model that is not whole": (lambda run, rows, tmp: ["trace", "Why?", *torn_model(run, tmp)], "can't be loaded"),
    "a damaged run description": (
        lambda run, rows, tmp: ["eval", "--methods", "pretrained", "--data", str(rows), *damaged_run(tmp)],
        "run.json",
    ),
    "another setting than the calibrated one": (
        lambda run, rows, tmp: [
            *("eval", "--output", str(tmp), "--prompt", str(run / "prompt"), "--data", str(rows)),
            *("--set", "method.gamma=20"),
        ],
        "dpc calibrate",
    ),
    "another run in the folder": (
        lambda run, rows, tmp: ["run", "--output", str(run), "--data", str(rows), *SMALL, "--set", "tuning.seed=9"],
        "tuning.seed",
    ),
}


def torn_model(run: Path, folder: Path) -> list[str]:
    source = PACKAGE / "zoo" / "model"
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (folder / name).write_bytes((source / name).read_bytes()[:100_000])
    return ["--prompt", str(run / "prompt"), "--model", str(folder)]


def damaged_run(folder: Path) -> list[str]:
    (folder / "run.json").write_text('{"stages": []}')
    return ["--output", str(folder)]


def text_file(folder: Path) -> Path:
    (folder / "questions.txt").write_text("How many?\n")
    return folder / "questions.txt"


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(
    mistake: str, run: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, named = MISTAKES[mistake]
    command = arguments(run, rows, tmp_path)
    capsys.readouterr()
    assert run_command(command) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert named in lines[0]


def test_a_later_method_joins_the_table_and_short_answers_are_not_judged(run: Path, rows: Path, tmp_path: Path) -> None:
    command = ["eval", "--output", str(tmp_path), "--prompt", str(run / "prompt"), "--data", str(rows), "--limit", "8"]
    command += ["--set", "decoding.max_new_tokens=3", "--tau", "0.5"]
    assert run_command([*command, "--methods", "prompt_tuning"]) == 0
    assert run_command([*command, "--methods", " dpc"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["methods"]) == {"prompt_tuning", "dpc"}
    assert results["methods"]["dpc"]["versus_prompt_tuning"] is not None
    assert results["methods"]["dpc"]["trigger"]["not_judged"] == results["n"] == 8


def test_a_prompt_for_another_model_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.tiny_models import tiny_lm

    other = tiny_lm("llama")
    other.model.save_pretrained(tmp_path / "model")
    other.tokenizer.save_pretrained(tmp_path / "model")
    capsys.readouterr()
    command = ["trace", "Why?", "--prompt", str(run / "prompt"), "--model", str(tmp_path / "model"), "--tau", "0.5"]
    assert run_command(command) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert str(run / "prompt") in error
