"""Compare every configuration with its own code, and write ``docs/results/models.json``: ``make models``."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers

from dpc.cli import run_command
from dpc.errors import UserError
from dpc.model.loading import load_lm, load_outline
from models_table import DTYPES
from tests.architectures import TABLE
from tests.architectures.comparison import Comparison, write_adapter
from tests.paths import ROOT
from tests.tiny_models import byte_tokenizer, tiny_lm

RESULTS = ROOT / "docs/results/models.json"


def entry(name: str, folder: Path, dtypes: Sequence[str] = DTYPES) -> dict[str, Any]:
    """What ``docs/results/models.json`` holds of one configuration. folder: an empty one, for model and adapter."""
    model, adapter = folder / name, folder / "prompt"
    tiny = tiny_lm(name).model
    tiny.save_pretrained(model)
    byte_tokenizer().save_pretrained(model)
    write_adapter(tiny, adapter)
    about = TABLE[name]
    found: dict[str, Any] = {"model_type": about.model_type, "models": about.models}
    try:
        load_outline(str(model))
    except UserError as error:
        line = str(error)
        return found | {
            "refused": line.replace(str(model), name),
            "refused_alike": _refused_alike(model, adapter, line),
        }
    for dtype in dtypes:
        comparison = Comparison(load_lm(str(model), dtype=dtype), adapter)
        verdicts = comparison.verdicts()
        found[dtype] = {key: value.replace(str(model), name) for key, value in verdicts.items()}
        found["layers"] = comparison.lm.layers
        found["softmax_attention"] = comparison.softmax_attention
    return found


def _refused_alike(model: Path, adapter: Path, line: str) -> bool:
    """Whether each command, and loading, ends with exactly this line."""
    questions = model.parent / "questions.jsonl"
    questions.write_text('{"question": "1 + 1 = ?"}\n')
    given = ["--model", str(model)]
    commands = [
        ["generate", str(questions), *given, "--prompt", str(adapter), "--tau", "0.5"],
        ["trace", "1 + 1 = ?", *given, "--prompt", str(adapter), "--tau", "0.5"],
        ["tune", *given, "--output", str(model.parent / "tuned")],
        ["run", *given, "--output", str(model.parent / "run"), "--dry-run"],
    ]
    alike = [_error_of(command) == f"error: {line}\n" for command in commands]
    try:
        load_lm(str(model))
    except UserError as error:
        alike.append(str(error) == line)
    return all(alike) and len(alike) == len(commands) + 1


def _error_of(command: list[str]) -> str:
    """What a command that is refused writes to standard error; nothing where it is not refused."""
    with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(io.StringIO()):
        code = run_command(command)
    return errors.getvalue() if code == 2 else ""


def _entry(name: str) -> tuple[str, dict[str, Any]]:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    with TemporaryDirectory() as folder:
        return name, entry(name, Path(folder))


def main(names: Sequence[str]) -> None:
    """Compare ``names``, all if there are none, and keep the results of the others."""
    kept = json.loads(RESULTS.read_text("utf-8"))["configurations"] if names else {}
    processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        for name, found in pool.map(_entry, names or list(TABLE)):
            print(name, json.dumps(found), flush=True)
            kept[name] = found
    versions = {library: version(library) for library in ("torch", "transformers", "peft")}
    ordered = {name: kept[name] for name in TABLE if name in kept}
    RESULTS.write_text(json.dumps({"versions": versions, "configurations": ordered}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
