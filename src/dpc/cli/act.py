"""``dpc calibrate --method act`` with its progress on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dpc.cli.stages import command_line, progress_bars, screen
from dpc.files import write_json
from dpc.model.lm import FrozenLM
from dpc.records.directory import RunDirectory
from dpc.run.act_search import ACT, SearchProgress, search_heads
from dpc.run.stages import Data, load_prompt
from dpc.settings import Settings


def calibrate_act_with_progress(
    lm: FrozenLM, prompt_directory: Path, data: Data, settings: Settings, run_directory: Path
) -> dict[str, Any]:
    """Search the heads that ACT calibrates on ``data``, and write them beside the adapter."""
    prompt = load_prompt(lm, prompt_directory)
    assert prompt is not None
    with progress_bars() as shown:
        row = shown.add_task("act", total=None, note="")

        def show(progress: SearchProgress) -> None:
            shown.start()
            shown.update(row, total=progress.total, completed=progress.done, note=f"{progress.kept} heads kept")

        stored = search_heads(lm, prompt, data, settings, RunDirectory(run_directory, command_line()), show)
    write_json(prompt_directory / ACT, stored)
    found = f"{len(stored['heads'])} of {len(stored['tried'])} heads raise accuracy alone on {stored['n']} rows"
    outcome = (
        f"{stored['calibrated']:.1%} right with all of these calibrated, {stored['uncalibrated']:.1%} with none"
        if stored["heads"]
        else "act will answer as prompt tuning does"
    )
    screen.print(f"{found} of {data.split}: {outcome}")
    return stored
