"""A run on disk: what it was made from, records that are appended as they are made, and results."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import TypeAdapter, ValidationError

from dpc.errors import UserError
from dpc.files import read_json, write_atomically, write_json
from dpc.methods import METHODS
from dpc.types import Example, Record

RECORD: TypeAdapter[Record] = TypeAdapter(Record)
EXAMPLE: TypeAdapter[Example] = TypeAdapter(Example)


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
    """Append-only records, a JSON line each. A line torn by a kill is not read, and goes when records are added."""

    path: Path

    def read(self) -> list[Record]:
        """Whole records in the order they were made. Raises ``UserError`` naming file and line of a damaged one."""
        if not self.path.exists():
            return []
        records = []
        # What follows the last line end is torn, or being written just now.
        for number, line in enumerate(self.path.read_bytes().split(b"\n")[:-1], 1):
            try:
                records.append(RECORD.validate_json(line))
            except ValidationError as error:
                raise UserError(f"{self.path}:{number}: is not a record; remove the line to make it again") from error
        return records

    def append(self, records: Iterable[Record]) -> None:
        """Add records. On a full disk what was there stays whole, and a ``UserError`` says how to go on."""
        lines = b"".join(RECORD.dump_json(record) + b"\n" for record in records)
        size = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file:
                size = _drop_torn_line(file)
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if size is not None:
                with suppress(OSError):
                    os.truncate(self.path, size)
            raise UserError(
                f"{self.path}: can't be written ({error.strerror}); the records made before are kept: "
                "free space and give the same command again to go on"
            ) from error


def _drop_torn_line(file: BinaryIO) -> int:
    """Cut what follows the last line end; returns the size that is left, in bytes."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    if size == 0 or file.read(1) == b"\n":
        return size
    file.seek(0)
    return file.truncate(file.read(size).rfind(b"\n") + 1)


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

    @property
    def examples(self) -> Path:
        """The rows that were evaluated: question and gold answer of every record."""
        return self.path / "examples.jsonl"

    def write_examples(self, examples: Iterable[Example]) -> None:
        """Keep the rows that are evaluated, a JSON line each."""
        write_atomically(self.examples, b"".join(json.dumps(asdict(e)).encode() + b"\n" for e in examples))

    def read_examples(self) -> list[Example]:
        """The rows that were evaluated, in order. Raises ``UserError`` where there are none, or a line is damaged."""
        if not self.examples.exists():
            raise UserError(f"{self.examples}: no examples there; evaluate again, which keeps the records")
        found = []
        for number, line in enumerate(self.examples.read_bytes().split(b"\n")[:-1], 1):
            try:
                found.append(EXAMPLE.validate_json(line))
            except ValidationError as error:
                raise UserError(f"{self.examples}:{number}: is not an example; evaluate again") from error
        return found

    def records(self, name: str) -> RecordFile:
        """The records of a method, or of calibration."""
        return RecordFile(self.path / "records" / f"{name}.jsonl")

    def evaluated(self) -> dict[str, Any]:
        """What the evaluation was made from: model, data, settings. Raises ``UserError`` where there was none."""
        made: dict[str, Any] = self.manifest()["stages"].get("eval", {}).get("from", {})
        if not {"model", "data", "decoding"} <= made.keys():
            raise UserError(f"{self.path}: run.json does not say what was evaluated; make the run with `dpc eval`")
        return made

    def methods(self) -> list[str]:
        """The methods that have records, in the order of the registry."""
        return [name for name in METHODS if self.records(name).path.exists()]

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

    def enter(self, stage: str, made_from: dict[str, Any], fillable: Collection[str] = ()) -> None:
        """Stamp ``stage`` with what it is made from, and with each version of the software that went on with it.

        fillable: names that are null as long as nothing needed them; a later command may fill them, none changes them.
        Raises ``UserError`` where the run was begun from something else, so that one run never mixes two settings.
        """
        manifest = self.manifest()
        begun = manifest["stages"].get(stage)
        wanted = json.loads(json.dumps(made_from))
        stamp = {"command": self.command, "versions": versions(), "source": source_state()}
        if begun is None:
            manifest["stages"][stage] = {"from": wanted} | stamp
        else:
            known = begun["from"]
            for name in fillable:
                if known.get(name) is None:
                    known[name] = wanted[name]
                elif wanted[name] is None:
                    wanted[name] = known[name]
            self.refuse_other(stage, known, wanted)
            last = begun.get("continued", [begun])[-1]
            if any(last.get(name) != stamp[name] for name in ("versions", "source")):
                begun["continued"] = [*begun.get("continued", []), stamp]
        write_json(self.path / "run.json", manifest)

    def refuse_other(self, stage: str, known: dict[str, Any], wanted: dict[str, Any]) -> None:
        """Raise ``UserError`` naming the first setting in which two descriptions of ``stage`` differ, if there is one.

        known: what it was begun with. wanted: what it would be made from now.
        """
        wanted = json.loads(json.dumps(wanted))
        if known != wanted:
            key, was, now = _first_difference(known, wanted)
            raise UserError(
                f"{self.path}: its stage {stage} was begun with {key} = {was}, now {now}; "
                "give the same settings to go on, or choose another --output"
            )

    def finish(self, stage: str, made: Iterable[Path]) -> None:
        """Stamp ``stage`` as done, with the files that it has made, in this folder, and their hashes."""
        manifest = self.manifest()
        manifest["stages"][stage]["done"] = {str(path.relative_to(self.path)): file_sha256(path) for path in made}
        write_json(self.path / "run.json", manifest)

    def is_done(self, stage: str) -> bool:
        """Whether ``stage`` was finished, and every file that it made is still what it was."""
        done = self.manifest()["stages"].get(stage, {}).get("done")
        if not isinstance(done, dict):
            return False
        return all((self.path / name).is_file() and file_sha256(self.path / name) == is_ for name, is_ in done.items())

    def describe(self, **entries: Any) -> None:
        """Say in ``run.json`` what the last command was asked for; the stages say what they were made from."""
        manifest = self.manifest()
        described = {"format": manifest["format"], **json.loads(json.dumps(entries)), "stages": manifest["stages"]}
        if described != manifest:
            write_json(self.path / "run.json", described)


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_NOTHING = object()


def _first_difference(was: Any, now: Any, key: str = "") -> tuple[str, Any, Any]:
    """The first setting in which two descriptions differ."""
    if isinstance(was, dict) and isinstance(now, dict):
        for name in [*was, *(n for n in now if n not in was)]:
            if was.get(name, _NOTHING) != now.get(name, _NOTHING):
                inner = f"{key}.{name}" if key else name
                return _first_difference(was.get(name, _NOTHING), now.get(name, _NOTHING), inner)
    before, after = ("nothing" if value is _NOTHING else json.dumps(value) for value in (was, now))
    return key, before, after
