"""The stages of a run with their progress on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dpc.files import write_json
from dpc.methods import use_calibration
from dpc.model.lm import FrozenLM
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.prompt.tuning import TuningProgress
from dpc.records.directory import RunDirectory
from dpc.report import rich_table, threshold_verdict, verdict, write_page
from dpc.run.act_search import load_act
from dpc.run.evaluate import Progress as Answered
from dpc.run.maps import write_maps
from dpc.run.stages import (
    CALIBRATION,
    Data,
    calibrate_prompt,
    evaluate_methods,
    load_calibration,
    load_prompt,
    tune_prompt,
)
from dpc.settings import Settings

screen = Console(stderr=True)
table = Console()


def command_line() -> str:
    """What the user typed."""
    return " ".join(["dpc", *sys.argv[1:]])


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Bars on the terminal for as long as the block lasts."""
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    bars = Progress(*columns, console=screen)
    try:
        # Started by the first report: an error before it is then the only line.
        yield bars
    finally:
        if bars.live.is_started:
            bars.stop()


def _answer_bars(bars: Progress) -> Callable[[str, Answered], None]:
    rows: dict[str, Any] = {}

    def show(name: str, progress: Answered) -> None:
        bars.start()
        if name not in rows:
            rows[name] = bars.add_task(name, total=progress.total, note="")
        share = progress.correct / max(1, progress.done)
        bars.update(rows[name], completed=progress.done, note=f"{share:.1%} right")

    return show


def tune_with_progress(
    lm: FrozenLM, train: Data, dev: Data, settings: Settings, output: Path, resume: bool
) -> SoftPrompt:
    """Tune a prompt into ``output``, showing loss, speed and time left."""
    with progress_bars() as bars:
        row = bars.add_task("tune", total=None, note="")
        seen = {"dev": ""}

        def show(progress: TuningProgress) -> None:
            if progress.dev_accuracy is not None:
                seen["dev"] = f", dev {progress.dev_accuracy:.1%}"
            note = f"loss {progress.loss:.3f}{seen['dev']}, {progress.tokens_per_second:,.0f} tokens/s"
            bars.start()
            bars.update(row, total=progress.steps, completed=progress.step, note=note)

        return tune_prompt(lm, train, dev, settings, output, resume=resume, progress=show)


def calibrate_with_progress(
    lm: FrozenLM, prompt_directory: Path, data: Data, settings: Settings, run_directory: Path
) -> dict[str, Any]:
    """Choose tau on ``data`` and write it beside the adapter."""
    prompt = load_prompt(lm, prompt_directory)
    assert prompt is not None
    run = RunDirectory(run_directory, command_line())
    with progress_bars() as bars:
        stored = calibrate_prompt(lm, prompt, data, settings, run, _answer_bars(bars))
    write_json(prompt_directory / CALIBRATION, stored)
    best = max(point["accuracy"] for point in stored["curve"])
    never = stored["curve"][-1]["accuracy"]
    screen.print(
        f"tau = {stored['tau']:.4f}, chosen on {stored['n']} rows of {data.split}: "
        f"accuracy {best:.1%} there, {never:.1%} without a second pass"
    )
    if never in (0.0, 1.0):
        state = "right" if never else "wrong"
        screen.print(f"note: every first answer is {state}: nothing is known of the trigger as a detector")
    return stored


def evaluate_with_progress(
    lm: FrozenLM,
    prompt_directory: Path | None,
    data: Data,
    methods: Sequence[str],
    settings: Settings,
    output: Path,
    tau: float | None = None,
) -> None:
    """Evaluate, then print the table and write the page."""
    show_results(answer_with_progress(lm, prompt_directory, data, methods, settings, output, tau), output)


def answer_with_progress(
    lm: FrozenLM,
    prompt_directory: Path | None,
    data: Data,
    methods: Sequence[str],
    settings: Settings,
    output: Path,
    tau: float | None = None,
) -> dict[str, Any]:
    """Answer and grade every row with every method; returns what ``results.json`` holds."""
    prompt = load_prompt(lm, prompt_directory, methods)
    calibration = None
    if prompt is not None and prompt_directory is not None and tau is None and use_calibration(methods):
        calibration = load_calibration(prompt_directory, prompt, settings)
    if calibration and calibration["from"]["data"]["task"] != data.task.name:
        screen.print(f"note: tau was chosen on another task, {calibration['from']['data']['task']}")
    act = None
    if prompt is not None and prompt_directory is not None and "act" in methods:
        act = load_act(prompt_directory, lm, prompt, data.task.name, settings)
    run = RunDirectory(output, command_line())
    with progress_bars() as bars:
        results = evaluate_methods(
            lm, prompt, calibration, data, methods, settings, run, tau=tau, act=act, progress=_answer_bars(bars)
        )
    if prompt is not None and "dpc" in methods:
        records = run.records("dpc").read()
        write_maps(lm, prompt, data.task, data.examples, records, settings.method, run.path / "maps")
    return results


def show_results(results: Mapping[str, Any], output: Path) -> None:
    """Write the page; print table, verdicts and the page's address."""
    page = write_page(output)
    table.print(rich_table(results))
    for line in (verdict(results), threshold_verdict(results)):
        if line:
            table.print(line)
    table.print(f"page: {page.resolve().as_uri()}", soft_wrap=True, markup=False, highlight=False)
