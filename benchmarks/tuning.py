"""Tuning compared with PEFT and ``transformers.Trainer``: time per update, and the loss reached."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks import naive
from benchmarks.figures import Measured, Point, Target
from benchmarks.measure import Bench, alternate
from dpc.model.lm import FrozenLM
from dpc.model.loading import load_lm
from dpc.prompt.soft_prompt import init_prompt
from dpc.prompt.target_loss import Row, TokenRow, encode_rows, target_loss
from dpc.prompt.tuning import tune
from dpc.settings import TuningSettings, parse_settings
from dpc.tasks import get_task
from dpc.zoo import SETTINGS

RANDOM, GROUPED = "Trainer's time / ours", "time of Trainer with batches by length / ours"
RESULT = "our dev loss / Trainer's"
GAP = "the embedded model is so small that the padding in Trainer's random batches takes little time"


def _dev_loss(lm: FrozenLM, vectors: Tensor, rows: list[TokenRow], batch_size: int) -> float:
    with torch.no_grad():
        batches = (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))
        return sum(target_loss(lm, vectors, batch).item() for batch in batches) / sum(len(target) for _, target in rows)


def _measure(bench: Bench) -> Iterator[Measured]:
    lm, task = load_lm("zoo"), get_task("zoo")
    steps = 10 if bench.quick else 100
    settings = parse_settings([f"tuning.steps={steps}", f"tuning.evaluate_every={steps}"], SETTINGS).tuning
    train, dev = ([(task.prompt(e), task.target(e)) for e in task.load(split, None)] for split in ("train", "dev"))
    # One epoch, so that reading rows takes the same share of the time as in a real tuning.
    train = train[: steps * settings.batch_size]
    encoded = encode_rows(lm, train, settings.length, None, "training")
    start = init_prompt(lm, settings.length, settings.init, settings.seed, "".join(train[0])).vectors
    tuned: dict[str, list[Tensor]] = {"naive": [], "naive by length": [], "dpc": []}

    def theirs(by_length: bool) -> Tensor:
        return naive.tune(
            lm.model,
            start,
            encoded,
            steps=steps,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            warmup_steps=round(settings.warmup_share * steps),
            by_length=by_length,
            seed=len(tuned["dpc"]),
        )

    seconds = alternate(
        {
            "naive": lambda: tuned["naive"].append(theirs(by_length=False)),
            "naive by length": lambda: tuned["naive by length"].append(theirs(by_length=True)),
            "dpc": lambda: tuned["dpc"].append(_ours(lm, train, settings, len(tuned["dpc"]))),
        },
        bench.repeats,
    )
    medians = {name: median(taken) for name, taken in seconds.items()}
    raw = {"seconds": medians, "updates": steps, "batch_size": settings.batch_size, "prompt": settings.length}
    yield Measured(RANDOM, medians["naive"] / medians["dpc"], raw)
    yield Measured(GROUPED, medians["naive by length"] / medians["dpc"], raw)
    rows = encode_rows(lm, dev, settings.length, None, "dev")
    losses = {name: [_dev_loss(lm, v, rows, settings.batch_size) for v in vectors] for name, vectors in tuned.items()}
    yield Measured(RESULT, median(losses["dpc"]) / median(losses["naive"]), {"dev losses, a seed each": losses})


def _ours(lm: FrozenLM, train: list[Row], settings: TuningSettings, seed: int) -> Tensor:
    with tempfile.TemporaryDirectory() as directory:
        return tune(lm, train, [], settings.model_copy(update={"seed": seed}), Path(directory) / "prompt").vectors


POINT = Point({RANDOM: Target(">=", 1.3, GAP), GROUPED: None, RESULT: None}, _measure)
