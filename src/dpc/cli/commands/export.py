"""``dpc export``: the records of a run for other tools."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """Formats of an export."""

    PARQUET = "parquet"
    LM_EVAL = "lm-eval"


def export(
    run: Annotated[Path, typer.Argument(help="Folder of an evaluated run.")],
    output: Annotated[Path, typer.Option(help="The parquet file, or the folder of the sample files, to write.")],
    format: Annotated[
        Format, typer.Option(help="One table, or the samples_*.jsonl of lm-evaluation-harness.")
    ] = Format.PARQUET,
    task: Annotated[
        str | None, typer.Option(help="The run's benchmark, where it is a file of your own; none: as the run says.")
    ] = None,
) -> None:
    """Write every record of a run as parquet, a row each, or as sample files of lm-evaluation-harness."""
    from dpc.files import check_output
    from dpc.records.directory import RunDirectory
    from dpc.records.export import Export, write_lm_eval, write_parquet

    if format is Format.PARQUET:
        check_output(output, "--output", [path for path in run.rglob("*") if path.is_file()])
    found = Export.read(RunDirectory(run))
    known = found.load_task(task)
    if format is Format.LM_EVAL:
        written = write_lm_eval(found, known, output)
    else:
        write_parquet(found, known.also_graded, output)
        written = [output]
    for path in written:
        typer.echo(path)
