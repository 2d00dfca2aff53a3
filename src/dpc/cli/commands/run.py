"""``dpc run``: everything in a row."""

from __future__ import annotations

from typing import Annotated

import typer

from dpc.cli.options import METHOD_NAMES, Output, Set, method_names
from dpc.errors import UserError
from dpc.tasks import TASKS

RunTask = Annotated[
    str | None, typer.Option(help=f"Benchmark: {', '.join(TASKS)}, or a Python file with a TASK. [else zoo]")
]


def run(
    output: Output,
    recipe: Annotated[
        str | None,
        typer.Argument(help="YAML file, or the name of a shipped recipe such as llama3-8b-gsm8k. Options override it."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Hub id or local folder of a causal language model. [else zoo, which ships]")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the model on the hub. [else its main branch]")
    ] = None,
    task: RunTask = None,
    data: Annotated[
        str | None, typer.Option(help="Hub id, folder or file of rows. [else the task's own source]")
    ] = None,
    methods: Annotated[str | None, typer.Option(help=f"Comma-separated. [else {METHOD_NAMES}]")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first test rows. [else all]")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Tune so many prompts, each from its own seed, in seed-N. [else 1]")
    ] = None,
    settings: Set = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16, float16 or float64. [else auto]")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 ... [else auto]")] = None,
    analyze: Annotated[
        bool | None, typer.Option("--analyze/--no-analyze", help="Draw the paper's figures. [else yes]")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would be done, and what it is estimated to cost.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: one JSON object.")] = False,
) -> None:
    """Do everything: tune a prompt, choose the threshold, evaluate every method, write figures, table and page.

    What is not said here is the recipe's, else what stands in brackets.
    """
    from dpc.run.recipes import draft_recipe

    if as_json and not dry_run:
        raise UserError("--json: expected together with --dry-run; a run leaves its numbers in results.json")
    options = {
        "model": model,
        "revision": revision,
        "task": task,
        "data": data,
        "methods": None if methods is None else method_names(methods),
        "limit": limit,
        "seeds": seeds,
        "dtype": dtype,
        "device": device,
        "analyze": analyze,
    }
    draft = draft_recipe(recipe, options, settings or [])
    from dpc.cli.run import run_recipe, show_plan

    if dry_run:
        show_plan(draft, output, as_json)
    else:
        run_recipe(draft, output)
