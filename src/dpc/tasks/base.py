"""The type of a benchmark, checks of its rows, and rows read from JSON lines."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from dpc.errors import UserError
from dpc.settings import TaskSettings
from dpc.types import Example, Score

SPLITS = ("train", "dev", "test")

_SURROGATE = re.compile("[\ud800-\udfff]")

Grader = Callable[[Example, str], Score]


@runtime_checkable
class Load(Protocol):
    """A function that loads the examples of a split."""

    def __call__(self, split: str, source: str | None = None, settings: TaskSettings = ..., /) -> list[Example]:
        """The examples of a split, in the order of their file; ``source`` None is the task's own."""


class NearDuplicate(NamedTuple):
    """Ids of a row and of the row of a later split that it resembles most, and their similarity from 0.8 to 1."""

    row: str
    other: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Task:
    """One benchmark: pure functions around ``Example``.

    load: ``(split, source, settings)`` to examples, in the order of their file; None is ``default_source``. Its result
        is checked: two examples with one id are a ``UserError``.
    prompt: the text before the rationale.
    target: the text that a prompt is tuned to produce after it, with its leading space.
    score: grades the text that a model wrote after ``prompt``.
    max_new_tokens: enough for the longest gold target.
    also_graded: further graders by name. Their accuracies are shown beside that of ``score`` and decide nothing.
    left_out: ``(split, source)`` to the rows that ``load`` leaves out of a split, as near duplicates of rows of a later
        one; None where it leaves out none.
    templated: whether questions are made from templates. Then most are near duplicates of others, and no leak.
    """

    name: str
    default_source: str
    max_new_tokens: int
    load: Load
    prompt: Callable[[Example], str]
    target: Callable[[Example], str]
    score: Grader
    also_graded: Mapping[str, Grader] = dataclasses.field(default_factory=dict)
    left_out: Callable[[str, str | None], list[NearDuplicate]] | None = None
    templated: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.load, _CheckedLoad):
            object.__setattr__(self, "load", _CheckedLoad(self.load, self.default_source))


@dataclass(frozen=True, slots=True)
class _CheckedLoad:
    """A task's ``load``, followed by the check that every id is there once."""

    load: Load
    default_source: str

    def __call__(self, split: str, source: str | None = None, settings: TaskSettings = TaskSettings()) -> list[Example]:
        examples = list(self.load(split, source, settings))
        check_ids(examples, [f"{source or self.default_source} {split} row {n}" for n in range(1, len(examples) + 1)])
        return examples


def check_ids(examples: Sequence[Example], places: Sequence[str]) -> None:
    """Raise ``UserError`` naming both places where two examples have one id; ``places`` says where each was read."""
    seen: dict[str, str] = {}
    for example, place in zip(examples, places, strict=True):
        if example.id in seen:
            raise UserError(
                f"{place}: has the id {example.id!r}, as {seen[example.id]} has; records name rows by their ids, so "
                "give every row its own"
            )
        seen[example.id] = place


def graded(extracted: str | None, equal: Callable[[str], bool]) -> Score:
    """The score of an extracted answer. ``equal`` tells whether it equals the gold answer; None is no answer."""
    if extracted is None:
        return Score(correct=False, extracted=None, reason="no_answer")
    correct = equal(extracted)
    return Score(correct=correct, extracted=extracted, reason="match" if correct else "mismatch")


def check_split(split: str) -> None:
    """Raise ``UserError`` unless ``split`` is one of ``SPLITS``."""
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")


def check_fields(row: object, fields: Sequence[str], where: str) -> dict[str, str]:
    """The named fields of one row; ``UserError`` starting with ``where`` unless each is a non-blank string."""
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: expected a JSON object, found {_json_type(row)}; write one object a line")
    for field in fields:
        if field not in row:
            raise UserError(f"{where}: the field {field!r} is missing; every row needs {', '.join(fields)}")
        value = row[field]
        if not isinstance(value, str):
            raise UserError(f"{where}: the field {field!r} must be a string, found {_json_type(value)}")
        if not value.strip():
            raise UserError(f"{where}: the field {field!r} is empty; fill it in or delete the row")
        if _SURROGATE.search(value):
            raise UserError(f"{where}: the field {field!r} has half of a surrogate pair; write whole characters")
    return {field: row[field] for field in fields}


def _json_type(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def read_jsonl(path: Path, fields: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    r"""0-based row numbers and the named fields of a UTF-8 file of JSON lines.

    Raises:
        UserError: naming file and 1-based line, for what ``read_values`` refuses, a line that is not a JSON object, or
            a field that is not a non-blank string.
    """
    for number, value in read_values(path):
        yield number, check_fields(value, fields, f"{path}:{number + 1}")


def read_values(path: Path) -> Iterator[tuple[int, Any]]:
    r"""0-based row numbers and JSON values, unchecked, of a UTF-8 file of JSON lines.

    Lines end at ``\n`` alone: GSM8K has rows with U+2028, at which ``str.splitlines`` would break them.

    Raises:
        UserError: naming file and 1-based line, for a file that cannot be read or has no rows, a byte order mark,
            text that is not UTF-8, a blank line, or one that is not JSON.
    """
    count = 0
    try:
        with path.open("rb") as lines:
            for count, line in enumerate(lines, start=1):
                yield count - 1, _parse(line, f"{path}:{count}")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); pass a .jsonl file") from error
    if count == 0:
        raise UserError(f"{path}: the file is empty; expected one JSON object a line")


def _parse(line: bytes, where: str) -> Any:
    if line.startswith(b"\xef\xbb\xbf"):
        raise UserError(f"{where}: starts with a byte order mark; save the file as UTF-8 without it")
    if not line.strip():
        raise UserError(f"{where}: the line is blank; delete it")
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: byte {error.start + 1} is not UTF-8; save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg} at column {error.colno}); mend or delete the line") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of open brackets
        raise UserError(f"{where}: JSON beyond any benchmark row; mend or delete the line") from error


def data_sha256(examples: Iterable[Example]) -> str:
    """SHA-256 (hex) over every field of every example, in order: two equal digests are the same data."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps(asdict(example), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
