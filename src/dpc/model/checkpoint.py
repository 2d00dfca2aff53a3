"""The checkpoint behind a model: the files that hold its weights, and the checkpoints that are refused."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import transformers
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import (
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)
from transformers.utils.hub import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from dpc.errors import UserError

# In the order in which transformers looks for them.
_WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
_KEYS_SHOWN = 3

# Errors that transformers raises for a model that is missing, damaged, or of another kind.
LOADING_ERRORS = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError),
    *(SafetensorError, UnpicklingError, EOFError),
)


def weight_files(path: str, revision: str | None, config: PreTrainedConfig) -> tuple[Path, ...]:
    """The files that transformers reads the weights from, sorted.

    path: a local folder, or a hub id whose snapshot is in the hub cache. Empty if the snapshot is not downloaded yet,
    or if the weights are stored in another layout than one file or shards with an index.
    """
    folder = Path(path)
    if not folder.is_dir():
        try:
            cached = cached_file(path, CONFIG_NAME, revision=revision, local_files_only=True)
        except OSError:
            return ()
        folder = Path(str(cached)).parent
    configured = getattr(config, "transformers_weights", None)
    for name in (configured,) if configured else _WEIGHTS:
        found = folder / name
        if found.is_file():
            return tuple(sorted(_shards(found))) if name.endswith(".index.json") else (found,)
    return ()


def _shards(index: Path) -> set[Path]:
    return {index.parent / name for name in json.loads(index.read_bytes())["weight_map"].values()}


def refuse_adapter(name: str, path: str, revision: str | None) -> None:
    """Raise ``UserError`` if the checkpoint holds an adapter: transformers would apply it to the model on loading."""
    if find_adapter_config_file(path, revision=revision) is not None:
        raise UserError(
            f"--model {name}: holds an adapter (adapter_config.json), expected a model alone; give the adapter's model "
            "here, and the adapter with --prompt (a soft prompt) or --adapter (LoRA and the like)"
        )


def refuse_own_code(name: str, path: str, revision: str | None, config: PreTrainedConfig) -> None:
    """Raise ``UserError`` if the model needs code that transformers does not ship.

    Two cases that transformers itself does not refuse under ``trust_remote_code=False``: it replaces an unknown
    tokenizer class with a generic one, and it takes an attention kernel from the hub.
    """
    attention = str(config._attn_implementation or "")
    if "/" in attention:
        raise needs_code(name, f"attention kernel {attention}")
    stated = get_tokenizer_config(path, revision=revision)
    tokenizer = str(stated.get("tokenizer_class") or "")
    ships = any(hasattr(transformers, each) for each in (tokenizer, f"{tokenizer}Fast") if tokenizer)
    if "auto_map" in stated and tokenizer and not ships:
        raise needs_code(name, f"tokenizer class {tokenizer}")


def needs_code(name: str, what: str) -> UserError:
    """The error for a model that needs code of its own, without permission to run it."""
    return UserError(
        f"--model {name}: needs Python code of its own ({what}), which is not run by default; read that code and, if "
        "you trust it, add --trust-remote-code (in Python trust_remote_code=True)"
    )


def refuse_misfit(name: str, model: PreTrainedModel, loading_info: Mapping[str, Any]) -> None:
    """Raise ``UserError`` unless the checkpoint holds exactly the weights that the model has.

    transformers initializes missing weights at random and drops unexpected ones, with a warning. ``loading_info`` is
    what ``from_pretrained`` returns for ``output_loading_info=True``. It leaves out tied weights, and the keys that the
    architecture declares as ignored.
    """
    shapes = [
        f"{key} {list(found)} instead of {list(expected)}" for key, found, expected in loading_info["mismatched_keys"]
    ]
    # Weights that config.json ties but that differ in the checkpoint: transformers warns and leaves them untied.
    tied = model.get_expanded_tied_weights_keys(all_submodels=True)
    untied = [f"{key} and {tied[key]}" for key in tied if key not in model.all_tied_weights_keys]
    problems: dict[str, Collection[str]] = {
        "missing": loading_info["missing_keys"],
        "unexpected": loading_info["unexpected_keys"],
        "of another shape": shapes,
        "tied in config.json but different": untied,
    }
    found = [f"{len(keys)} {problem} ({_first(keys)})" for problem, keys in problems.items() if keys]
    if found:
        raise UserError(
            f"--model {name}: weights and config.json do not match: {'; '.join(found)}; expected the checkpoint that "
            "config.json describes: restore the files that were changed, or download the model again"
        )


def _first(keys: Collection[str]) -> str:
    return ", ".join(sorted(keys)[:_KEYS_SHOWN]) + (", ..." if len(keys) > _KEYS_SHOWN else "")
