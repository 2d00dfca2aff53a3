"""Sources of rows (files, folders, the hub), and the dev split that is drawn for a benchmark without one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dpc.errors import UserError
from dpc.hub import Repository, check_repository, hub_or_cache
from dpc.settings import TaskSettings
from dpc.tasks.base import Load, check_split, read_jsonl
from dpc.types import Example

DEV_ROWS = 500


def local_path(source: str, suffixes: Sequence[str] = (".jsonl",)) -> Path | None:
    """The file or folder that ``source`` names, None for a hub id. What ends in one of ``suffixes`` is a file."""
    path = Path(source).expanduser()
    return path if path.exists() or path.suffix in suffixes else None


def jsonl_loader(name: str, question: str, answer: str, rationale: str | None = None) -> Load:
    """A ``load`` for JSON lines that have a field for each part of an example.

    It reads the file ``SPLIT.jsonl`` where the source is a folder, else the source; without one, the folder ``name``.
    Ids are ``name/split/row``, rows counted from 0. It raises ``UserError`` for an unknown split, and for what
    ``read_jsonl`` refuses.
    """
    fields = [field for field in (question, answer, rationale) if field is not None]

    def load(split: str, source: str | None = None, settings: TaskSettings = TaskSettings()) -> list[Example]:
        check_split(split)
        path = Path(source or name).expanduser()
        rows = read_jsonl(path / f"{split}.jsonl" if path.is_dir() else path, fields)
        return [
            Example(f"{name}/{split}/{number}", row[question], row[answer], row[rationale] if rationale else None)
            for number, row in rows
        ]

    return load


def hub_rows(source: str, config: str | None, split: str, instead: str) -> Iterator[Mapping[str, Any]]:
    """Rows of a data set of the Hugging Face hub, or of its copies in the cache where it can't be reached; unchecked.

    Raises:
        UserError: in one line, with what to pass ``instead``, whatever keeps the data set from loading.
    """
    repository = Repository(source, source, "dataset", file="README.md", instead=f"pass --data: {instead}")
    check_repository(repository)
    # Outside of hub_or_cache: when it is imported, which takes a second, it reads whether the hub may be asked.
    from datasets import load_dataset

    try:
        with hub_or_cache(repository) as cached:
            rows = _from_cache(source, config, split) if cached else load_dataset(source, config, split=split)
    except UserError:
        raise
    # Damaged and renamed data sets raise a dozen unrelated types.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"{source!r} is no local path and did not load from the Hugging Face hub ({reason}); pass {instead}"
        ) from error
    yield from rows


def _from_cache(source: str, config: str | None, split: str) -> Any:
    """Rows that ``load_dataset`` prepared before, or those in a snapshot that ``hf download`` left."""
    from datasets import load_dataset
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return load_dataset(source, config, split=split)
    except Exception as unprepared:
        try:
            folder = snapshot_download(source, repo_type="dataset", local_files_only=True)
        except LocalEntryNotFoundError:
            raise unprepared from None
    return load_dataset(folder, config, split=split)


def draw_dev(name: str, count: int) -> frozenset[int]:
    """The row numbers, out of ``count`` train rows, of the dev split: 500 rows, or a fifth where that is less.

    Drawn by a hash of ``name`` and row number. So the split does not depend on a random generator, and it covers a
    sorted file evenly.
    """
    order = sorted(range(count), key=lambda number: hashlib.sha256(f"{name} dev {number}".encode()).digest())
    return frozenset(order[: min(DEV_ROWS, count // 5)])


def train_or_dev(name: str, examples: Sequence[Example], split: str, source: str) -> list[Example]:
    """The examples that ``draw_dev`` draws from a train file, for the split dev, or all others, in their order.

    Raises:
        UserError: where dev is asked for and there are too few rows.
    """
    dev = draw_dev(name, len(examples))
    if split == "dev" and not dev:
        raise UserError(f"{source}: {len(examples)} train rows are too few to take a dev split from; five are enough")
    return [example for number, example in enumerate(examples) if (number in dev) == (split == "dev")]


def spread(name: str, examples: Sequence[Example]) -> list[Example]:
    """The examples in an order drawn by a hash of ``name`` and the row number at the end of their ids.

    For files that are sorted by subject, whose first rows are all of one subject.
    """
    return sorted(examples, key=lambda e: hashlib.sha256(f"{name} order {_row_number(e)}".encode()).digest())


def in_row_order(examples: Sequence[Example]) -> list[Example]:
    """The examples in the order of their file, whatever order they were loaded in."""
    numbers = [_row_number(example) for example in examples]
    if None in numbers or len(set(numbers)) < len(numbers):
        return list(examples)
    return sorted(examples, key=lambda example: _row_number(example) or 0)


def _row_number(example: Example) -> int | None:
    number = example.id.rpartition("/")[2]
    return int(number) if number.isascii() and number.isdigit() else None
