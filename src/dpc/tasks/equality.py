"""Equality of mathematical answers: by spelling where that decides it, else by math-verify in a worker process."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from functools import lru_cache

from dpc.errors import UserError
from dpc.tasks.latex import plainly_equal, read_pair
from dpc.tasks.math_worker import EQUAL, READY

CPU_SECONDS = 5.0
# A worker that waits without computing is stopped by the clock; the limit allows for slow starts and busy machines.
CLOCK_SECONDS = 60.0
# The same answers are graded again under every method.
REMEMBERED = 100_000


def answers_equal(gold: str, answer: str) -> bool:
    """Whether two answers in LaTeX are equal. What cannot be decided within the time limit counts as different.

    Safe to call from any thread. math-verify interrupts itself with a signal, which only a main thread can receive, and
    an expression may crash its process. So it runs in a worker process, which is started on first use and again after
    a crash.
    """
    decided = plainly_equal(gold, answer)
    if decided is not None:
        return decided
    left, right = read_pair(gold, answer)
    return _by_worker(left.text, right.text)


@lru_cache(maxsize=REMEMBERED)
def _by_worker(gold: str, answer: str) -> bool:
    return _worker_of(os.getpid()).equal(gold, answer)


@lru_cache(maxsize=1)
def _worker_of(process: int) -> Worker:
    """The worker of this process. After a fork, a child must not use the pipes of its parent's worker."""
    worker = Worker()
    atexit.register(worker.close)
    return worker


class Worker:
    """A worker process and the pipes to it; one question at a time."""

    def __init__(self, cpu_seconds: float = CPU_SECONDS, clock_seconds: float = CLOCK_SECONDS) -> None:
        self._cpu_seconds, self._clock_seconds = cpu_seconds, clock_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def equal(self, gold: str, answer: str) -> bool:
        """Whether math-verify finds both equal; False where that takes too long or crashes the worker.

        Raises:
            UserError: where no worker can be started.
        """
        with self._lock:
            if self._process is not None and self._process.poll() is not None:
                self._stop()
            try:
                process = self._process or self._start()
                verdict = self._exchange(process, json.dumps([gold, answer]).encode() + b"\n")
            except BaseException:
                self._stop()
                raise
            if not verdict:
                self._stop()
            return verdict == EQUAL

    def close(self) -> None:
        """End the worker; the next question starts another."""
        with self._lock:
            self._stop()

    @property
    def pid(self) -> int | None:
        """The worker's process id while there is one."""
        return self._process.pid if self._process else None

    def _start(self) -> subprocess.Popen[bytes]:
        # -P: no module of the current directory may stand in for one of the standard library.
        command = [sys.executable, "-P", "-m", "dpc.tasks.math_worker", str(self._cpu_seconds)]
        pipe = subprocess.PIPE
        # Ctrl-C and a cluster's signals reach all processes of a job. A worker that they end would grade as different
        # what is compared while this process finishes its step. A child inherits what is blocked.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1})
        try:
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if self._exchange(self._process, b"") != READY:
            raise UserError("math-verify does not start in a worker process; try: python -c 'import math_verify'")
        return self._process

    def _exchange(self, process: subprocess.Popen[bytes], question: bytes) -> bytes:
        """One line of answer; empty where the worker has ended, or was ended by the clock."""
        assert process.stdin is not None
        assert process.stdout is not None
        clock = threading.Timer(self._clock_seconds, process.kill)
        clock.daemon = True
        clock.start()
        try:
            process.stdin.write(question)
            process.stdin.flush()
            return process.stdout.readline()
        except BrokenPipeError:
            return b""
        finally:
            clock.cancel()

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
