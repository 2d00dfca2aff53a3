"""Options that several commands share, and how they become settings, rows and a model. Light to import."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpc.errors import UserError
from dpc.hub import check_repository, model_repository
from dpc.methods import METHODS
from dpc.tasks import TASKS

if TYPE_CHECKING:
    from dpc.model.lm import FrozenLM
    from dpc.run.data import Data
    from dpc.settings import Settings

Model = Annotated[
    str,
    typer.Option(help="Hub id, folder or GGUF file (FILE.gguf, ORG/REPO:FILE.gguf) of a model; `zoo` ships with dpc."),
]
Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of the model on the hub; none: its main branch.")
]
Adapter = Annotated[
    list[str] | None,
    typer.Option(help="Folder or hub id of a PEFT adapter for the model's layers (LoRA ...); one.", metavar="DIR"),
]
TaskName = Annotated[str, typer.Option("--task", help=f"Benchmark: {', '.join(TASKS)}, or a Python file with a TASK.")]
Source = Annotated[
    str | None, typer.Option("--data", help="Hub id, folder or file of rows; none: the task's own source.")
]
_PROMPT_HELP = "The soft prompt: folder or hub id (owner/name, owner/name/folder) of a PEFT adapter."
Prompt = Annotated[str | None, typer.Option(help=_PROMPT_HELP, metavar="DIR")]
NeededPrompt = Annotated[str, typer.Option(help=_PROMPT_HELP, metavar="DIR")]
OwnPrompt = Annotated[Path, typer.Option(help="Folder of the soft prompt, a PEFT adapter.", metavar="DIR")]
OtherPrompts = Annotated[
    list[str] | None,
    typer.Option("--other-prompt", help="A further soft prompt, for prompt_choice; may be repeated.", metavar="DIR"),
]
Set = Annotated[list[str] | None, typer.Option("--set", help="A setting, group.name=value; may be repeated.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first rows.")]
Tau = Annotated[
    float | None,
    typer.Option(help="Threshold of the trigger; none: the calibrated one.", callback=lambda value: _finite(value)),
]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16 or float64.")]
Quantize = Annotated[
    str | None,
    typer.Option(help="4bit: linear layers in 4 bits of bitsandbytes, computing in --dtype."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Output = Annotated[Path, typer.Option(help="Folder of the run; the same command goes on where it stopped.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python that the model's folder brings. It can do anything.")
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads; none: one for each processor that this process may use.")
]
METHOD_NAMES = "pretrained,prompt_tuning,dpc"
METHODS_HELP = f"Comma-separated: {', '.join(METHODS)}, or FILE.py:METHOD."
OneMethod = Annotated[
    str, typer.Option("--method", help=f"One of {', '.join(METHODS)}, or FILE.py:METHOD; two passes are needed.")
]


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
    from dpc.run.data import Data
    from dpc.tasks import get_task

    quiet_datasets()
    return Data.load(get_task(task), split, source, limit, settings.task)


def prompt_folder(prompt: str) -> Path:
    """The local folder of ``--prompt``, downloaded from the hub where it names a repository.

    Raises ``UserError`` if there is none with an adapter. Needs no torch, which takes seconds to load.
    """
    from dpc.model.adapter_folder import adapter_folder

    return adapter_folder(prompt, f"--prompt {prompt}")


def own_prompt_folder(prompt: Path) -> Path:
    """The folder of ``--prompt``, into which a choice is to be written. Raises ``UserError`` if it is not there."""
    if not prompt.expanduser().is_dir():
        raise UserError(f"--prompt {prompt}: no such folder; expected a local one, in which the choice is stored")
    return prompt_folder(str(prompt))


def check_folder(model: str, adapter: Sequence[str] | None = None) -> None:
    """Raise ``UserError`` for a model or an adapter that is written as a path and is not there, or two adapters.

    Needs no torch, which takes seconds to load.
    """
    named = one_adapter(adapter)
    if named is not None and _is_path(named):
        from dpc.model.adapter_folder import adapter_folder

        adapter_folder(named, f"--adapter {named}")
    if _is_path(model) and not Path(model).expanduser().exists():
        raise UserError(f"--model {model}: no such folder or file; expected zoo, a folder, a GGUF file or a hub id")


def check_model(model: str, revision: str | None, adapter: Sequence[str] | None = None) -> None:
    """``check_folder``; and raise ``UserError`` for a hub id that neither the hub nor its cache has."""
    check_folder(model, adapter)
    repository = model_repository(model, revision)
    if repository is not None:
        check_repository(repository)


def _is_path(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~"))


def one_adapter(given: Sequence[str] | None) -> str | None:
    """What ``--adapter`` names. Raises ``UserError`` where it was given twice."""
    if given and len(given) > 1:
        raise UserError(
            f"--adapter was given {len(given)} times ({', '.join(given)}): expected one; combine them into one with "
            "PEFT (add_weighted_adapter, save_pretrained)"
        )
    return given[0] if given else None


def load_model(
    model: str,
    dtype: str,
    device: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    threads: int | None = None,
    quantize: str | None = None,
    adapter: Sequence[str] | None = None,
) -> FrozenLM:
    """A frozen model, loaded without transformers' messages on the terminal."""
    from dpc.cli.log_lines import told_while_slow

    with told_while_slow(f"loading {model}"):
        from dpc.model.loading import load_lm
        from dpc.model.notices import notices

        quiet_transformers()
        set_threads(threads)
        if model.lower().endswith(".gguf"):
            _say(f"unpacking the weights of {model}, which can take a minute")
        lm = load_lm(
            model,
            dtype=dtype,
            device=device,
            revision=revision,
            trust_remote_code=trust_remote_code,
            quantize=quantize,
            adapter=one_adapter(adapter),
        )
    for notice in notices(lm):
        _say(notice)
    return lm


def tell(note: str | None) -> None:
    """Print a note on standard error; nothing for None."""
    if note is not None:
        from dpc.cli.progress import screen

        screen.print(f"note: {note}", highlight=False, markup=False)


def set_threads(threads: int | None) -> None:
    """Use so many CPU threads. Without a number it is only said where other programs keep the processors busy."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
        return
    used, busy = torch.get_num_threads(), os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if used > 1 and busy >= 2 * used:
        _say(f"a load of {busy:.0f} on {used} threads: fewer may be much faster, --threads 1")


def _say(notice: str) -> None:
    from dpc.cli.progress import screen

    screen.print(f"note: {notice}", highlight=False, markup=False, soft_wrap=True)


def quiet_datasets() -> None:
    """Keep the bars of the library datasets, which are redrawn by control characters, out of logs."""
    if not sys.stderr.isatty():
        # Read when it is imported, which takes a second, and only rows of the hub need it.
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


def quiet_transformers() -> None:
    """Keep transformers' advice and bars off the terminal."""
    import logging as standard_logging

    from transformers.utils import logging

    # It tells at import which optional kernels are not installed.
    standard_logging.getLogger("bitsandbytes").setLevel(standard_logging.ERROR)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
