"""``dpc analyze``: the paper's figures of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpc.cli.options import Device, Threads, TrustRemoteCode, load_model


def analyze(
    run: Annotated[Path, typer.Argument(help="Folder of a run that was evaluated with the method dpc.")],
    figures: Annotated[
        str, typer.Option(help="Comma-separated: 2a, 2b, 3, 4a, 4b, 4c, 6, as numbered in the paper; or all.")
    ] = "all",
    instances: Annotated[
        int, typer.Option(min=2, help="Sample of all instances; and half as many of the right and of the wrong ones.")
    ] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the sample.")] = 0,
    model: Annotated[
        str | None, typer.Option(help="The run's model, where it was moved; none: as the run says.")
    ] = None,
    adapter: Annotated[
        list[str] | None, typer.Option(help="The run's adapter, where it was moved; none: as the run says.")
    ] = None,
    prompt: Annotated[Path | None, typer.Option(help="Folder of the run's prompt; none: the run's own.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16, float64; none: the run's.")] = None,
    device: Device = "auto",
    threads: Threads = None,
    task: Annotated[
        str | None, typer.Option(help="The run's benchmark, where it is a file of your own; none: as the run says.")
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Draw the paper's figures from the flow of information in a run's instances, with data, tests and captions.

    Other figures that the run has already stay as they are.
    """
    from dpc.analysis.analyze import analyze_run, figure_names
    from dpc.analysis.folder import Folder
    from dpc.cli.progress import command_line, terminal
    from dpc.cli.show_figures import show_figures
    from dpc.records.directory import RunDirectory
    from dpc.run.reporter import Progress

    names, directory = figure_names(figures), RunDirectory(run, command_line())
    with terminal() as report:
        described = analyze_run(
            directory,
            lambda name, kind, revision, quantize, adapted: load_model(
                *(model or name, kind, device, revision, trust_remote_code, threads, quantize),
                adapter or (adapted and [adapted]),
            ),
            names=names,
            instances=instances,
            seed=seed,
            prompt_directory=prompt,
            dtype=dtype,
            task=task,
            progress=lambda done, total: report.progress(Progress("analyze", done, total, "instances measured")),
        )
    show_figures(described, names, Folder(run / "analysis").path)
