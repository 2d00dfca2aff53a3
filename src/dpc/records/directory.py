"""A run directory: what its stages were made from, the records, and the names of its files."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import TypeAdapter, ValidationError

from dpc.errors import UserError
from dpc.files import read_json, write_atomically, write_json
from dpc.methods import METHODS
from dpc.records.lock import directory_lock
from dpc.types import Example, Record

RECORD: TypeAdapter[Record] = TypeAdapter(Record)
EXAMPLE: TypeAdapter[Example] = TypeAdapter(Example)
# The names of files with a calibration's records begin so. They are in the same folder as those of methods.
CALIBRATION_RECORDS = "calibration"


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
    """Git commit of this package's own checkout, and whether it has uncommitted changes; empty elsewhere.

    A repository that only surrounds an installed package is not a checkout of it.
    """
    here = Path(__file__).resolve()
    # Variables such as GIT_DIR, which git sets for its hooks, name another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() / "src" / "dpc" != here.parent.parent:
            return {}
        git("ls-files", "--error-unmatch", here.name)
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {}


@dataclass(frozen=True, slots=True)
class RecordFile:
    """Append-only records, a JSON line each. An incomplete last line is ignored, and removed when records are added."""

    path: Path

    def read(self) -> list[Record]:
        """Whole records in the order they were made. Raises ``UserError`` naming file and line of a damaged one."""
        if not self.path.exists():
            return []
        records = []
        # What follows the last line end is incomplete, or is being written.
        for number, line in enumerate(self.path.read_bytes().split(b"\n")[:-1], 1):
            try:
                records.append(RECORD.validate_json(line))
            except ValidationError as error:
                raise UserError(f"{self.path}:{number}: is not a record; remove the line to make it again") from error
        return records

    def append(self, records: Iterable[Record]) -> None:
        """Add records. Raises ``UserError`` on a full disk; the records from before are kept."""
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
        """The numbers of the table."""
        return self.path / "results.json"

    @property
    def history(self) -> Path:
        """The tuning curve: a JSON line per update."""
        # ``HISTORY_FILE`` of prompt/tuning.py, whose import loads torch.
        return self.prompt / "history.jsonl"

    @property
    def vocabulary(self) -> Path:
        """The text of each token id that the records hold."""
        return self.path / "vocabulary.json"

    @property
    def examples(self) -> Path:
        """The evaluated rows: question and gold answer of every record."""
        return self.path / "examples.jsonl"

    def write_examples(self, examples: Iterable[Example]) -> None:
        """Write the evaluated rows, a JSON line each."""
        write_atomically(self.examples, b"".join(json.dumps(asdict(e)).encode() + b"\n" for e in examples))

    def read_examples(self) -> list[Example]:
        """The evaluated rows, in order. Raises ``UserError`` where there are none, or a line is damaged."""
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
        """The methods that have records: those that ship with dpc in the registry's order, then others by name."""
        found = {path.stem for path in (self.path / "records").glob("*.jsonl")}
        own = {name for name in found if not name.startswith(CALIBRATION_RECORDS)} - METHODS.keys()
        return [*(name for name in METHODS if name in found), *sorted(own)]

    def manifest(self) -> dict[str, Any]:
        """The content of ``run.json``; without stages for a new run."""
        path = self.path / "run.json"
        if not path.exists():
            return {"format": 1, "stages": {}}
        manifest = read_json(path, "run description")
        stages = manifest.get("stages") if isinstance(manifest, dict) else None
        if not isinstance(stages, dict) or not all(isinstance(s, dict) and "from" in s for s in stages.values()):
            raise UserError(f"{path}: is not a run description; choose another --output")
        whole: dict[str, Any] = manifest
        return whole

    def lock(self) -> AbstractContextManager[None]:
        """A context manager that holds the directory's lock, so that no other process writes it.

        Raises ``UserError`` as ``directory_lock`` does.
        """
        return directory_lock(self.path, self.command)

    def restart(
        self, stage: str, made_from: dict[str, Any], file: RecordFile, recorded: dict[str, Any] | None = None
    ) -> None:
        """Enter ``stage``; where it was begun from something else, its records are removed and it begins anew."""
        manifest = self.manifest()
        begun = manifest["stages"].get(stage)
        if begun is not None and begun["from"] != json.loads(json.dumps(made_from)):
            file.path.unlink(missing_ok=True)
            del manifest["stages"][stage]
            write_json(self.path / "run.json", manifest)
        self.enter(stage, made_from, recorded=recorded)

    def enter(
        self,
        stage: str,
        made_from: dict[str, Any],
        fillable: Collection[str] = (),
        recorded: dict[str, Any] | None = None,
    ) -> None:
        """Stamp ``stage`` with what it is made from.

        fillable: names that are null as long as nothing needed them; a later command may fill them, none changes them.
        recorded: settings that do not identify the stage. Where a later command continues with other ones, or with
        other versions of the software, these are appended to the stage's ``continued``.
        Raises ``UserError`` where the stage was begun from something else, so that a run never mixes two settings.
        """
        manifest = self.manifest()
        begun = manifest["stages"].get(stage)
        wanted = json.loads(json.dumps(made_from))
        stamp = {"command": self.command, "versions": versions(), "source": source_state()}
        if recorded is not None:
            stamp["recorded"] = json.loads(json.dumps(recorded))
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
            if any(last.get(name) != stamp.get(name) for name in ("versions", "source", "recorded")):
                begun["continued"] = [*begun.get("continued", []), stamp]
        write_json(self.path / "run.json", manifest)

    def amend(self, stage: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Replace what ``stage`` was begun from by ``change`` of it; nothing where the stage was not begun."""
        manifest = self.manifest()
        begun = manifest["stages"].get(stage)
        if begun is None:
            return
        changed = json.loads(json.dumps(change(begun["from"])))
        if changed != begun["from"]:
            begun["from"] = changed
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
        """Whether ``stage`` was finished, and every file that it made is unchanged."""
        done = self.manifest()["stages"].get(stage, {}).get("done")
        if not isinstance(done, dict):
            return False
        return all((self.path / name).is_file() and file_sha256(self.path / name) == is_ for name, is_ in done.items())

    def describe(self, **entries: Any) -> None:
        """Write the settings of the last command to ``run.json``; each stage has what it was made from."""
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
