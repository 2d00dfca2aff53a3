"""The state of prompt tuning as a value, the AdamW update of it, and its checkpoint on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dpc.errors import UserError
from dpc.files import write_atomically

BETAS, EPSILON = (0.9, 0.999), 1e-8


@dataclass(frozen=True, slots=True)
class Best:
    """The best prompt on the dev rows so far, and the number of updates before it."""

    step: int
    vectors: Float32[Tensor, "prompt d"]
    dev_loss: float | None
    dev_accuracy: float | None

    def beats(self, other: Best | None) -> bool:
        """Whether its accuracy is higher, or equal with a lower loss. Values that were not measured count as 0."""
        return other is None or self._rank() > other._rank()

    def _rank(self) -> tuple[float, float]:
        return self.dev_accuracy or 0.0, -(self.dev_loss or 0.0)


@dataclass(frozen=True, slots=True)
class TuningState:
    """All that the next update depends on. An immutable value, so an interrupt never leaves half an update."""

    step: int
    vectors: Float32[Tensor, "prompt d"]
    mean: Float32[Tensor, "prompt d"]
    variance: Float32[Tensor, "prompt d"]
    best: Best | None = None
    history_bytes: int = 0


def adamw(state: TuningState, gradient: Float32[Tensor, "prompt d"], rate: float, weight_decay: float) -> TuningState:
    """State after one AdamW update (Loshchilov & Hutter 2019, algorithm 2), as ``torch.optim.AdamW`` computes it.

    Not an optimizer object, because an interrupt could leave half an update in it.
    """
    step = state.step + 1
    mean = BETAS[0] * state.mean + (1 - BETAS[0]) * gradient
    variance = BETAS[1] * state.variance + (1 - BETAS[1]) * gradient.square()
    scale = (variance / (1 - BETAS[1] ** step)).sqrt() + EPSILON
    vectors = state.vectors * (1 - rate * weight_decay) - rate / (1 - BETAS[0] ** step) * mean / scale
    return replace(state, step=step, vectors=vectors, mean=mean, variance=variance)


def save_checkpoint(path: Path, state: TuningState, inputs: Mapping[str, Any]) -> None:
    """Write the state and the ``inputs`` of tuning (JSON values) to one file, atomically.

    Step and inputs are in the header of the tensors' file, so that they always belong to these tensors.
    Raises ``UserError`` if it can't be written.
    """
    tensors = {"vectors": state.vectors, "mean": state.mean, "variance": state.variance}
    best = None
    if state.best:
        tensors["best"] = state.best.vectors
        best = {"step": state.best.step, "dev_loss": state.best.dev_loss, "dev_accuracy": state.best.dev_accuracy}
    notes = {"step": state.step, "history_bytes": state.history_bytes, "best": best, "inputs": inputs}
    on_cpu = {name: tensor.cpu().clone() for name, tensor in tensors.items()}
    write_atomically(path, save(on_cpu, metadata={"notes": json.dumps(notes)}))


def load_checkpoint(path: Path, device: torch.device) -> tuple[TuningState, dict[str, Any]]:
    """The state, on ``device``, and the inputs of tuning. Raises ``UserError`` if the file is not readable."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            notes = json.loads(file.metadata()["notes"])
            vectors, mean, variance = (file.get_tensor(name).to(device) for name in ("vectors", "mean", "variance"))
            best = Best(vectors=file.get_tensor("best").to(device), **notes["best"]) if notes["best"] else None
        state = TuningState(notes["step"], vectors, mean, variance, best, notes["history_bytes"])
        inputs = dict(notes["inputs"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{path}' is not a readable checkpoint: delete it and start again") from error
    return state, inputs
