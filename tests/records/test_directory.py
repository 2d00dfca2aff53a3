"""A run directory: which methods it has, what a stage is made from, one writer at a time, the commit of the package."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import dpc
from dpc.errors import UserError
from dpc.prompt.soft_prompt import PROVENANCE_FILE
from dpc.prompt.tuning import HISTORY_FILE
from dpc.records import lock
from dpc.records.directory import RunDirectory
from dpc.report import tuning_curve
from tests.made_up_runs import record, rows

[ROW] = rows(1)


def stage(run: RunDirectory, name: str = "eval") -> dict[str, object]:
    found: dict[str, object] = json.loads((run.path / "run.json").read_text())["stages"][name]
    return found


def test_methods_are_listed_in_the_order_of_the_registry_and_others_by_name(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert run.methods() == []
    for name in ("zebra", "dpc", "calibration_likelihood", "attenuate", "calibration", "pretrained"):
        run.records(name).append([record(ROW, name, True)])
    assert run.methods() == ["pretrained", "dpc", "attenuate", "zebra"]


def test_recorded_settings_do_not_identify_a_stage(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path, "first")
    run.enter("eval", {"tau": 0.5}, recorded={"decoding": {"batch_size": 64}})
    assert stage(run)["recorded"] == {"decoding": {"batch_size": 64}}
    run.enter("eval", {"tau": 0.5}, recorded={"decoding": {"batch_size": 64}})
    assert "continued" not in stage(run)
    later = RunDirectory(tmp_path, "second")
    later.enter("eval", {"tau": 0.5}, recorded={"decoding": {"batch_size": 8}})
    later.enter("eval", {"tau": 0.5}, recorded={"decoding": {"batch_size": 8}})
    [continued] = stage(run)["continued"]  # type: ignore[misc]
    assert (continued["command"], continued["recorded"]) == ("second", {"decoding": {"batch_size": 8}})
    assert stage(run)["recorded"] == {"decoding": {"batch_size": 64}}


def test_recorded_settings_are_no_reason_to_refuse_or_to_begin_anew(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.enter("calibrate", {"rows": 5}, recorded={"batch_size": 64})
    run.records("calibration").append([record(ROW, "dpc", True)])
    run.finish("calibrate", [run.records("calibration").path])
    run.restart("calibrate", {"rows": 5}, run.records("calibration"), recorded={"batch_size": 2})
    assert len(run.records("calibration").read()) == 1
    assert run.is_done("calibrate")
    with pytest.raises(UserError, match="rows = 5, now 6"):
        run.enter("calibrate", {"rows": 6}, recorded={"batch_size": 2})
    run.restart("calibrate", {"rows": 6}, run.records("calibration"), recorded={"batch_size": 2})
    assert run.records("calibration").read() == []
    assert not run.is_done("calibrate")


HOLD = (
    "import sys, time; from pathlib import Path; from dpc.records.directory import RunDirectory\n"
    "with RunDirectory(Path(sys.argv[1]), 'dpc eval --tau 1').lock():\n"
    "    print('held', flush=True); time.sleep(600)"
)


@contextmanager
def holder(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(directory)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait(timeout=30)
        assert process.stdout is not None
        process.stdout.close()


def test_a_second_process_is_refused_and_told_who_holds_the_lock(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with holder(run.path) as process:
        with pytest.raises(UserError) as caught, run.lock():
            pass
        words = str(caught.value)
        assert words.startswith(f"{run.path}: process {process.pid} on ")
        assert "(dpc eval --tau 1) is writing it" in words
        assert "\n" not in words
    with run.lock():
        pass


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=30)
        with RunDirectory(tmp_path).lock():
            about = json.loads((tmp_path / lock.LOCK_FILE).read_text())
            assert about["pid"] == os.getpid()
    assert (tmp_path / lock.LOCK_FILE).read_text() == ""


def test_a_process_enters_its_own_lock_again_and_keeps_it_until_the_outer_block_ends(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with RunDirectory(tmp_path).lock():
        with RunDirectory(tmp_path / "link", "again").lock():
            pass
        refused = subprocess.run(
            [sys.executable, "-c", HOLD, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
        )
        assert f"process {os.getpid()} on" in refused.stderr
    with holder(tmp_path):
        pass


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), RunDirectory(tmp_path / "file" / "run").lock():
        pass


def test_a_file_system_without_locks_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("dpc.records.lock.fcntl.flock", refuse)
    with pytest.warns(UserWarning, match="has no locks"), RunDirectory(tmp_path).lock():
        pass


def test_names_of_the_files_of_tuning_are_those_of_tuning(tmp_path: Path) -> None:
    assert RunDirectory(tmp_path).history == tmp_path / "prompt" / HISTORY_FILE
    assert tuning_curve.PROVENANCE_FILE == PROVENANCE_FILE


def source_state_of(package: Path) -> dict[str, object]:
    """``source_state`` of a copy of the package."""
    program = "import json; from dpc.records.directory import source_state; print(json.dumps(source_state()))"
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def git(*arguments: str, at: Path) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    done = subprocess.run(["git", "-C", str(at), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_commit_is_that_of_the_packages_own_checkout_alone(tmp_path: Path) -> None:
    def copy(to: Path) -> Path:
        shutil.copytree(Path(dpc.__file__).parent, to, ignore=shutil.ignore_patterns("zoo", "__pycache__"))
        return to

    surrounding, checkout = tmp_path / "project", tmp_path / "checkout"
    installed = copy(surrounding / "venv" / "lib" / "dpc")
    own = copy(checkout / "src" / "dpc")
    for folder in (surrounding, checkout):
        git("init", "--quiet", at=folder)
        git("add", ".", at=folder)
        git("commit", "--quiet", "-m", "first", at=folder)
    assert source_state_of(own) == {"commit": git("rev-parse", "HEAD", at=checkout), "dirty": False}
    assert source_state_of(installed) == {}
    # Not even where the package lies at src/dpc, as long as git does not track it.
    untracked = copy(surrounding / "src" / "dpc")
    assert source_state_of(untracked) == {}
