"""The training loop of the embedded model: resumable, with a loss curve beside the weights."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from dpc.errors import UserError
from dpc.files import write_atomically
from dpc.zoo.build import Batch, Recipe, batches, make_optimizers, new_model, rate, train_tokenizer

CHECKPOINT = "checkpoint"


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """One line of the loss curve: losses in nats per token since the last line."""

    step: int
    tokens: int
    answer_loss: float
    question_loss: float
    tokens_per_second: float


def training_step(
    model: LlamaForCausalLM, batch: Batch, optimizers: list[torch.optim.Optimizer], factor: float
) -> tuple[float, float]:
    """One optimizer step; returns the mean answer and question loss in nats per token."""
    ids, labels, weights = batch
    losses = cross_entropy(
        model(input_ids=ids, use_cache=False).logits.flatten(0, 1), labels.flatten(), reduction="none"
    )
    flat = weights.flatten()
    ((losses * flat).sum() / flat.sum()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("base_lr", group["lr"]) * factor
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        answer, question = flat == 1.0, (flat > 0) & (flat < 1.0)
        return float(losses[answer].mean()), float(losses[question].mean())


def _save(path: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], state: dict[str, int]) -> None:
    """Write everything that the next step depends on: a kill leaves this checkpoint or the last one, whole."""
    tensors = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    for index, optimizer in enumerate(optimizers):
        for key, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}.{name}": v for name, v in values.items()}
    content = save({k: v.contiguous() for k, v in tensors.items()}, {"state": json.dumps(state)})
    write_atomically(path / "state.safetensors", content)


def _load(path: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer]) -> dict[str, int]:
    from safetensors import safe_open

    with safe_open(path / "state.safetensors", framework="pt") as file:
        state: dict[str, int] = json.loads(file.metadata()["state"])
    tensors = load_file(path / "state.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    for index, optimizer in enumerate(optimizers):
        saved = optimizer.state_dict()
        prefix = f"optimizer.{index}."
        for name, value in tensors.items():
            if name.startswith(prefix):
                key, field = name.removeprefix(prefix).split(".", 1)
                saved["state"].setdefault(int(key), {})[field] = value
        optimizer.load_state_dict(saved)
    return state


def train(
    recipe: Recipe,
    output: Path,
    *,
    resume: bool = False,
    stop_after: float = float("inf"),
    progress: Callable[[TrainingProgress], None] | None = None,
) -> None:
    """Train and write model, tokenizer, recipe and ``loss_curve.jsonl`` into ``output``.

    stop_after: seconds after which the run stops at a checkpoint, to be resumed. Raises ``UserError`` where
    ``output`` already holds a run and ``resume`` is false.
    """
    checkpoint = output / CHECKPOINT
    if not resume and (checkpoint / "state.safetensors").exists():
        raise UserError(f"{output}: holds an unfinished training run; pass --resume, or choose another directory")
    torch.set_num_threads(recipe.threads)
    tokenizer = train_tokenizer(recipe)
    model = new_model(recipe, tokenizer)
    optimizers = make_optimizers(model, recipe)
    state: dict[str, int] = {"pool": 0, "step": 0, "tokens": 0}
    output.mkdir(parents=True, exist_ok=True)
    curve = output / "loss_curve.jsonl"
    if resume and (checkpoint / "state.safetensors").exists():
        state = _load(checkpoint, model, optimizers)
        kept = [line for line in curve.read_text().splitlines() if json.loads(line)["step"] <= state["step"]]
        curve.write_text("".join(line + "\n" for line in kept))
    else:
        curve.write_text("")
    started = time.monotonic()
    while state["tokens"] < recipe.total_tokens:
        _train_pool(recipe, model, tokenizer, optimizers, state, curve, progress)
        _save(checkpoint, model, optimizers, state)
        if time.monotonic() - started > stop_after:
            return
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    (output / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")


def _train_pool(
    recipe: Recipe,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    optimizers: list[torch.optim.Optimizer],
    state: dict[str, int],
    curve: Path,
    progress: Callable[[TrainingProgress], None] | None,
) -> None:
    """Train on one pool of texts, advance ``state``, and add a line to the loss curve."""
    began, tokens_before = time.monotonic(), state["tokens"]
    pool = batches(recipe, tokenizer, state["pool"], min(1.0, state["tokens"] / recipe.total_tokens))
    answer = question = 0.0
    for batch in pool:
        factor = rate(recipe, state["step"], min(1.0, state["tokens"] / recipe.total_tokens))
        losses = training_step(model, batch, optimizers, factor)
        answer, question = answer + losses[0] / len(pool), question + losses[1] / len(pool)
        state["tokens"] += int((batch[2] > 0).sum())
        state["step"] += 1
    state["pool"] += 1
    speed = (state["tokens"] - tokens_before) / (time.monotonic() - began)
    line = TrainingProgress(state["step"], state["tokens"], answer, question, speed)
    with curve.open("a") as file:
        file.write(json.dumps({k: round(v, 4) for k, v in asdict(line).items()}) + "\n")
    if progress:
        progress(line)
