"""Prompt tuning of a frozen language model. A resumed run gives the same prompt as an uninterrupted one."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor

from dpc.errors import UserError
from dpc.model.adapter_folder import WEIGHTS_FILE, read_adapter_json
from dpc.model.lm import FrozenLM
from dpc.model.own_check import check_own_passes
from dpc.prompt.soft_prompt import (
    PROVENANCE_FILE,
    SoftPrompt,
    init_prompt,
    load_adapter,
    save_adapter,
    tokenizer_fingerprint,
)
from dpc.prompt.target_loss import Row, TokenRow, encode_rows, epoch_updates, target_loss
from dpc.prompt.tuning_state import Best, TuningState, adamw, load_checkpoint, save_checkpoint
from dpc.settings import TuningSettings

CHECKPOINT_FILE = "checkpoint.safetensors"
HISTORY_FILE = "history.jsonl"


@dataclass(frozen=True, slots=True)
class TuningProgress:
    """Progress of tuning before the first update and after each.

    loss: mean over the target tokens of the update's rows, before the update, in nats; None before the first update.
    dev_loss (in the same unit) and dev_accuracy: None if this step did not measure them. tokens_per_second: tokens of
    prompt, question and target; time for evaluation is left out.
    """

    step: int
    steps: int
    loss: float | None
    dev_loss: float | None
    dev_accuracy: float | None
    tokens_per_second: float
    seconds_left: float


@dataclass(frozen=True, slots=True)
class _Job:
    lm: FrozenLM
    train: list[TokenRow]
    dev: list[TokenRow]
    settings: TuningSettings
    steps: int
    output: Path
    inputs: dict[str, Any]
    dev_accuracy: Callable[[SoftPrompt], float] | None


def tune(
    lm: FrozenLM,
    train: Sequence[Row],
    dev: Sequence[Row],
    settings: TuningSettings,
    output: Path,
    *,
    dev_accuracy: Callable[[SoftPrompt], float] | None = None,
    resume: bool = False,
    progress: Callable[[TuningProgress], None] | None = None,
    init_text: str | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> SoftPrompt:
    """Tune a soft prompt (arXiv 2503.13208, section 3.1), save it in ``output`` as a PEFT adapter, and return it.

    train, dev: (question, target) texts, the target with its leading space. dev_accuracy: returns a prompt's accuracy
    on the dev questions, in 0 to 1; called every ``evaluate_every`` updates and after the last. The prompt of highest
    accuracy is kept (ties: lower dev loss, then the earlier one); without dev rows and dev_accuracy, the last one.
    init_text: for init ``text``; the first training row if None. progress: called before the first update and after
    each; what is done by then is kept if it raises. resume: continue from the checkpoint in ``output``, if there is
    one. provenance: JSON values for ``dpc.json``.

    ``output`` also gets ``history.jsonl``, with one line per update. During tuning it holds a checkpoint: of every
    ``checkpoint_seconds``, of the last update, and of the moment when tuning is interrupted or runs out of memory. On a
    CPU, the prompt of a resumed run is bitwise that of an uninterrupted run.
    Raises ``UserError`` for rows that are empty or too long, an ``output`` that is in use, a checkpoint of other
    settings, rows or weights, a loss that is not finite, and a file that can't be written.
    """
    if not train:
        raise UserError("no training rows: expected at least one question with its target")
    check_own_passes(lm)
    init_text = (init_text or "".join(train[0])) if settings.init == "text" else None
    job = _Job(
        lm,
        encode_rows(lm, train, settings.length, settings.max_length, "training"),
        encode_rows(lm, dev, settings.length, settings.max_length, "dev"),
        settings,
        settings.steps or settings.epochs * math.ceil(len(train) / _rows_per_update(settings)),
        output,
        _inputs(lm, train, dev, settings, init_text, dev_accuracy is not None),
        dev_accuracy,
    )
    if _is_finished(job, resume):
        return load_adapter(lm, output)
    state = _run(job, _first_state(job, init_text), progress)
    best = state.best or Best(state.step, state.vectors, None, None)
    soft_prompt = SoftPrompt.of(best.vectors, lm.name)
    outcome = {"best_step": best.step, "dev_loss": best.dev_loss, "dev_accuracy": best.dev_accuracy}
    tuning = {**job.inputs, **outcome, "steps": job.steps}
    save_adapter(soft_prompt, lm, output, {**(provenance or {}), "tuning": tuning})
    (output / CHECKPOINT_FILE).unlink(missing_ok=True)
    return replace(soft_prompt, directory=output)


def learning_rate(step: int, steps: int, settings: TuningSettings) -> float:
    """Rate of update ``step`` (from 0) of ``steps``: linear warmup to the setting, then half a cosine to zero."""
    warmup = math.ceil(settings.warmup_share * steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def _rows_per_update(settings: TuningSettings) -> int:
    return settings.batch_size * settings.gradient_accumulation


def _first_state(job: _Job, init_text: str | None) -> TuningState:
    settings, checkpoint = job.settings, job.output / CHECKPOINT_FILE
    if checkpoint.exists():
        state, inputs = load_checkpoint(checkpoint, job.lm.device)
        _refuse_other_inputs(job, inputs)
        return state
    vectors = init_prompt(job.lm, settings.length, settings.init, settings.seed, init_text).vectors
    return TuningState(0, vectors, torch.zeros_like(vectors), torch.zeros_like(vectors))


def _run(job: _Job, state: TuningState, progress: Callable[[TuningProgress], None] | None) -> TuningState:
    settings, began, first_step, busy, tokens = job.settings, time.perf_counter(), state.step, 0.0, 0
    checkpoint, saved, saved_at = job.output / CHECKPOINT_FILE, state.step, began
    try:
        if progress and state.step < job.steps:
            progress(TuningProgress(state.step, job.steps, None, None, None, 0.0, math.inf))
        for rows in islice(_updates(job, state.step), job.steps - state.step):
            update_began = time.perf_counter()
            gradient, loss = _gradient(job, state.vectors, rows)
            updated = adamw(state, gradient, learning_rate(state.step, job.steps, settings), settings.weight_decay)
            busy += time.perf_counter() - update_began
            tokens += sum(settings.length + len(question) + len(target) for question, target in rows)
            dev_loss, dev_accuracy = _measure(job, updated)
            state = _record(job, updated, loss, dev_loss, dev_accuracy)
            now = time.perf_counter()
            # After the last one too: what follows loads PEFT and can be interrupted.
            if now - saved_at >= settings.checkpoint_seconds or state.step == job.steps:
                save_checkpoint(checkpoint, state, job.inputs)
                saved, saved_at = state.step, now
            if progress:
                left = (now - began) / (state.step - first_step) * (job.steps - state.step)
                progress(TuningProgress(state.step, job.steps, loss, dev_loss, dev_accuracy, tokens / busy, left))
    # RuntimeError is what torch raises where it is out of memory.
    except (KeyboardInterrupt, MemoryError, RuntimeError):
        if state.step > saved:
            save_checkpoint(checkpoint, state, job.inputs)
        raise
    return state


def _updates(job: _Job, step: int) -> Iterator[list[TokenRow]]:
    rows_per_update = _rows_per_update(job.settings)
    lengths = [len(question) + len(target) for question, target in job.train]
    epoch, done = divmod(step, math.ceil(len(job.train) / rows_per_update))
    for later in count(epoch):
        updates = epoch_updates(lengths, rows_per_update, job.settings.seed, later, job.settings.by_length)
        for update in updates[done if later == epoch else 0 :]:
            yield [job.train[index] for index in update]


def _autocast(job: _Job) -> torch.autocast:
    wanted, device = job.settings.autocast, job.lm.device.type
    if wanted == "auto":
        on = job.lm.dtype == torch.float32 and device == "cuda" and torch.cuda.is_bf16_supported()
    else:
        on = wanted == "bfloat16"
    return torch.autocast(device, torch.bfloat16, enabled=on)


def _gradient(
    job: _Job, vectors: Float32[Tensor, "prompt d"], rows: list[TokenRow]
) -> tuple[Float32[Tensor, "prompt d"], float]:
    leaf = vectors.detach().requires_grad_(True)
    targets = sum(len(target) for _, target in rows)
    gradient, loss, scale = torch.zeros_like(vectors), 0.0, job.lm.gradient_scale
    for start in range(0, len(rows), job.settings.batch_size):
        with torch.enable_grad(), _autocast(job):
            batch = rows[start : start + job.settings.batch_size]
            share = target_loss(job.lm, leaf, batch, job.settings.shared_prompt) / targets
        gradient += torch.autograd.grad(share * scale, leaf)[0] / scale
        loss += share.item()
    norm = gradient.norm().item()
    _refuse_not_finite("training loss", loss, norm)
    if job.settings.max_grad_norm is not None and norm > job.settings.max_grad_norm:
        gradient *= job.settings.max_grad_norm / norm
    return gradient, loss


def _refuse_not_finite(name: str, *values: float) -> None:
    if not all(map(math.isfinite, values)):
        raise UserError(
            f"tuning: the {name} is no longer finite; start in another directory with a lower learning rate"
        )


def _measure(job: _Job, state: TuningState) -> tuple[float | None, float | None]:
    if state.step % job.settings.evaluate_every and state.step != job.steps:
        return None, None
    dev_loss, size = None, job.settings.batch_size
    if job.dev:
        rows = sorted(job.dev, key=lambda row: len(row[0]) + len(row[1]))
        with torch.no_grad(), _autocast(job):
            parts = [
                target_loss(job.lm, state.vectors, rows[at : at + size], job.settings.shared_prompt).item()
                for at in range(0, len(rows), size)
            ]
        dev_loss = sum(parts) / sum(len(target) for _, target in rows)
        _refuse_not_finite("dev loss", dev_loss)
    accuracy = job.dev_accuracy(SoftPrompt.of(state.vectors, job.lm.name)) if job.dev_accuracy else None
    return dev_loss, None if accuracy is None else float(accuracy)


def _record(
    job: _Job, state: TuningState, loss: float, dev_loss: float | None, dev_accuracy: float | None
) -> TuningState:
    best = state.best
    candidate = Best(state.step, state.vectors, dev_loss, dev_accuracy)
    if (dev_loss is not None or dev_accuracy is not None) and candidate.beats(best):
        best = candidate
    rate = learning_rate(state.step - 1, job.steps, job.settings)
    line = {"step": state.step, "loss": loss, "learning_rate": rate, "dev_loss": dev_loss, "dev_accuracy": dev_accuracy}
    written = _append_history(job.output / HISTORY_FILE, state.history_bytes, (json.dumps(line) + "\n").encode())
    return replace(state, best=best, history_bytes=written)


def _append_history(path: Path, offset: int, line: bytes) -> int:
    # At the offset, not at the end: a killed run may have written lines after its last checkpoint.
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        with path.open("r+b") as file:
            if file.seek(0, 2) < offset:
                raise UserError(
                    f"'{path}' is shorter than its checkpoint says; put it back or start in another directory"
                )
            file.seek(offset)
            file.write(line)
            return file.truncate()
    except OSError as error:
        raise UserError(f"cannot write '{path}' ({error.strerror}): make room there, then resume") from error


def _inputs(
    lm: FrozenLM,
    train: Sequence[Row],
    dev: Sequence[Row],
    settings: TuningSettings,
    init_text: str | None,
    has_accuracy: bool,
) -> dict[str, Any]:
    def sha256(value: object) -> str:
        return hashlib.sha256(json.dumps(value).encode()).hexdigest()

    return {
        "settings": settings.deciding(),
        "training_rows": sha256([list(row) for row in train]),
        "dev_rows": sha256([list(row) for row in dev]),
        "init_text": init_text and sha256(init_text),
        "has_dev_accuracy": has_accuracy,
        "weights": lm.revision,
        "tokenizer": tokenizer_fingerprint(lm.tokenizer),
    }


def _refuse_other_inputs(job: _Job, found: Mapping[str, Any]) -> None:
    before = {**found, **found.get("settings", {})}
    now = {**job.inputs, **job.inputs["settings"]}
    differing = [
        f"{name} {before.get(name)}, now {now[name]}" if name in job.inputs["settings"] else f"other {name}"
        for name in now
        if name != "settings" and before.get(name) != now[name]
    ]
    if differing:
        raise UserError(
            f"output '{job.output}' was tuned with other inputs ({'; '.join(differing)}): resume with the first "
            "inputs, or choose another directory"
        )


def _is_finished(job: _Job, resume: bool) -> bool:
    unfinished, tuned = (job.output / CHECKPOINT_FILE).exists(), (job.output / WEIGHTS_FILE).exists()
    if (unfinished or tuned) and not resume:
        what = "an unfinished tuning: continue it with --resume" if unfinished else "a tuned prompt: load it"
        raise UserError(f"output '{job.output}' holds {what}, or choose another directory")
    if tuned and not unfinished:
        stored = read_adapter_json(job.output, PROVENANCE_FILE, f"output '{job.output}'")
        _refuse_other_inputs(job, stored.get("tuning", {}))
    return tuned and not unfinished


def is_tuned(directory: Path) -> bool:
    """Whether ``directory`` holds a finished prompt and no checkpoint of an unfinished tuning."""
    return (directory / WEIGHTS_FILE).exists() and not (directory / CHECKPOINT_FILE).exists()
