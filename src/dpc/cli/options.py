"""Options that several commands share, and how they become settings, rows and a model. Light to import."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpc.errors import UserError
from dpc.tasks import TASKS

if TYPE_CHECKING:
    from dpc.model.lm import FrozenLM
    from dpc.run.stages import Data
    from dpc.settings import Settings

Model = Annotated[str, typer.Option(help="Hub id or local folder of a causal language model; `zoo` ships with dpc.")]
Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of the model on the hub; none: its main branch.")
]
TaskName = Annotated[str, typer.Option("--task", help=f"Benchmark: {', '.join(TASKS)}, or a Python file with a TASK.")]
Source = Annotated[
    str | None, typer.Option("--data", help="Hub id, folder or file of rows; none: the task's own source.")
]
Prompt = Annotated[Path | None, typer.Option(help="Folder of the soft prompt, a PEFT adapter.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="A setting, group.name=value; may be repeated.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first rows.")]
Tau = Annotated[
    float | None,
    typer.Option(help="Threshold of the trigger; none: the calibrated one.", callback=lambda value: _finite(value)),
]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16 or float64.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Output = Annotated[Path, typer.Option(help="Folder of the run; the same command goes on where it stopped.")]
METHOD_NAMES = "pretrained,prompt_tuning,dpc"


def _finite(tau: float | None) -> float | None:
    if tau is not None and not math.isfinite(tau):
        raise UserError(f"--tau {tau}: expected a number; R lies between 0 and 1")
    return tau


def method_names(methods: str) -> list[str]:
    """Names of a comma-separated list."""
    return [name.strip() for name in methods.split(",")]


def settings_for(model: str, assignments: list[str] | None) -> Settings:
    """Settings over the defaults of the model: the embedded one brings its own for tuning."""
    from dpc.settings import parse_settings
    from dpc.zoo import SETTINGS

    return parse_settings(assignments or [], SETTINGS if model == "zoo" else {})


def load_data(task: str, split: str, source: str | None, settings: Settings, limit: int | None = None) -> Data:
    """The rows of a split, or its first ``limit``."""
    from dpc.run.stages import Data
    from dpc.tasks import get_task

    return Data.load(get_task(task), split, source, limit, settings.task)


def load_model(model: str, dtype: str, device: str, revision: str | None = None) -> FrozenLM:
    """A frozen model, loaded without a word of transformers on the terminal."""
    from dpc.model.lm import load_lm

    quiet_transformers()
    return load_lm(model, dtype=dtype, device=device, revision=revision)


def quiet_transformers() -> None:
    """Keep transformers' advice and bars off the terminal."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
