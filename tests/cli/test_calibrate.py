"""``dpc calibrate``: a threshold is chosen on dev rows, and a better founded one is not replaced by accident."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dpc.cli import run_command
from dpc.files import write_json
from tests.cli.commands import uncalibrated

pytestmark = pytest.mark.xdist_group("calibrate")


def test_a_dev_split_where_every_answer_is_wrong_gives_a_threshold_and_says_so(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    impossible = [{"question": f"What is {n}?", "answer": "never\n#### 123456789"} for n in range(5)]
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in impossible))
    prompt = uncalibrated(run, tmp_path)
    assert run_command(["calibrate", "--prompt", str(prompt), "--data", str(tmp_path)]) == 0
    assert "every first answer is wrong" in capsys.readouterr().err
    assert json.loads((prompt / "calibration.json").read_text())["tau"] == 1.0


def test_a_prompt_is_calibrated_anew_with_other_settings(run: Path, rows: Path, tmp_path: Path) -> None:
    prompt = uncalibrated(run, tmp_path)
    command = ["calibrate", "--prompt", str(prompt), "--data", str(rows), "--limit", "12"]
    assert run_command([*command, "--set", "method.gamma=20"]) == 0
    assert run_command(command) == 0
    stored = json.loads((prompt / "calibration.json").read_text())
    assert (stored["n"], stored["from"]["method"]["gamma"]) == (12, 10.0)


def test_calibrating_again_gives_what_the_run_chose(run: Path, rows: Path, tmp_path: Path) -> None:
    prompt = uncalibrated(run, tmp_path)
    assert run_command(["calibrate", "--prompt", str(prompt), "--data", str(rows)]) == 0
    chosen, again = (json.loads((p / "calibration.json").read_text()) for p in (run / "prompt", prompt))
    assert [again[name] for name in ("tau", "n", "curve", "rows")] == [
        chosen[name] for name in ("tau", "n", "curve", "rows")
    ]


def test_fewer_rows_replace_a_calibration_only_by_force(
    run: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = uncalibrated(run, tmp_path)
    path = prompt / "calibration.json"
    path.write_bytes((run / "prompt" / "calibration.json").read_bytes())
    before = path.read_bytes()
    command = ["calibrate", "--prompt", str(prompt), "--data", str(rows), "--limit", "5"]
    assert run_command(command) == 2
    error = capsys.readouterr().err
    assert f"{path}: was chosen on 24 rows, not 5; pass --force to replace it, or more rows" in error
    assert path.read_bytes() == before
    assert run_command([*command, "--force"]) == 0
    assert json.loads(path.read_text())["n"] == 5
    assert run_command(["calibrate", "--prompt", str(prompt), "--data", str(rows), "--limit", "6"]) == 0
    assert json.loads(path.read_text())["n"] == 6


def test_a_search_of_heads_on_fewer_rows_is_refused_too(
    run: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = uncalibrated(run, tmp_path)
    write_json(prompt / "act.json", {"n": 8, "heads": []})
    command = ["calibrate", "--method", "act", "--prompt", str(prompt), "--data", str(rows), "--set", "act.rows=7"]
    assert run_command(command) == 2
    assert "act.json: was chosen on 8 rows, not 7; pass --force" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["prompt_tuning", "all_corruption", "random_trigger", "gamma_only", "dcp"])
def test_a_method_without_a_threshold_of_its_own_is_refused(
    method: str, run: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = uncalibrated(run, tmp_path)
    assert run_command(["calibrate", "--prompt", str(prompt), "--data", str(rows), "--method", method]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert method in line
    assert not list(prompt.glob("calibration*"))
