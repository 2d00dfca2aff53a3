"""What a benchmark is, and how its rows are read from JSON lines."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dpc.errors import UserError
from dpc.types import Example, Score

SPLITS = ("train", "dev", "test")

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Task:
    """One benchmark: four pure functions around ``Example``.

    load: ``(split, source)`` to examples, in the order of their file; None is ``default_source``.
    prompt: the text before the rationale. target: what a prompt is tuned to write after it, with its leading space.
    score: grades what a model wrote after ``prompt``. max_new_tokens: room for the longest gold target.
    """

    name: str
    default_source: str
    max_new_tokens: int
    load: Callable[[str, str | None], list[Example]]
    prompt: Callable[[Example], str]
    target: Callable[[Example], str]
    score: Callable[[Example, str], Score]


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

    Lines end at ``\n`` alone: GSM8K has rows with U+2028, at which ``str.splitlines`` would break them.

    Raises:
        UserError: naming file and 1-based line, for a file that cannot be read or has no rows, a byte order mark,
            text that is not UTF-8, a line that is not a JSON object, or a field that is not a non-blank string.
    """
    count = 0
    try:
        with path.open("rb") as lines:
            for count, line in enumerate(lines, start=1):
                where = f"{path}:{count}"
                yield count - 1, check_fields(_parse(line, where), fields, where)
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
