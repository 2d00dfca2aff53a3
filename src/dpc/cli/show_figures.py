"""What ``dpc analyze`` prints: the finding of each figure, and which other figures the folder has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from dpc.cli.progress import screen, table

# A measured S_late that differs from the recorded one by more than this share is not explained by rounding.
_FAR = 0.05
# Settings of a figure that say which instances of a run it shows, and not which run.
_SAMPLE = ("instances", "seed", "dtype")


def show_figures(described: Mapping[str, Any], names: Sequence[str], folder: Path) -> None:
    """Print the findings of the figures ``names``. described: the content of ``analysis.json``."""
    figures, not_drawn = described["figures"], described["not_drawn"]
    rows = Table(show_edge=False, pad_edge=False, box=None)
    rows.add_column("figure", no_wrap=True)
    rows.add_column("finding", overflow="fold")
    for name in names:
        if name in not_drawn:
            before = f"; the figure from before stays ({_sample(figures[name])})" if name in figures else ""
            rows.add_row(name, f"not drawn: {not_drawn[name]}{before}")
        else:
            rows.add_row(name, figures[name]["finding"])
    table.print(rows, markup=False, highlight=False)
    if (difference := described["difference_from_recorded_late_flow"]) > _FAR:
        screen.print(
            f"note: measured S_late differ by {difference:.0%} from those that the run recorded; does the run's task "
            "format its questions in another way, or was another type used?"
        )
    for about, kept in _from_before(described, names).items():
        screen.print(f"note: kept {', '.join(kept)}: {about}", highlight=False, markup=False)
    table.print(f"figures and data: {folder}", soft_wrap=True, markup=False, highlight=False)


def _from_before(described: Mapping[str, Any], names: Sequence[str]) -> dict[str, list[str]]:
    """Figures that were made from something else than those that were just drawn: names by what they were made from."""
    now, found = described["from"], dict[str, list[str]]()
    for name, figure in described["figures"].items():
        before = figure.get("from", {})
        if name in names or before == now:
            continue
        stale = any(before.get(key) != value for key, value in now.items() if key not in _SAMPLE)
        about = "other answers than the run has now; draw them again" if stale else f"drawn with {_sample(figure)}"
        found.setdefault(about, []).append(name)
    return found


def _sample(figure: Mapping[str, Any]) -> str:
    made = figure.get("from", {})
    return ", ".join(f"{name} {made[name]}" for name in _SAMPLE if name in made)
