"""The command ``dpc bench``: points are measured one after the other, and their figures shown as they come."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from transformers.utils import logging

from dpc.bench.figures import Figure, figures
from dpc.bench.measure import Bench, machine
from dpc.bench.opponent import FOLDER
from dpc.bench.points import POINTS, get_point
from dpc.bench.table import cells, describe, markdown, rich_table, write_readme
from dpc.cli.stages import command_line
from dpc.runs import source_state

README = FOLDER / "README.md"


def run_bench(names: Sequence[str], repeats: int, quick: bool, prompt: Path | None, as_json: bool, write: bool) -> None:
    """Measure the points called ``names``, all where none is named; a table, or a JSON line a figure."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    bench, found = Bench(repeats, quick, prompt), []
    screen, table = Console(stderr=True), Console()
    for name in names or POINTS:
        if not as_json:
            screen.print(f"[dim]{name} ...[/dim]", highlight=False)
        for figure in figures(name, get_point(name), bench):
            found.append(figure)
            if as_json:
                print(json.dumps(figure.to_json(bench)), flush=True)
            else:
                screen.print("  " + "  ".join(filter(None, cells(figure))), highlight=False)
    if not as_json:
        table.print(rich_table(found))
        table.print(describe(machine()), style="dim", highlight=False)
    if write:
        write_readme(README, markdown(found, _facts(bench, found)))


def _facts(bench: Bench, found: Sequence[Figure]) -> list[tuple[str, str]]:
    source = source_state()
    commit = source.get("commit", "unknown")[:12] + (" with changes" if source.get("dirty") else "")
    held = [figure.holds for figure in found if figure.holds is not None]
    return [
        ("command", f"`{command_line()}`, medians of {bench.repeats}"),
        ("commit", commit),
        ("machine", describe(machine())),
        ("targets met", f"{sum(held)} of {len(held)} that could be measured"),
    ]
