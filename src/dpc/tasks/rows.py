"""Rows that are not JSON lines: tab-separated tables, whole JSON files; and the first of several names in a folder."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dpc.errors import UserError

_CSV_QUOTED = re.compile('"((?:[^"]|"")*)"')


def first_of(folder: Path, names: Sequence[str]) -> Path:
    """The first of ``names`` that is a file in ``folder``; ``UserError`` naming them all where there is none."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder}: has none of {', '.join(names)}; pass the folder that has them, or one file")


def read_text(path: Path) -> str:
    """A UTF-8 file; ``UserError`` naming it where it cannot be read, is empty, or is not UTF-8."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); pass a file of rows") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start + 1} is not UTF-8; save the file as UTF-8") from error
    if not text.strip():
        raise UserError(f"{path}: the file is empty; expected rows")
    return text


def read_json(path: Path) -> Any:
    """The value of a whole JSON file.

    Raises:
        UserError: naming the file, and the line where there is one, for what is not JSON, or an object with two entries
            of one name, of which Python would drop the first.
    """

    def entries(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = next((name for name, count in Counter(name for name, _ in pairs).items() if count > 1), None)
        if twice is not None:
            places = [str(place) for place, (name, _) in enumerate(pairs, start=1) if name == twice]
            raise UserError(
                f"{path}: entries {' and '.join(places[:2])} of one object are both named {twice!r}; give each its name"
            )
        return dict(pairs)

    try:
        return json.loads(read_text(path), object_pairs_hook=entries)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON ({error.msg} at column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: JSON beyond any benchmark file; pass the file as it was published") from error


def read_cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    r"""0-based line numbers and cells of a tab-separated file. Lines end at ``\n``, quotes are text.

    No row of a table spans lines, so a lone quote is a character of its cell. A cell that is quoted from end to end,
    with every quote inside doubled, was quoted by a spreadsheet and is unquoted.
    """
    for number, line in enumerate(read_text(path).removesuffix("\n").split("\n")):
        cells = line.removesuffix("\r").split("\t")
        yield number, [_unquoted(cell) for cell in cells] if '"' in line else cells


def _unquoted(cell: str) -> str:
    match = _CSV_QUOTED.fullmatch(cell)
    return match[1].replace('""', '"') if match else cell


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """0-based row numbers and the named columns of a tab-separated file whose first line names its columns.

    Raises:
        UserError: naming file and line, for a column that is not there, or a row of another length than the header.
    """
    lines = read_cells(path)
    _, header = next(lines)
    for column in columns:
        if column not in header:
            raise UserError(f"{path}:1: the column {column!r} is missing; expected {', '.join(columns)}")
    for number, cells in lines:
        if len(cells) != len(header):
            raise UserError(f"{path}:{number + 1}: has {len(cells)} columns, its header {len(header)}; mend the row")
        yield number - 1, {column: cells[header.index(column)] for column in columns}
