"""A run on disk: what it was made from, records that are appended as they are made, and results."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dpc.errors import UserError
from dpc.files import read_json, write_json
from dpc.types import Record

RECORD: TypeAdapter[Record] = TypeAdapter(Record)


@cache
def versions() -> dict[str, str]:
    """Versions of this package and of everything that can change a number."""
    found = {"python": platform.python_version()}
    for package in ("dpc", "torch", "transformers", "peft", "tokenizers", "numpy", "scipy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


@cache
def source_state() -> dict[str, Any]:
    """Git commit of the checkout this package runs from, and whether it has uncommitted changes; empty elsewhere."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {}


@dataclass(frozen=True, slots=True)
class RecordFile:
    """Append-only records, a JSON line each. A line torn by a kill is dropped when the file is next read."""

    path: Path

    def read(self) -> list[Record]:
        """Whole records in the order they were made. Raises ``UserError`` naming file and line of a damaged one."""
        if not self.path.exists():
            return []
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))
        records = []
        for number, line in enumerate(whole.split(b"\n")[:-1], 1):
            try:
                records.append(RECORD.validate_json(line))
            except ValidationError as error:
                raise UserError(f"{self.path}:{number}: is not a record; remove the line to make it again") from error
        return records

    def append(self, records: Iterable[Record]) -> None:
        """Add records. On a full disk what was there stays whole, and a ``UserError`` says how to go on."""
        lines = b"".join(RECORD.dump_json(record) + b"\n" for record in records)
        size = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            size = self.path.stat().st_size if self.path.exists() else 0
            with self.path.open("ab") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):
                os.truncate(self.path, size)
            raise UserError(
                f"{self.path}: can't be written ({error.strerror}); the records made before are kept: "
                "free space and give the same command again to go on"
            ) from error


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """``run.json`` (how stages were made), ``prompt/``, ``records/*.jsonl``, ``vocabulary.json``, ``results.json``."""

    path: Path
    command: str = field(default="", compare=False)

    @property
    def prompt(self) -> Path:
        """Folder of the PEFT adapter."""
        return self.path / "prompt"

    @property
    def results(self) -> Path:
        """The table's numbers."""
        return self.path / "results.json"

    @property
    def vocabulary(self) -> Path:
        """The text of each token id that the records hold."""
        return self.path / "vocabulary.json"

    def records(self, name: str) -> RecordFile:
        """The records of a method, or of calibration."""
        return RecordFile(self.path / "records" / f"{name}.jsonl")

    def manifest(self) -> dict[str, Any]:
        """What ``run.json`` says; empty for a new run."""
        path = self.path / "run.json"
        if not path.exists():
            return {"format": 1, "stages": {}}
        manifest = read_json(path, "run description")
        stages = manifest.get("stages") if isinstance(manifest, dict) else None
        if not isinstance(stages, dict) or not all(isinstance(s, dict) and "from" in s for s in stages.values()):
            raise UserError(f"{path}: is not a run description; choose another --output")
        whole: dict[str, Any] = manifest
        return whole

    def restart(self, stage: str, made_from: dict[str, Any], file: RecordFile) -> None:
        """Enter ``stage``; where it was begun from something else, its records go and it begins anew."""
        manifest = self.manifest()
        begun = manifest["stages"].get(stage)
        if begun is not None and begun["from"] != json.loads(json.dumps(made_from)):
            file.path.unlink(missing_ok=True)
            del manifest["stages"][stage]
            write_json(self.path / "run.json", manifest)
        self.enter(stage, made_from)

    def enter(self, stage: str, made_from: dict[str, Any]) -> None:
        """Stamp ``stage`` with what it is made from.

        Raises ``UserError`` where the run was begun from something else, so that one run never mixes two settings.
        """
        manifest = self.manifest()
        wanted = json.loads(json.dumps(made_from))
        begun = manifest["stages"].get(stage)
        if begun is not None and begun["from"] != wanted:
            key, was, now = _first_difference(begun["from"], wanted)
            raise UserError(
                f"{self.path}: its stage {stage} was begun with {key} = {was}, now {now}; "
                "give the same settings to go on, or choose another --output"
            )
        if begun is None:
            stamp = {"from": wanted, "command": self.command, "versions": versions(), "source": source_state()}
            manifest["stages"][stage] = stamp
            write_json(self.path / "run.json", manifest)


def _first_difference(was: Any, now: Any, key: str = "") -> tuple[str, Any, Any]:
    """The first setting in which two descriptions differ."""
    if isinstance(was, dict) and isinstance(now, dict):
        for name in [*was, *(n for n in now if n not in was)]:
            if was.get(name) != now.get(name):
                return _first_difference(was.get(name), now.get(name), f"{key}.{name}" if key else name)
    return key, json.dumps(was), json.dumps(now)
