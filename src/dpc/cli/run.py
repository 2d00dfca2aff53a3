"""A recipe from its first check to its page: one run, or several tuning seeds of it, or only the plan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from dpc.cli.act import calibrate_act_with_progress
from dpc.cli.options import load_model, quiet_transformers
from dpc.cli.stages import (
    answer_with_progress,
    calibrate_with_progress,
    command_line,
    screen,
    show_results,
    table,
    tune_with_progress,
)
from dpc.errors import UserError
from dpc.files import read_json, write_json
from dpc.methods import use_calibration
from dpc.model.lm import FrozenLM
from dpc.prompt.soft_prompt import CONFIG_FILE, PROVENANCE_FILE, WEIGHTS_FILE
from dpc.records.directory import RecordFile, RunDirectory, file_sha256
from dpc.records.seeds import summarize_seeds
from dpc.report.seeds_table import rich_table
from dpc.report.table import label
from dpc.run.act_search import ACT
from dpc.run.plan import GIB, Plan, Stage, draws_figures, look_at, make_plan, seed_directories, with_seed
from dpc.run.preflight import prepare
from dpc.run.recipes import Draft, Recipe
from dpc.run.stages import CALIBRATION, Data, calibration_inputs, load_prompt, needs_prompt, tuning_inputs
from dpc.settings import Settings

SEEDS_FILE = "seeds.json"


def run_recipe(draft: Draft, output: Path) -> None:
    """Do what the recipe says, into ``output``; what is there already, made from the same things, is not made again.

    Raises ``UserError`` before any weight is loaded: with all mistakes, or where ``output`` was begun otherwise.
    """
    quiet_transformers()
    prepared = prepare(draft, output)
    recipe = prepared.recipe
    directories = seed_directories(recipe, output)
    for seed, path in directories.items():
        look_at(RunDirectory(path), prepared, with_seed(recipe.settings, seed))
    lm = load_model(recipe.model, recipe.dtype, recipe.device, recipe.revision)
    for seed, path in directories.items():
        if recipe.seeds > 1:
            screen.print(f"seed {seed}: {path}")
        run_everything(lm, prepared.splits, recipe, with_seed(recipe.settings, seed), path, draft.name)
    if recipe.seeds > 1:
        results = {seed: read_json(path / "results.json", "result") for seed, path in directories.items()}
        summary = summarize_seeds(results)
        write_json(output / SEEDS_FILE, summary)
        table.print(rich_table(summary))


def run_everything(
    lm: FrozenLM, splits: Mapping[str, Data], recipe: Recipe, settings: Settings, output: Path, name: str
) -> None:
    """Tune, calibrate, evaluate, analyse and report into one run directory."""
    run = RunDirectory(output, command_line())
    config = recipe.model_dump(mode="json") | {"settings": settings.model_dump(mode="json"), "seeds": 1}
    commit = getattr(lm.model.config, "_commit_hash", None)
    run.describe(recipe=name.removeprefix("recipe ") or None, config=config, model_commit=commit)
    steps = _Steps(recipe)
    prompt = run.prompt if needs_prompt(recipe.methods) else None
    if prompt is not None:
        _tune(lm, splits, settings, run, steps)
    if use_calibration(recipe.methods):
        _calibrate(lm, splits["dev"], settings, run, steps)
    if "act" in recipe.methods:
        _search_heads(lm, splits["dev"], settings, run, steps)
    steps.say("answer the test split")
    results = answer_with_progress(lm, prompt, splits["test"], recipe.methods, settings, output)
    if draws_figures(recipe):
        _analyze(lm, run, recipe.task, steps)
    show_results(results, output)


class _Steps:
    """Counts the steps of a run for whoever watches."""

    def __init__(self, recipe: Recipe) -> None:
        self._total = 1 + needs_prompt(recipe.methods) + use_calibration(recipe.methods)
        self._total += ("act" in recipe.methods) + draws_figures(recipe)
        self._now = 0

    def say(self, text: str) -> None:
        """Announce the next step."""
        self._now += 1
        screen.print(f"{self._now}/{self._total} {text}", highlight=False)


def _tune(lm: FrozenLM, splits: Mapping[str, Data], settings: Settings, run: RunDirectory, steps: _Steps) -> None:
    run.enter("tune", tuning_inputs(lm, splits["train"], splits["dev"], settings))
    if run.is_done("tune"):
        steps.say("tune a soft prompt: done before")
        return
    steps.say(f"tune a soft prompt of {settings.tuning.length} tokens into {run.prompt}")
    tune_with_progress(lm, splits["train"], splits["dev"], settings, run.prompt, resume=True)
    run.finish("tune", [run.prompt / name for name in (CONFIG_FILE, WEIGHTS_FILE, PROVENANCE_FILE)])


def _calibrate(lm: FrozenLM, dev: Data, settings: Settings, run: RunDirectory, steps: _Steps) -> None:
    prompt = load_prompt(lm, run.prompt)
    assert prompt is not None
    run.enter("calibrate", calibration_inputs(lm, prompt.sha256, dev, settings))
    if run.is_done("calibrate"):
        steps.say("choose the trigger's threshold: done before")
        return
    steps.say("choose the trigger's threshold on the dev split")
    calibrate_with_progress(lm, run.prompt, dev, settings, run.path)
    run.finish("calibrate", [run.prompt / CALIBRATION])


def _search_heads(lm: FrozenLM, dev: Data, settings: Settings, run: RunDirectory, steps: _Steps) -> None:
    if run.is_done("act"):
        steps.say("search the heads that ACT calibrates: done before")
        return
    steps.say("search the heads that ACT calibrates on the dev split")
    calibrate_act_with_progress(lm, run.prompt, dev, settings, run.path)
    run.finish("act", [run.prompt / ACT])


def _analyze(lm: FrozenLM, run: RunDirectory, task: str, steps: _Steps) -> None:
    # Imported here: figures that nobody asked for need no matplotlib.
    from dpc.cli.analyze import Folder, analyze_with_progress

    made = Folder(run.path / "analysis").description
    run.restart("analyze", {"records": file_sha256(run.records("dpc").path)}, RecordFile(made))
    if run.is_done("analyze"):
        steps.say("draw the paper's figures: done before")
        return
    steps.say(f"draw the paper's figures into {made.parent}")
    try:
        analyze_with_progress(run, lambda *_: lm, task=task)
    except UserError as error:
        screen.print(f"note: no figures: {error}", highlight=False, markup=False)
        return
    run.finish("analyze", [made])


def show_plan(draft: Draft, output: Path, as_json: bool) -> None:
    """Print what ``run_recipe`` would do. Configuration and tokenizer are loaded, no weights; nothing is written."""
    quiet_transformers()
    prepared = prepare(draft, output)
    plan = make_plan(prepared, output)
    if as_json:
        table.print_json(json.dumps(plan_json(plan)))
        return
    shape, recipe = plan.shape, plan.recipe
    table.print(
        f"{recipe.model}: {shape.parameters / 1e6:,.4g} million parameters in {plan.dtype}; {recipe.task}; {output}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
    table.print(_stages_table(plan))
    for note in plan.notes:
        table.print(f"{note}", highlight=False, soft_wrap=True, markup=False)


def _stages_table(plan: Plan) -> Table:
    drawn = Table(box=box.SIMPLE)
    several = plan.recipe.seeds > 1
    for name in (("seed",) if several else ()) + ("stage", "to do"):
        drawn.add_column(name, no_wrap=True)
    for name in ("tokens, M", "written, M", "GiB", "time"):
        drawn.add_column(name, justify="right")
    for stage in plan.stages:
        drawn.add_row(*((str(stage.seed),) if several else ()), *_stage_row(stage, plan))
    left = plan.left
    total = ("all", "", f"{left.tokens / 1e6:.3g}", f"{left.written / 1e6:.3g}")
    drawn.add_row(*(("",) if several else ()), *total, f"{plan.memory / GIB:.3g}", duration(left.seconds), style="bold")
    return drawn


def _stage_row(stage: Stage, plan: Plan) -> tuple[str, ...]:
    if stage.done >= stage.total:
        return (label(stage.name), "done", "", "", "", "")
    to_do = f"{stage.total - stage.done:,} of " * bool(stage.done) + f"{stage.total:,} {stage.unit}"
    what = (label(stage.name), to_do)
    memory = (plan.shape.weight_bytes + (stage.memory or 0)) / GIB
    tokens, written = (f"{value / 1e6:.3g}" for value in (stage.work.tokens, stage.work.written))
    return (*what, tokens, written, f"{memory:.3g}", duration(stage.work.seconds))


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days, two digits: no estimate is better than that."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"~{seconds / size:.2g} {unit}" if seconds < 99 * size else f"~{seconds / size:.0f} {unit}"
    return f"~{seconds:.2g} s" if seconds < 99 else f"~{seconds:.0f} s"


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan as JSON values: bytes, seconds, tokens, unrounded."""
    return {
        "format": 1,
        "recipe": plan.recipe.model_dump(mode="json"),
        "output": str(plan.output),
        "model": asdict(plan.shape) | {"dtype": plan.dtype, "weight_bytes": plan.shape.weight_bytes},
        "speed": asdict(plan.speed),
        "stages": [asdict(stage) | {"state": stage.state} for stage in plan.stages],
        "left": asdict(plan.left) | {"memory": plan.memory},
        "notes": list(plan.notes),
    }
