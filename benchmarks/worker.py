"""Measure one subject in a process of its own: ``python -m benchmarks.worker module:function '{"name": ...}'``.

Prints seconds and extra peak memory as one JSON object.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from contextlib import suppress
from pathlib import Path

from benchmarks.measure import Subject, load, quiet_peft

KIB = 1024


def extra_peak(subject: Subject) -> dict[str, float]:
    """Seconds of one run, and its peak memory in bytes above what the process held before."""
    gc.collect()
    with suppress(OSError, AttributeError):
        # Freed memory that the allocator keeps would hide as much of the peak.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before, began = resident("VmRSS"), time.perf_counter()
    subject()
    return {"seconds": time.perf_counter() - began, "extra_bytes": resident("VmHWM") - before}


def resident(field: str) -> int:
    """Memory of this process in bytes: ``VmRSS`` now, ``VmHWM`` at the peak since the last reset (proc(5))."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * KIB for line in lines if line.startswith(f"{field}:"))


def main(subject: str, parameters: str) -> None:
    """Set up the subject, measure it, and print the result."""
    quiet_peft()
    print(json.dumps(extra_peak(load(subject)(json.loads(parameters)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
