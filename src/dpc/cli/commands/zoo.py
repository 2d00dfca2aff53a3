"""``dpc zoo``: the embedded default, where it is, and how it was made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

zoo = typer.Typer(help="The embedded default: its folder, its training, its benchmark.", no_args_is_help=True)


@zoo.command("path")
def zoo_path() -> None:
    """Print the folder of the embedded model, for transformers, PEFT and other programs."""
    from dpc.zoo import model_folder

    typer.echo(model_folder())


@zoo.command("train")
def zoo_train(
    output: Annotated[Path, typer.Option(help="Folder for model, tokenizer and loss curve.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue a training that was interrupted.")] = False,
    total_tokens: Annotated[
        int | None, typer.Option(min=1, help="Train on fewer or more tokens than the recipe.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Another seed than the recipe's.")] = None,
) -> None:
    """Train the embedded model from scratch, as the shipped one was."""
    from dpc.cli.build_zoo import train_with_progress

    train_with_progress(output, resume, {"total_tokens": total_tokens, "seed": seed})


@zoo.command("data")
def zoo_data(output: Annotated[Path, typer.Option(help="Folder for train.jsonl, dev.jsonl and test.jsonl.")]) -> None:
    """Write the embedded benchmark from its seed."""
    from dpc.cli.build_zoo import write_benchmark

    write_benchmark(output)
