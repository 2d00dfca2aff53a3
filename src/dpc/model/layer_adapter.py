"""An adapter that changes the model's layers (LoRA and its relatives), under a soft prompt: PEFT's layers, unmerged."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dpc.errors import UserError
from dpc.model.checkpoint import LOADING_ERRORS
from dpc.model.fingerprint import FileStamp, file_fingerprint, tensors_fingerprint
from dpc.model.peft_adapter import LAYER_ADAPTERS, SOFT_PROMPTS, PeftAdapter

# Where an adapter was trained and by what, and what has an effect in training only: not part of what it computes.
_NO_EFFECT = (
    *("base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping", "task_type"),
    *("lora_dropout", "init_lora_weights", "runtime_config"),
)
# Options of LoRA that act on some tokens only, or on the number of layers.
_REFUSED_OPTIONS = {
    "alora_invocation_tokens": "activated LoRA, which acts only after its invocation tokens",
    "layer_replication": "LoRA on repeated layers",
}


@dataclass(frozen=True, slots=True)
class LayerAdapter:
    """An adapter that was applied to a model.

    name: what the user typed, or the name of its PEFT model. sha256: of its tensors, scaling and other options. file:
    the stamp of its weights, None for one in memory. tensors_sha256: of the tensors alone. trained_on: the name of the
    model that PEFT recorded.
    """

    name: str
    kind: str
    sha256: str
    tensors_sha256: str
    file: FileStamp | None = None
    trained_on: str | None = None

    @classmethod
    def of(cls, name: str, config: Mapping[str, Any], tensors_sha256: str, file: FileStamp | None) -> LayerAdapter:
        """The adapter of a PEFT configuration as a dictionary, and of tensors with this hash."""
        effective = {key: value for key, value in config.items() if key not in _NO_EFFECT}
        text = json.dumps(effective, sort_keys=True, default=lambda value: sorted(map(str, value)))
        digest = hashlib.sha256(f"{tensors_sha256}\n{text}".encode()).hexdigest()
        kind = str(getattr(config["peft_type"], "value", config["peft_type"]))
        return cls(name, kind, digest, tensors_sha256, file, config.get("base_model_name_or_path"))

    def revision(self, base: str) -> str:
        """The fingerprint of a model of which ``base`` is the fingerprint, with this adapter."""
        return hashlib.sha256(f"{base} {self.sha256}".encode()).hexdigest()

    def other_base(self, model: str) -> str | None:
        """A sentence where it was trained on a model of another name than ``model``; None where not, or unknown."""
        base = self.trained_on
        if not base or model == base or "zoo" in (model, base) or (Path(base).is_dir() and Path(model).is_dir()):
            return None
        return f"--adapter {self.name} was trained on {base}, and is used on {model}, whose layers have the same shapes"

    def is_current(self) -> bool:
        """Whether its file still holds the tensors that were applied."""
        if self.file is None or self.file.is_current():
            return True
        try:
            return file_fingerprint(Path(self.file.path)) == self.tensors_sha256
        except LOADING_ERRORS:
            return False


def find_layer_adapter(name: str) -> PeftAdapter:
    """The adapter of ``--adapter``, in a folder or on the hub. No weights of a model are needed.

    Raises ``UserError`` if there is none, if it is a soft prompt, or of another kind or with options that do not apply.
    """
    adapter = PeftAdapter.find(name, f"--adapter {name}")
    adapter.check_task()
    kind = adapter.kind
    if kind in SOFT_PROMPTS:
        raise UserError(f"{adapter.label}: is a soft prompt ({kind}); give it with --prompt, in Python as prompt=")
    check_layer_adapter(adapter.label, kind, adapter.config)
    return adapter


def check_layer_adapter(label: str, kind: str, config: Mapping[str, Any]) -> None:
    """Raise ``UserError`` unless an adapter of this kind and configuration acts in the model's layers, token by token.

    label: how the message names it.
    """
    if kind not in LAYER_ADAPTERS:
        raise UserError(
            f"{label}: has a {kind} adapter, expected one that acts on each token alone in the model's layers "
            f"({', '.join(LAYER_ADAPTERS)})"
        )
    for option, meaning in _REFUSED_OPTIONS.items():
        if config.get(option) is not None:
            raise UserError(f"{label}: is {meaning} ({option}), expected an adapter that acts on every token")


def apply_adapter(model: PreTrainedModel, adapter: PeftAdapter) -> LayerAdapter:
    """Put PEFT's layers with the adapter's weights into ``model``, and describe it. They are not merged.

    So the model computes what PEFT computes, in every type and on quantized weights. On torch's meta device only names
    and shapes are checked.
    Raises ``UserError`` if the adapter does not fit: other layers, widths or vocabulary, or values that are not finite.
    """
    from peft import PeftConfig, PeftModelForCausalLM

    meta = model.device.type == "meta"
    before = FileStamp.of(adapter.weights)
    try:
        with warnings.catch_warnings():
            # PEFT's advice for training. What it would warn of on loading is an error below.
            warnings.simplefilter("ignore")
            config = PeftConfig.from_pretrained(str(adapter.folder))
            config.inference_mode = True
            if meta and hasattr(config, "init_lora_weights"):
                config.init_lora_weights = True  # others compute a start from the model's weights
            peft_model = PeftModelForCausalLM(model, config, low_cpu_mem_usage=meta)
            loaded = peft_model.load_adapter(
                str(adapter.folder),
                peft_model.active_adapter,
                torch_device="cpu" if meta else str(model.device),
                key_mapping=getattr(model, "_checkpoint_conversion_mapping", {}),
                low_cpu_mem_usage=meta,
            )
    except LOADING_ERRORS as error:
        raise UserError(f"{adapter.label}: {_does_not_fit(adapter, str(error))}") from error
    for keys, what in ((loaded.missing_keys, "lacks weights of"), (loaded.unexpected_keys, "has weights for")):
        if keys:
            shown = ", ".join(sorted(keys)[:3]) + (", ..." if len(keys) > 3 else "")
            raise UserError(f"{adapter.label}: {_does_not_fit(adapter, f'it {what} {shown}')}")
    tensors = adapter.tensors()
    if bad := next((name for name, value in tensors.items() if not torch.isfinite(value.float()).all()), None):
        raise UserError(f"{adapter.label}: '{bad}' holds values that are not finite; train it again")
    if not before.is_current():
        raise UserError(f"{adapter.label}: its weights changed while they were loaded; load it again")
    name = adapter.label.removeprefix("--adapter ")
    return LayerAdapter.of(name, config.to_dict(), tensors_fingerprint(tensors), before)


def _does_not_fit(adapter: PeftAdapter, error: str) -> str:
    # torch lists all tensors of other shapes, a line each.
    lines = [line.strip() for line in error.splitlines() if "size mismatch" in line] or error.strip().splitlines()[:1]
    vocabulary = any(name in line for line in lines for name in ("embed", "lm_head", "wte"))
    hint = "; its vocabulary is another one" if vocabulary else ""
    reason = (lines[0] if lines else "no reason given")[:200]
    return (
        f"does not fit the model{hint} ({reason}); it was trained on {adapter.base_model or 'a model it does not name'}"
    )


def adapter_in_memory(model: PreTrainedModel) -> LayerAdapter | None:
    """The adapter whose layers PEFT, or transformers with it, put into a model; None without such layers.

    Raises ``UserError`` unless exactly one adapter is active in all of them, and of a kind that ``--adapter`` takes.
    """
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "adapter_layer_names")]
    if not layers:
        return None
    from peft import get_peft_model_state_dict

    label = type(model).__name__
    active = {tuple(layer.active_adapters) for layer in layers}
    if any(layer.disable_adapters for layer in layers) or len(active) > 1 or len(*active) != 1:
        found = "disabled adapters" if any(layer.disable_adapters for layer in layers) else "several, or none"
        raise UserError(
            f"{label}: expected one active adapter, found {found}; choose one with set_adapter, or pass the model "
            "without its adapters (unload)"
        )
    [[name]] = active
    config = cast("Any", model).peft_config[name].to_dict()
    check_layer_adapter(label, str(config["peft_type"].value), config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensors: dict[str, Tensor] = get_peft_model_state_dict(model, None, name, save_embedding_layers=False)
    # As in a file that PEFT writes.
    saved = {f"base_model.model.{name.removeprefix('base_model.model.')}": value for name, value in tensors.items()}
    return LayerAdapter.of(name, config, tensors_fingerprint(saved), None)
