"""The embedded model, its benchmark and a tuned prompt, on which most points are measured."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks import naive
from dpc.engine import Decoded, Decoder, Request
from dpc.flow.shallow import shallow_layers
from dpc.methods import build_method, get_method
from dpc.methods.method import Setup
from dpc.model.lm import FrozenLM
from dpc.model.loading import load_lm
from dpc.prompt.soft_prompt import SoftPrompt, load_adapter
from dpc.records.directory import RunDirectory
from dpc.run.data import Data
from dpc.run.setup import load_calibration
from dpc.run.stages import calibrate_method, tune_prompt
from dpc.settings import DecodingSettings, Settings, parse_settings
from dpc.tasks import get_task
from dpc.types import Answer
from dpc.zoo import SETTINGS

# Enough steps for answers of the usual length and for the usual trigger rate.
SHORT_TUNING = ("tuning.steps=200", "tuning.evaluate_every=200")
CALIBRATION_ROWS = 200


@dataclass(frozen=True, slots=True)
class Embedded:
    """Questions of the embedded test split, a soft prompt for them, and its threshold."""

    lm: FrozenLM
    prompt: SoftPrompt
    tau: float
    settings: Settings
    questions: list[list[int]]
    max_new_tokens: int

    @property
    def batch_size(self) -> int:
        """Instances decoded together."""
        return self.settings.decoding.batch_size

    @property
    def vectors(self) -> Tensor:
        """The prompt ``[prompt, d]``."""
        return self.prompt.vectors

    def answers(self, method: str) -> list[Answer]:
        """Answers of one of the package's methods to all questions, from a new decoder with empty caches."""
        runner = build_method(get_method(method), Setup(self.prompt, self.tau, self.settings.method))
        found = dict(runner.answer(Decoder(self.lm, self.settings.decoding), self.questions, self.max_new_tokens))
        return [found[index] for index in range(len(self.questions))]

    def naive_answers(self) -> list[naive.Answer]:
        """Answers of naive DPC to all questions."""
        method = self.settings.method
        return naive.answer(
            self.lm.model,
            self.questions,
            self.vectors,
            shallow=shallow_layers(range(self.lm.layers), method.shallow_start, method.shallow_stop),
            tau=self.tau,
            gamma=method.gamma,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
        )


def decode(lm: FrozenLM, requests: Sequence[Request], max_new_tokens: int, settings: DecodingSettings) -> list[Decoded]:
    """Answers of a new ``Decoder`` with empty caches, in the order of ``requests``."""
    decoder = Decoder(lm, settings)
    decoder.submit(requests)
    done = {id(decoded.request): decoded for decoded in decoder.drain(max_new_tokens)}
    return [done[id(request)] for request in requests]


def parameters(prompt: Path, rows: int) -> dict[str, Any]:
    """The arguments of ``embedded``, as JSON values."""
    return {"prompt": str(prompt), "rows": rows}


def embedded(chosen: Mapping[str, Any]) -> Embedded:
    """The model, the prompt, and ``rows`` test questions at equal distances."""
    lm, task, settings = load_lm("zoo"), get_task("zoo"), parse_settings([], SETTINGS)
    directory = Path(chosen["prompt"])
    prompt = load_adapter(lm, directory)
    calibration = load_calibration(directory, lm, prompt, settings)
    assert calibration is not None
    examples = task.load("test", None)
    questions = [lm.encode(task.prompt(example)) for example in examples[:: len(examples) // chosen["rows"]]]
    return Embedded(lm, prompt, calibration["tau"], settings, questions, task.max_new_tokens)


def prepare_prompt(directory: Path | None) -> Path:
    """The folder of a prompt and its threshold: ``directory``; for None, a briefly tuned one in the user's cache.

    Raises ``UserError`` if ``directory`` holds no prompt for the embedded model.
    """
    lm, task = load_lm("zoo"), get_task("zoo")
    settings = parse_settings(SHORT_TUNING, SETTINGS)
    dev = Data.load(task, "dev", None, CALIBRATION_ROWS)
    if directory is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        directory = cache / "dpc" / "bench" / lm.revision[:12]
        prompt = tune_prompt(lm, Data.load(task, "train", None), dev, settings, directory, resume=True)
    else:
        prompt = load_adapter(lm, directory)
    if load_calibration(directory, lm, prompt, settings) is None:
        calibrate_method(lm, prompt, directory, dev, settings, RunDirectory(directory / "calibration"))
    return directory
