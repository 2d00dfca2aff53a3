"""A signal ends a command after the step under way, with the exit code of a shell; what was computed is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dpc.cli import run_command
from dpc.cli.signals import SIGNALS, Stop, stoppable
from dpc.run.reporter import Progress
from dpc.tasks.equality import Worker
from tests.cli.commands import SMALL, dpc, uncalibrated

pytestmark = pytest.mark.xdist_group("signals")

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 138}
GO_ON = "what was computed is kept: give the same command again to go on"


@pytest.fixture(autouse=True)
def as_in_the_foreground() -> Iterator[None]:
    """Ctrl-C is not ignored, as it is by what a script starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def raise_signal(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_waits_for_the_step_and_has_its_exit_code(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    with stoppable() as stop:
        stop.after_step(more=True)
        raise_signal(number)
        assert stop.received == number
        with pytest.raises(KeyboardInterrupt):
            stop.after_step(more=True)
        assert stop.code == CODES[number]
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_a_signal_outside_of_a_stage_interrupts_at_once() -> None:
    for more in (None, False):
        with stoppable() as stop:
            if more is not None:
                stop.after_step(more)
            with pytest.raises(KeyboardInterrupt):
                raise_signal(signal.SIGTERM)


def test_a_second_signal_interrupts_the_step_and_a_repeated_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with stoppable() as stop:
        stop.after_step(more=True)
        raise_signal(signal.SIGINT)
        raise_signal(signal.SIGINT)  # A launcher forwards what the terminal has sent already.
        monkeypatch.setattr("dpc.cli.signals._SAME_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            raise_signal(signal.SIGTERM)
        assert stop.code == 130


def test_a_step_that_goes_on_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpc.cli.signals.PATIENCE_SECONDS", 0.05)
    with stoppable() as stop:
        stop.after_step(more=True)
        raise_signal(signal.SIGUSR1)
        with pytest.raises(KeyboardInterrupt):
            time.sleep(5)


def test_an_ignored_signal_stays_ignored_and_a_thread_installs_no_handler() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stoppable():
            raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    seen: list[object] = []

    def work() -> None:
        with stoppable() as stop:
            stop.after_step(more=True)
            seen.extend(signal.getsignal(each) for each in SIGNALS)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(each) for each in SIGNALS]


def sent_at(monkeypatch: pytest.MonkeyPatch, stage: str, done: int, number: int) -> None:
    """``number`` is sent to this process while the step after ``done`` of ``stage`` is under way."""
    after_step = Stop.after_step
    seen: list[Progress] = []

    def note(show: Callable[[Progress], None]) -> Callable[..., None]:
        def shown(self: object, progress: Progress) -> None:
            seen.append(progress)
            show(self, progress)  # type: ignore[call-arg, arg-type]

        return shown

    def then_send(stop: Stop, more: bool) -> None:
        after_step(stop, more)
        if seen and seen[-1].stage == stage and seen[-1].done >= done and stop.received is None:
            raise_signal(number)

    from dpc.cli.log_lines import LogLines

    monkeypatch.setattr(LogLines, "show", note(LogLines.show))
    monkeypatch.setattr(Stop, "after_step", then_send)
    monkeypatch.setattr("dpc.run.evaluate._MOMENT", 0.0)


def test_sigterm_during_tuning_finishes_the_update_and_the_same_command_gives_the_same_prompt(
    rows: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["tune", "--output", str(tmp_path / "prompt"), "--data", str(rows), *SMALL]
    never = ["--set", "tuning.checkpoint_seconds=1000"]
    with pytest.MonkeyPatch.context() as patched:
        sent_at(patched, "tune", 3, signal.SIGTERM)
        assert run_command([*command, *never]) == 143
    assert capsys.readouterr().err.splitlines()[-1] == f"interrupted by SIGTERM; {GO_ON}"
    assert len((tmp_path / "prompt" / "history.jsonl").read_text().splitlines()) == 4
    assert (tmp_path / "prompt" / "checkpoint.safetensors").exists()
    assert run_command(command) == 0
    whole = run / "prompt" / "adapter_model.safetensors"
    assert (tmp_path / "prompt" / "adapter_model.safetensors").read_bytes() == whole.read_bytes()


def test_sigusr1_during_a_calibration_keeps_the_answers(rows: Path, run: Path, tmp_path: Path) -> None:
    prompt = uncalibrated(run, tmp_path)
    command = ["calibrate", "--prompt", str(prompt), "--data", str(rows), "--set", "decoding.batch_size=8"]
    with pytest.MonkeyPatch.context() as patched:
        sent_at(patched, "calibrate", 5, signal.SIGUSR1)
        assert run_command(command) == 138
    assert (prompt / "records" / "calibration.jsonl").read_bytes().count(b"\n") > 5


def test_a_worker_that_grades_outlives_the_signals_of_its_group() -> None:
    worker = Worker()
    try:
        assert worker.equal("2", "1+1")
        pid = worker.pid
        assert pid is not None
        for number in SIGNALS:
            os.kill(pid, number)
        assert worker.equal("3", "1+2")
        assert worker.pid == pid
    finally:
        worker.close()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ImportError])
def test_ctrl_c_while_a_command_starts_leaves_no_traceback(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def import_torch(*_: object) -> None:
        try:
            raise_signal(signal.SIGINT)
        except KeyboardInterrupt as interrupt:
            raise error from interrupt  # as a half imported library does

    monkeypatch.setattr("dpc.cli.commands.eval.load_data", import_torch)
    assert run_command(["eval", "--output", str(tmp_path / "never")]) == 130
    assert capsys.readouterr().err == f"\ninterrupted; {GO_ON}\n"


def test_a_command_that_keeps_nothing_does_not_say_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dpc.cli.commands.trace.settings_for", lambda *_: raise_signal(signal.SIGTERM))
    assert run_command(["trace", "--prompt", ".", "Why?"]) == 143
    assert capsys.readouterr().err == "\ninterrupted by SIGTERM\n"


def wait_for(path: Path, lines: int, process: subprocess.Popen[str]) -> None:
    while process.poll() is None and not (path.exists() and path.read_bytes().count(b"\n") >= lines):
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signalled_process_goes_on_bit_for_bit(number: signal.Signals, tmp_path: Path) -> None:
    common = ["--set", "tuning.steps=40", "--set", "tuning.length=8", "--set", "tuning.evaluate_every=40"]
    common += ["--set", "tuning.dev_limit=4", "--set", "tuning.checkpoint_seconds=1000"]
    whole = dpc("tune", "--output", str(tmp_path / "whole"), *common)
    assert "error" not in whole.communicate(timeout=600)[1]
    command = ["tune", "--output", str(tmp_path / "killed"), *common]
    first = dpc(*command)
    wait_for(tmp_path / "killed" / "history.jsonl", 5, first)
    first.send_signal(number)
    _, told = first.communicate(timeout=120)
    assert first.returncode == CODES[number]
    assert GO_ON in told.splitlines()[-1]
    assert "Traceback" not in told
    again = dpc(*command)
    assert "error" not in again.communicate(timeout=600)[1]
    ours, theirs = (tmp_path / name / "adapter_model.safetensors" for name in ("killed", "whole"))
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("wait", [0.3, 0.6, 1.0, 1.5, 2.0, 3.0])
def test_ctrl_c_at_any_time_of_a_start_ends_with_130_and_without_a_traceback(wait: float, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "dpc", "run", "--output", str(tmp_path)], stderr=subprocess.PIPE, text=True
    )
    time.sleep(wait)  # Not before: an interpreter that starts prints a traceback of its own.
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in told
