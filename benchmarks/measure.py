"""Measure seconds of several subjects in turn, and peak memory of one subject in a process of its own."""

from __future__ import annotations

import gc
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

Subject = Callable[[], object]
"""A function to measure. A function ``(parameters: JSON values) -> Subject`` sets it up."""


FOLDER = Path(__file__).resolve().parent


class Unavailable(Exception):
    """A figure cannot be measured on this machine; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Bench:
    """How to measure. quick: fewer and smaller inputs. prompt: folder of a prompt for the embedded model, or None."""

    repeats: int
    quick: bool
    prompt: Path | None

    def seconds(self, subjects: Mapping[str, Subject]) -> dict[str, float]:
        """Median seconds of each subject, measured in turn: A B A B ..."""
        return {name: median(taken) for name, taken in alternate(subjects, self.repeats).items()}

    def memory(self, subjects: Mapping[str, str], parameters: Mapping[str, Any]) -> dict[str, int]:
        """Median extra peak memory in bytes of each subject (``module:function``), measured in turn."""
        taken: dict[str, list[int]] = {name: [] for name in subjects}
        for _ in range(self.repeats):
            for name, subject in subjects.items():
                taken[name].append(run_alone(subject, parameters).extra_bytes)
        return {name: int(median(values)) for name, values in taken.items()}


@dataclass(frozen=True, slots=True)
class Alone:
    """Seconds and extra peak memory in bytes of one run in its own process."""

    seconds: float
    extra_bytes: int


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine and the versions that figures depend on."""

    processor: str
    cpus: int
    threads: int
    memory_gib: float
    gpu: str | None
    system: str
    python: str
    torch: str
    transformers: str
    peft: str


def alternate(subjects: Mapping[str, Subject], repeats: int) -> dict[str, list[float]]:
    """Seconds of ``repeats`` runs of each subject, in turn, so that load on the machine affects all alike."""
    taken: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(repeats):
        for name, subject in subjects.items():
            gc.collect()
            began = time.perf_counter()
            subject()
            taken[name].append(time.perf_counter() - began)
    return taken


def run_alone(subject: str, parameters: Mapping[str, Any]) -> Alone:
    """Seconds and extra peak memory of ``module:function``, set up and run once in a new process.

    Raises ``Unavailable`` if the system reports no peak memory, or the process ran out of memory.
    """
    if not Path("/proc/self/clear_refs").exists():
        raise Unavailable("peak memory is read from /proc, which this system does not have")
    command = [sys.executable, "-m", "benchmarks.worker", subject, json.dumps(parameters)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=FOLDER.parent)
    if done.returncode in (-9, 137) or "not enough memory" in done.stderr or "MemoryError" in done.stderr:
        raise Unavailable("out of memory")
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return Alone(**json.loads(done.stdout.splitlines()[-1]))


def load(subject: str) -> Callable[[Mapping[str, Any]], Subject]:
    """The function named by ``module:function``."""
    module, _, name = subject.partition(":")
    function: Callable[[Mapping[str, Any]], Subject] = getattr(import_module(module), name)
    return function


def share_equal(ours: Sequence[object], theirs: Sequence[object]) -> float:
    """Share of answers that are equal, from 0 to 1."""
    return sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours)


@cache
def machine() -> Machine:
    """The machine that this process runs on."""
    import torch

    from dpc.records.directory import versions

    found = versions()
    return Machine(
        processor=_processor(),
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        system=f"{platform.system()} {platform.machine()}",
        python=found["python"],
        torch=found["torch"],
        transformers=found["transformers"],
        peft=found["peft"],
    )


def quiet_peft() -> None:
    """Silence a warning: PEFT 0.21 reads an attribute that transformers 5.23 has renamed."""
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
