"""The stages of a run with their progress on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dpc.engine import Decoder
from dpc.evaluate import Progress as Answered
from dpc.files import write_json
from dpc.lm import FrozenLM
from dpc.methods import check_methods
from dpc.pipeline import (
    CALIBRATION,
    Data,
    calibrate_prompt,
    describe_model,
    evaluate_methods,
    load_calibration,
    load_prompt,
    pick_for_trace,
    tune_prompt,
)
from dpc.report import rich_table, verdict, write_page
from dpc.runs import RunDirectory
from dpc.settings import Settings
from dpc.soft_prompt import SoftPrompt
from dpc.trace import TooShortError, save_npz, summarize_trace, trace_question
from dpc.tuning import TuningProgress, is_tuned

screen = Console(stderr=True)
table = Console()


def command_line() -> str:
    """What the user typed."""
    return " ".join(["dpc", *sys.argv[1:]])


@contextmanager
def _bars() -> Iterator[Progress]:
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
    with _bars() as bars:
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
    with _bars() as bars:
        stored = calibrate_prompt(lm, prompt, data, settings, run, _answer_bars(bars))
    write_json(prompt_directory / CALIBRATION, stored)
    best = max(point["accuracy"] for point in stored["curve"])
    never = stored["curve"][-1]["accuracy"]
    screen.print(
        f"tau = {stored['tau']:.4f}, chosen on {stored['n']} rows of {data.split}: "
        f"accuracy {best:.1%} there, {never:.1%} without a second pass"
    )
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
    prompt = load_prompt(lm, prompt_directory, methods)
    calibration = None
    if prompt is not None and prompt_directory is not None and tau is None and "dpc" in methods:
        calibration = load_calibration(prompt_directory, prompt, settings)
    if calibration and calibration["from"]["data"]["task"] != data.task.name:
        screen.print(f"note: tau was chosen on another task, {calibration['from']['data']['task']}")
    run = RunDirectory(output, command_line())
    with _bars() as bars:
        results = evaluate_methods(
            lm, prompt, calibration, data, methods, settings, run, tau=tau, progress=_answer_bars(bars)
        )
    threshold = tau if tau is not None else calibration["tau"] if calibration else None
    if prompt is not None and threshold is not None and "dpc" in methods:
        results["trace"] = _trace_one(lm, prompt, threshold, data, settings, run)
        write_json(run.results, results)
    _show(results, write_page(output))


def _trace_one(
    lm: FrozenLM, prompt: SoftPrompt, tau: float, data: Data, settings: Settings, run: RunDirectory
) -> dict[str, Any] | None:
    """Trace the instance most worth a look into ``trace.npz``; None where its rationale is too short for that."""
    example = pick_for_trace(run, data)
    room = settings.decoding.max_new_tokens or data.task.max_new_tokens
    try:
        traced = trace_question(
            Decoder(lm, settings.decoding), prompt, tau, settings.method, lm.encode(data.task.prompt(example)), room
        )
    except TooShortError:
        return None
    save_npz(traced, run.path / "trace.npz")
    return {
        "example_id": example.id,
        "question": example.question,
        "gold": example.answer,
        **summarize_trace(lm, traced),
    }


def _show(results: Mapping[str, Any], page: Path) -> None:
    table.print(rich_table(results))
    table.print(verdict(results))
    table.print(f"page: {page.resolve().as_uri()}", soft_wrap=True, markup=False, highlight=False)


def run_everything(
    lm: FrozenLM, splits: Mapping[str, Data], methods: Sequence[str], settings: Settings, output: Path
) -> None:
    """Tune, calibrate and evaluate into one run directory; what is there already is not made again."""
    check_methods(methods)
    run = RunDirectory(output, command_line())
    run.enter(
        "tune",
        {
            "model": describe_model(lm),
            "train": splits["train"].describe(),
            "dev": splits["dev"].describe(),
            "tuning": settings.tuning.model_dump(),
        },
    )
    if not is_tuned(run.prompt):
        screen.print(f"1/3 tune a soft prompt of {settings.tuning.length} tokens into {run.prompt}")
        tune_with_progress(lm, splits["train"], splits["dev"], settings, run.prompt, resume=True)
    if not (run.prompt / CALIBRATION).exists():
        screen.print("2/3 choose the trigger's threshold on the dev split")
        calibrate_with_progress(lm, run.prompt, splits["dev"], settings, output)
    screen.print("3/3 answer the test split")
    evaluate_with_progress(lm, run.prompt, splits["test"], methods, settings, output)
