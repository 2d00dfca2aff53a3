"""What tests of whole commands share: settings that make them quick, a process of its own, answers to compare."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from shutil import copytree

from dpc.records.directory import RecordFile

SMALL = [
    *("--set", "tuning.steps=6", "--set", "tuning.length=6", "--set", "tuning.evaluate_every=3"),
    *("--set", "tuning.dev_limit=8", "--set", "tuning.checkpoint_seconds=0", "--set", "decoding.batch_size=16"),
]


def dpc(*arguments: str) -> subprocess.Popen[str]:
    """A command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "dpc", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def answers(folder: Path, method: str = "dpc") -> dict[str, tuple[object, ...]]:
    """What a method answered and decided; other batches may change the last digits of its evidence, nothing else."""
    found = {}
    for record in RecordFile(folder / "records" / f"{method}.jsonl").read():
        answer, decision = record.answer, record.answer.decision
        decided = decision and (decision.triggered, decision.statistic, decision.key_token)
        found[record.example_id] = (answer.first, answer.second, decided, record.score_final)
    return found


def uncalibrated(run: Path, folder: Path) -> Path:
    """A copy of the run's prompt without anything that was chosen for it."""
    target = Path(copytree(run / "prompt", folder / "prompt"))
    for path in target.glob("calibration*"):
        path.unlink()
    return target
