"""Comparing in a worker process: what hangs, crashes or is killed costs one worker, never the grading or a zombie."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from dpc.errors import UserError
from dpc.tasks.equality import CLOCK_SECONDS, Worker
from dpc.tasks.math_worker import equal

TOWER = r"9^{9^{9^{9}}}"


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    started = Worker(cpu_seconds=0.5)
    yield started
    started.close()


def ended(pid: int) -> bool:
    """Whether a process is gone; one that nobody has waited for is not."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def test_a_worker_answers_as_math_verify_does(worker: Worker) -> None:
    for gold, answer in [("2", "1+1"), ("2", "3"), ("1,2", "2,1"), ("(1,2)", "(2,1)"), ("5", "\\frac{"), ("", "1")]:
        assert worker.equal(gold, answer) == equal(gold, answer)


@pytest.mark.parametrize("answer", [TOWER, "100000000!"])
def test_an_expression_that_hangs_is_a_mismatch_and_costs_its_worker(worker: Worker, answer: str) -> None:
    assert worker.equal("2", "1+1")
    before = worker.pid
    assert before is not None
    began = time.monotonic()
    assert not worker.equal("5", answer)
    assert time.monotonic() - began < CLOCK_SECONDS / 2, "given up by the clock, not by the processor's time"
    assert worker.pid is None
    assert ended(before)
    assert worker.equal("2", "1+1")


def test_an_expression_that_is_nested_too_deeply_is_a_mismatch(worker: Worker) -> None:
    assert not worker.equal("5", "(" * 3000 + "5" + ")" * 3000)
    assert worker.equal("2", "1+1")


def test_a_worker_that_was_killed_is_replaced_before_the_next_question(worker: Worker) -> None:
    assert worker.equal("2", "1+1")
    before = worker.pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    os.waitid(os.P_PID, before, os.WEXITED | os.WNOWAIT)
    assert worker.equal("2", "1+1")
    assert ended(before)


def test_a_worker_that_neither_computes_nor_answers_is_given_up_by_the_clock() -> None:
    stopped = Worker(clock_seconds=30.0)
    try:
        assert stopped.equal("2", "1+1")
        assert stopped.pid is not None
        os.kill(stopped.pid, signal.SIGSTOP)
        stopped._clock_seconds = 0.3
        assert not stopped.equal("2", "1+1")
        assert stopped.pid is None
    finally:
        stopped.close()


def test_a_worker_that_cannot_start_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(UserError, match="math-verify does not start in a worker process"):
        Worker().equal("2", "1+1")


def test_answers_are_compared_in_any_thread(worker: Worker) -> None:
    found: list[bool] = []
    threads = [threading.Thread(target=lambda: found.append(worker.equal("2", "1+1"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4


def test_a_child_of_a_fork_asks_a_worker_of_its_own() -> None:
    program = """
import os
from dpc.tasks import equality
ask = equality.answers_equal
assert ask("x^2-1", "(x-1)(x+1)")
mine = equality._worker_of(os.getpid()).pid
child = os.fork()
if not child:
    right = ask("x^2-4", "(x-2)(x+2)") and equality._worker_of(os.getpid()).pid != mine
    raise SystemExit(0 if right else 1)
_, status = os.waitpid(child, 0)
print(status, ask("x^2-9", "(x-3)(x+3)"), equality._worker_of(os.getpid()).pid == mine)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("0 True True\n", "")


PROGRAM = """
import sys
from dpc.tasks.equality import CLOCK_SECONDS, Worker
worker = Worker(cpu_seconds=30.0)
print(worker.equal("2", "1+1"), worker.pid, flush=True)
worker.equal("5", sys.argv[1]) if sys.argv[1:] else sys.stdin.read()
"""


@pytest.mark.parametrize(("stop", "arguments"), [(signal.SIGINT, [TOWER]), (signal.SIGKILL, [])])
def test_no_worker_outlives_its_parent(stop: signal.Signals, arguments: list[str]) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    verdict, pid = parent.stdout.readline().split()
    assert verdict == "True"
    time.sleep(0.3)
    # Ctrl-C reaches every process of the terminal, a kill only its own.
    (os.killpg if stop == signal.SIGINT else os.kill)(parent.pid, stop)
    _, errors = parent.communicate(timeout=30)
    assert ("KeyboardInterrupt" in errors) == (stop == signal.SIGINT)
    assert ended(int(pid))
