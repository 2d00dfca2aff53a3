"""Run ``dpc bench``: measure the points one after another, and show each figure when it is measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers.utils import logging

from benchmarks.figures import figures
from benchmarks.measure import FOLDER, Bench, quiet_peft
from benchmarks.points import POINTS, get_point
from benchmarks.table import cells, describe, keep_lines, rich_table
from dpc.cli.progress import command_line
from dpc.records.directory import source_state

RESULTS = FOLDER / "results.jsonl"


def run_bench(names: Sequence[str], repeats: int, quick: bool, prompt: Path | None, as_json: bool, write: bool) -> None:
    """Measure the points called ``names``, or all for no names; print a table, or one JSON line per figure."""
    logging.set_verbosity_error()
    quiet_peft()
    logging.disable_progress_bar()
    bench, made_by = Bench(repeats, quick, prompt), _made_by()
    screen, lines = Console(stderr=True), list[dict[str, Any]]()
    for name in names or POINTS:
        if not as_json:
            screen.print(f"[dim]{name} ...[/dim]", highlight=False)
        measured = []
        for figure in figures(name, get_point(name), bench):
            measured.append(figure.to_json(bench) | made_by)
            if as_json:
                print(json.dumps(measured[-1]), flush=True)
            else:
                screen.print("  " + "  ".join(filter(None, cells(measured[-1]))), highlight=False)
        if write:
            # After each point, so that an error in the next one loses nothing.
            keep_lines(RESULTS, measured)
        lines += measured
    if not as_json:
        Console().print(rich_table(lines))
        Console().print(describe(lines[0]["machine"]), style="dim", highlight=False)


def _made_by() -> dict[str, str]:
    source = source_state()
    commit = source.get("commit", "unknown") + (" with changes" if source.get("dirty") else "")
    return {"command": command_line(), "commit": commit}
