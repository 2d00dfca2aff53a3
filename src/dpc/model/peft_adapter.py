"""A PEFT adapter as files: its kind, its configuration, and the tensors that it holds."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dpc.errors import UserError
from dpc.model.adapter_folder import (
    CONFIG_FILE,
    PICKLED_WEIGHTS_FILE,
    WEIGHTS_FILE,
    adapter_folder,
    missing_file,
    read_adapter_json,
)

# Kinds whose virtual tokens are vectors in front of the question, the same for every question.
SOFT_PROMPTS = ("PROMPT_TUNING", "P_TUNING", "CPT", "MULTITASK_PROMPT_TUNING")
# Kinds that change what the model's layers compute for a token, whatever stands around it.
LAYER_ADAPTERS = ("LORA", "ADALORA", "IA3", "LOHA", "LOKR", "OFT", "HRA", "LN_TUNING")
# Kinds that act in each layer by tokens of their own, which no module of the model stands for.
_OF_EACH_LAYER = {
    "PREFIX_TUNING": "keys and values for every layer",
    "CARTRIDGE": "keys and values for every layer",
    "ADAPTION_PROMPT": "prompts with an attention of their own for some layers",
}


@dataclass(frozen=True, slots=True)
class PeftAdapter:
    """The files of one adapter. label: how messages name it. weights: ``adapter_model.safetensors`` or ``.bin``."""

    folder: Path
    label: str
    config: Mapping[str, Any]
    weights: Path

    @classmethod
    def find(cls, name: str | Path, label: str) -> PeftAdapter:
        """The adapter in a local folder or on the hub. Raises ``UserError`` if a file is missing or unreadable."""
        folder = adapter_folder(name, label)
        config = read_adapter_json(folder, CONFIG_FILE, label)
        # PEFT looks for them in this order.
        for weights in (folder / WEIGHTS_FILE, folder / PICKLED_WEIGHTS_FILE):
            if weights.is_file():
                return cls(folder, label, config, weights)
        raise missing_file(f"{WEIGHTS_FILE} (nor {PICKLED_WEIGHTS_FILE})", label)

    @property
    def kind(self) -> str:
        """PEFT's name of the method: PROMPT_TUNING, LORA ..."""
        return str(self.config.get("peft_type"))

    @property
    def base_model(self) -> str | None:
        """The model that it was trained on, as PEFT recorded it; None if it did not."""
        name = self.config.get("base_model_name_or_path")
        return str(name) if name else None

    def tensors(self) -> dict[str, Tensor]:
        """All tensors, on the CPU. No code in a pickle file runs. Raises ``UserError`` if they cannot be read."""
        try:
            if self.weights.suffix == ".safetensors":
                return load_file(self.weights)
            state = torch.load(self.weights, map_location="cpu", weights_only=True)
        except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0][:160]
            raise UserError(f"{self.label}: {self.weights.name} holds no readable tensors ({reason})") from error
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise UserError(f"{self.label}: {self.weights.name} holds a {type(state).__name__}, expected named tensors")
        return state

    def check_task(self) -> None:
        """Raise ``UserError`` unless the adapter is one for causal language models."""
        task = self.config.get("task_type")
        if task not in (None, "CAUSAL_LM"):
            raise UserError(f"{self.label}: is a {self.kind} adapter for {task}, expected one for CAUSAL_LM")

    def refuse_no_prompt(self) -> None:
        """Raise ``UserError`` unless the adapter is a soft prompt."""
        if self.kind not in SOFT_PROMPTS:
            raise UserError(f"{self.label}: {no_prompt(self.kind)}")


def no_prompt(kind: str) -> str:
    """Why an adapter of ``kind`` is no soft prompt, and what to do with it."""
    held = _OF_EACH_LAYER.get(kind)
    if held is not None:
        return f"is a {kind} adapter, which holds {held}; {_EXPECTED}"
    if kind == "None":
        return f"{CONFIG_FILE} names no peft_type; {_EXPECTED}"
    if kind in LAYER_ADAPTERS:
        return f"is a {kind} adapter, which changes the model's layers; give it with --adapter (in Python adapter=)"
    return f"is a {kind} adapter; {_EXPECTED}"


_EXPECTED = f"expected vectors in front of the question ({', '.join(SOFT_PROMPTS)}), which `dpc tune` makes"
