"""``dpc run``: everything in a row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpc.cli.options import (
    METHOD_NAMES,
    METHODS_HELP,
    Adapter,
    Output,
    Set,
    Threads,
    TrustRemoteCode,
    check_folder,
    load_model,
    method_names,
    one_adapter,
    quiet_datasets,
    quiet_transformers,
)
from dpc.errors import UserError
from dpc.tasks import TASKS

if TYPE_CHECKING:
    from dpc.run.recipes import Draft

RecipeName = Annotated[
    str | None,
    typer.Argument(help="YAML file, or the name of a shipped recipe such as llama3-8b-gsm8k. Options override it."),
]
RunModel = Annotated[
    str | None, typer.Option(help="Hub id or local folder of a causal language model. [else zoo, which ships]")
]
RunRevision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of the model on the hub. [else its main branch]")
]
RunTask = Annotated[
    str | None, typer.Option(help=f"Benchmark: {', '.join(TASKS)}, or a Python file with a TASK. [else zoo]")
]
RunData = Annotated[str | None, typer.Option(help="Hub id, folder or file of rows. [else the task's own source]")]
RunMethods = Annotated[str | None, typer.Option(help=f"{METHODS_HELP} [else {METHOD_NAMES}]")]
RunLimit = Annotated[int | None, typer.Option(min=1, help="Only the first test rows. [else all]")]
Seeds = Annotated[
    int | None, typer.Option(min=1, help="Tune so many prompts, each from its own seed, in seed-N. [else 1]")
]
RunDtype = Annotated[str | None, typer.Option(help="auto, float32, bfloat16, float16 or float64. [else auto]")]
RunQuantize = Annotated[
    str | None, typer.Option(help="4bit: linear layers in 4 bits of bitsandbytes. [else as they are stored]")
]
RunDevice = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 ... [else auto]")]
Analyze = Annotated[bool | None, typer.Option("--analyze/--no-analyze", help="Draw the paper's figures. [else yes]")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only print what would be done, and what it is estimated to cost.")
]
AsJson = Annotated[bool, typer.Option("--json", help="With --dry-run: one JSON object.")]


def run(
    output: Output,
    recipe: RecipeName = None,
    model: RunModel = None,
    revision: RunRevision = None,
    adapter: Adapter = None,
    task: RunTask = None,
    data: RunData = None,
    methods: RunMethods = None,
    limit: RunLimit = None,
    seeds: Seeds = None,
    settings: Set = None,
    dtype: RunDtype = None,
    quantize: RunQuantize = None,
    device: RunDevice = None,
    threads: Threads = None,
    trust_remote_code: TrustRemoteCode = False,
    analyze: Analyze = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
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
        "adapter": one_adapter(adapter),
        "task": task,
        "data": data,
        "methods": None if methods is None else method_names(methods),
        "limit": limit,
        "seeds": seeds,
        "dtype": dtype,
        "quantize": quantize,
        "device": device,
        "analyze": analyze,
    }
    draft = draft_recipe(recipe, options, settings or [])
    check_folder(draft.recipe.model, _listed(draft.recipe.adapter))
    quiet_datasets()
    quiet_transformers()
    from dpc.cli.show_plan import show_plan

    if dry_run:
        show_plan(draft, output, as_json, trust_remote_code)
        return
    _run(draft, output, trust_remote_code, threads)


def _listed(adapter: str | None) -> list[str] | None:
    return None if adapter is None else [adapter]


def _run(draft: Draft, output: Path, trust_remote_code: bool, threads: int | None) -> None:
    from dpc.cli.progress import command_line, table, terminal
    from dpc.cli.show_results import show_results
    from dpc.report.seeds_table import rich_table
    from dpc.run.run_recipe import RecipeRun

    with terminal() as report:
        job = RecipeRun(draft, output, command=command_line(), report=report, trust_remote_code=trust_remote_code)
        chosen = job.recipe
        named = (chosen.model, chosen.dtype, chosen.device, chosen.revision)
        lm = load_model(*named, trust_remote_code, threads, chosen.quantize, _listed(chosen.adapter))
        results = job.run(lm)
    for seed, path in job.directories.items():
        show_results(results[seed], path)
    if job.seeds is not None:
        table.print(rich_table(job.seeds))
