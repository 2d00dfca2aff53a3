"""Figures as a table: for the terminal, and between the markers of ``benchmarks/README.md``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dpc.bench.figures import Figure
from dpc.bench.measure import Machine
from dpc.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

BLOCK = re.compile(r"(<!-- generated: bench -->\n).*?(<!-- end -->)", re.DOTALL)
HEADER = ("figure", "target", "measured", "holds", "why not")


def cells(figure: Figure) -> tuple[str, str, str, str, str]:
    """One line of the table."""
    measured = "–" if figure.measured is None else f"{figure.measured:.3g}"
    holds = {True: "yes", False: "no", None: "–"}[figure.holds]
    return figure.name, "–" if figure.target is None else str(figure.target), measured, holds, figure.reason


def rich_table(figures: Sequence[Figure]) -> Table:
    """For the terminal."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in HEADER:
        table.add_column(name, justify="right" if name in ("target", "measured") else "left", overflow="fold")
    for figure in figures:
        table.add_row(*cells(figure), style="bold red" if figure.holds is False else None)
    return table


def describe(machine: Machine) -> str:
    """The machine in one line."""
    gpu = machine.gpu or "no GPU"
    return (
        f"{machine.processor}, {machine.cpus} CPUs, {machine.threads} threads, {machine.memory_gib} GiB, {gpu}, "
        f"{machine.system}; Python {machine.python}, torch {machine.torch}, transformers {machine.transformers}, "
        f"PEFT {machine.peft}"
    )


def markdown(figures: Sequence[Figure], facts: Sequence[tuple[str, str]]) -> str:
    """``facts`` (how and where it was measured) and the table."""
    lines = [f"- {name}: {value}" for name, value in facts]
    lines += ["", f"| {' | '.join(HEADER)} |", "|---|--:|--:|---|---|"]
    lines += [f"| {' | '.join(cells(figure))} |" for figure in figures]
    return "\n".join(lines)


def write_readme(path: Path, text: str) -> None:
    """Put ``text`` between the markers of ``path``. Raises ``UserError`` where there is no such file or block."""
    if not path.is_file():
        raise UserError(f"--write: {path} is not there; run in a checkout, installed with pip -e")
    before = path.read_text("utf-8")
    if not BLOCK.search(before):
        raise UserError(f"--write: {path} has no block <!-- generated: bench --> ... <!-- end -->; put it back")
    path.write_text(BLOCK.sub(lambda match: f"{match[1]}{text}\n{match[2]}", before), "utf-8", newline="\n")
