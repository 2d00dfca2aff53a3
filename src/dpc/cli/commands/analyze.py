"""``dpc analyze``: the paper's figures for a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpc.cli.options import Device, load_model


def analyze(
    run: Annotated[Path, typer.Argument(help="Folder of a run that was evaluated with the method dpc.")],
    figures: Annotated[
        str, typer.Option(help="Comma-separated: 2a, 2b, 3, 4a, 4b, 4c, 6; their numbers in the paper.")
    ] = "all",
    instances: Annotated[
        int, typer.Option(min=2, help="How many are drawn, of all; and half as many right and wrong ones each.")
    ] = 100,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    model: Annotated[str | None, typer.Option(help="Where the run's model is now; none: where it was.")] = None,
    prompt: Annotated[Path | None, typer.Option(help="Folder of the run's prompt; none: the run's own.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16, float64; none: the run's.")] = None,
    device: Device = "auto",
    task: Annotated[
        str | None, typer.Option(help="The run's benchmark, where it is a file of your own; none: as the run says.")
    ] = None,
) -> None:
    """Draw the paper's figures from the flow of information in a run's instances, with data, tests and captions."""
    from dpc.cli.analyze import analyze_with_progress, figure_names
    from dpc.records.directory import RunDirectory

    analyze_with_progress(
        RunDirectory(run),
        lambda name, kind, revision: load_model(model or name, kind, device, revision),
        names=figure_names(figures),
        instances=instances,
        seed=seed,
        prompt_directory=prompt,
        dtype=dtype,
        task=task,
    )
