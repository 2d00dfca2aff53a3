"""Tables of figures: for the terminal, and for ``benchmarks/README.md`` from the kept lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.points import POINTS
from dpc.errors import UserError
from dpc.files import write_atomically

if TYPE_CHECKING:
    from rich.table import Table

HEADER = ("figure", "target", "measured", "met", "reason if not")
Line = Mapping[str, Any]
"""A figure as ``Figure.to_json`` returns it."""


def cells(line: Line) -> tuple[str, str, str, str, str]:
    """The cells of one line of the table."""
    target = "–" if line["target"] is None else f"{'≥' if line['sense'] == '>=' else '≤'} {line['target']:.3g}"
    measured = "–" if line["measured"] is None else f"{line['measured']:.3g}"
    return line["name"], target, measured, {True: "yes", False: "no", None: "–"}[line["holds"]], line["reason"]


def rich_table(lines: Sequence[Line]) -> Table:
    """The table for the terminal."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in HEADER:
        table.add_column(name, justify="right" if name in ("target", "measured") else "left", overflow="fold")
    for line in lines:
        table.add_row(*cells(line), style="bold red" if line["holds"] is False else None)
    return table


def describe(machine: Mapping[str, Any]) -> str:
    """The machine in one line."""
    return (
        f"{machine['processor']}, {machine['cpus']} CPUs, {machine['threads']} threads, {machine['memory_gib']} GiB, "
        f"{machine['gpu'] or 'no GPU'}, {machine['system']}; Python {machine['python']}, torch {machine['torch']}, "
        f"transformers {machine['transformers']}, PEFT {machine['peft']}"
    )


def markdown_lines(lines: Sequence[Line]) -> list[str]:
    """The table in Markdown, with how and on what machine the figures were measured."""
    if not lines:
        return ["Not measured yet: `dpc bench --write`."]
    held = [line["holds"] for line in lines if line["holds"] is not None]
    facts = {
        "command": [f"`{line['command']}`" for line in lines],
        "commit": [line["commit"][:12] for line in lines],
        "medians of": [str(line["repeats"]) for line in lines],
        "machine": [describe(line["machine"]) for line in lines],
        "targets met": [f"{sum(held)} of {len(held)} that could be measured"],
    }
    said = [f"- {name}: {'; '.join(dict.fromkeys(values))}" for name, values in facts.items()]
    return [*said, "", f"| {' | '.join(HEADER)} |", "|---|--:|--:|---|---|"] + [
        f"| {' | '.join(cells(line))} |" for line in lines
    ]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The figures kept in ``path``; none if there is no such file. Raises ``UserError`` if it can't be read."""
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    except ValueError as error:
        raise UserError(f"{path}: is not JSON lines; delete it and measure again") from error


def keep_lines(path: Path, new: Iterable[Line]) -> None:
    """Write figures to ``path``, replacing older ones of the same points; sorted by point.

    Raises ``UserError`` if its folder does not exist.
    """
    if not path.parent.is_dir():
        raise UserError(f"--write: {path.parent} does not exist; run in a checkout, installed with pip -e")
    new = list(new)
    again = {_point(line) for line in new}
    kept = [line for line in read_lines(path) if _point(line) not in again]
    order = list(POINTS)
    lines = sorted([*kept, *new], key=lambda line: order.index(_point(line)))
    write_atomically(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())


def _point(line: Line) -> str:
    return str(line["name"]).partition(":")[0]
