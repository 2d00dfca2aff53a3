"""Folders with a tiny random model, as transformers or an older tool would have written them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from tests.tiny_models import byte_tokenizer, tiny_config

State = dict[str, Tensor]


def tiny_model(architecture: str = "llama", *, seed: int = 0, layers: int = 2, **config: Any) -> PreTrainedModel:
    tokens = len(byte_tokenizer())
    settings = tiny_config(architecture, tokens, layers)
    for name, value in config.items():
        setattr(settings, name, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODEL_FOR_CAUSAL_LM_MAPPING[type(settings)](settings)
    assert isinstance(model, PreTrainedModel)
    return model.eval()


def save(model: PreTrainedModel, folder: Path) -> Path:
    """The model and a tokenizer, as ``save_pretrained`` writes them."""
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _one_file(state: State, folder: Path) -> None:
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def _one_pickle(state: State, folder: Path) -> None:
    torch.save(state, folder / "pytorch_model.bin")


def _old_pickle(state: State, folder: Path) -> None:
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def _shards(suffix: str, stem: str, write: Callable[[State, Path], object]) -> Callable[[State, Path], None]:
    def written(state: State, folder: Path) -> None:
        names = sorted(state)
        parts = {f"{stem}-{i + 1:05}-of-00002.{suffix}": names[i::2] for i in range(2)}
        for file, keys in parts.items():
            write({key: state[key] for key in keys}, folder / file)
        index = {"metadata": {}, "weight_map": {key: file for file, keys in parts.items() for key in keys}}
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))

    return written


LAYOUTS: dict[str, Callable[[State, Path], None]] = {
    "safetensors": _one_file,
    "safetensors shards": _shards("safetensors", "model", lambda state, path: save_file(state, path, {"format": "pt"})),
    "bin": _one_pickle,
    "bin of an old torch": _old_pickle,
    "bin shards": _shards("bin", "pytorch_model", torch.save),
}


def write_weights(folder: Path, state: State, layout: str = "safetensors") -> None:
    """Replace all weights in ``folder``."""
    for pattern in ("*.safetensors", "*.bin", "*.index.json"):
        for path in folder.glob(pattern):
            path.unlink()
    LAYOUTS[layout]({name: value.detach().clone() for name, value in state.items()}, folder)
