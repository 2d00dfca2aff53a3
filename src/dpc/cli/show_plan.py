"""What ``dpc run --dry-run`` prints: the stages of a run, and what they are estimated to cost."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from dpc.cli.progress import table
from dpc.report.formats import method_label
from dpc.run.plan import GIB, Plan, Stage, make_plan
from dpc.run.preflight import prepare
from dpc.run.recipes import Draft


def show_plan(draft: Draft, output: Path, as_json: bool, trust_remote_code: bool = False) -> None:
    """Print what ``dpc run`` would do. Configuration and tokenizer are loaded, no weights; nothing is written."""
    prepared = prepare(draft, output, trust_remote_code)
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
    for way, text in plan.asked.items():
        table.print(
            f"\nthe first question as the model reads it ({way}):", highlight=False, soft_wrap=True, markup=False
        )
        table.print(text, highlight=False, soft_wrap=True, markup=False, style="dim")


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
        return (method_label(stage.name), "done", "", "", "", "")
    to_do = f"{stage.total - stage.done:,} of " * bool(stage.done) + f"{stage.total:,} {stage.unit}"
    what = (method_label(stage.name), to_do)
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
        "asked": dict(plan.asked),
        "notes": list(plan.notes),
    }
