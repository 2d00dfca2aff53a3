"""``load_lm``: a ``FrozenLM`` from a checkpoint, and ``load_outline``, the same without its weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from dpc.errors import UserError
from dpc.hub import hub_or_cache, model_repository
from dpc.model.checkpoint import (
    LOADING_ERRORS,
    needs_code,
    refuse_adapter,
    refuse_misfit,
    refuse_own_code,
    weight_files,
)
from dpc.model.context import without_temperature
from dpc.model.device import check_dtype, device_of, dtype_for
from dpc.model.features import refuse_features
from dpc.model.fingerprint import FileStamp, checkpoint_fingerprint, weights_fingerprint
from dpc.model.gguf_file import (
    GgufFile,
    bar_on_terminals,
    complete_config,
    complete_tokenizer,
    gguf_path,
    read_gguf,
    refuse_folder_of_gguf,
)
from dpc.model.layer_adapter import apply_adapter, find_layer_adapter
from dpc.model.lm import FrozenLM, with_end
from dpc.model.peft_adapter import PeftAdapter
from dpc.model.quantized import check_quantize, make_exact, quantization, refuse_quantized

EMBEDDED = "zoo"


def load_lm(
    name: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    quantize: str | None = None,
    adapter: str | None = None,
) -> FrozenLM:
    """Load a causal language model: ``zoo`` (in the package), a hub id, a local folder, or a GGUF file.

    A GGUF file is written FILE.gguf or ORG/REPO:FILE.gguf. transformers unpacks its weights.
    dtype: name of a torch type, or ``auto`` (see ``dtype_for``).
    device: name of a torch device, or ``auto``. revision: branch, tag or commit on the hub, its main branch if None.
    trust_remote_code: run Python code that comes with the model. Without it, no code of the model runs.
    quantize: ``4bit`` stores the weights of linear layers as NormalFloat4 of bitsandbytes; they compute in ``dtype``.
    adapter: folder or hub id of a PEFT adapter for the model's layers (LoRA ...). It stays unmerged.

    ``revision`` of the result is the ``checkpoint_fingerprint`` of the weights; with an adapter, of both.
    Raises ``UserError`` if there is no such model, type or device, if the model needs code of its own that may not run,
    if the checkpoint does not hold exactly the weights that its config.json describes, if the adapter does not fit, or
    if its configuration has a feature that cannot be computed exactly (``dpc.model.features``).
    """
    place = device_of(device)
    check_dtype(dtype)
    check_quantize(name, quantize)
    found = None if adapter is None else find_layer_adapter(adapter)
    with _loading(name), hub_or_cache(model_repository(name, revision)), _source(name, revision) as (path, gguf):
        config, tokenizer = _config_and_tokenizer(name, path, gguf, revision, trust_remote_code)
        kind = dtype_for(dtype, place, _stored_dtype(gguf, config))
        refuse_quantized(name, config, quantize, kind)
        if found is not None:
            apply_adapter(_empty_model(config, kind, trust_remote_code), found)  # before weights are loaded
        before = _stamps(path, gguf, revision, config)
        with bar_on_terminals():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                path,
                revision=revision,
                dtype=kind,
                device_map={"": place},
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                # Otherwise transformers raises an error that does not name them.
                ignore_mismatched_sizes=True,
                **_of_gguf(gguf, config),
                **quantization(quantize, kind),
            )
        model, loading_info = loaded
        refuse_misfit(name, model, loading_info)
        files = _weight_files(path, gguf, revision, config)
        fingerprint, stamps = checkpoint_fingerprint(model, files) if files else (weights_fingerprint(model), ())
        if (gguf or Path(path).is_dir()) and before != stamps:
            raise UserError(f"--model {name}: its weights changed while they were loaded; load it again")
    model.config.name_or_path = name
    without_temperature(model)
    model.eval().requires_grad_(False)
    make_exact(f"--model {name}", model)
    lm = with_end(FrozenLM(model, tokenizer, name, fingerprint, trust_remote_code, stamps, quantize))
    return lm if found is None else _adapted(lm, found)


def _adapted(lm: FrozenLM, adapter: PeftAdapter) -> FrozenLM:
    applied = apply_adapter(lm.model, adapter)
    lm.model.eval().requires_grad_(False)
    return replace(lm, adapter=applied, revision=applied.revision(lm.revision))


def load_outline(
    name: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    quantize: str | None = None,
    adapter: str | None = None,
) -> FrozenLM:
    """Load all but the weights: shapes, types, tokenizer and context are those of ``load_lm``.

    The result encodes texts and tells sizes, but computes nothing: its parameters are on torch's meta device, and its
    ``revision`` is empty. The layers of an adapter are checked and left out. Arguments and errors are those of
    ``load_lm``, except errors about weights.
    """
    place = device_of(device)
    check_dtype(dtype)
    check_quantize(name, quantize)
    found = None if adapter is None else find_layer_adapter(adapter)
    with _loading(name), hub_or_cache(model_repository(name, revision)), _source(name, revision) as (path, gguf):
        config, tokenizer = _config_and_tokenizer(name, path, gguf, revision, trust_remote_code)
        kind = dtype_for(dtype, place, _stored_dtype(gguf, config))
        refuse_quantized(name, config, quantize, kind)
        applied = None if found is None else apply_adapter(_empty_model(config, kind, trust_remote_code), found)
        model = _empty_model(config, kind, trust_remote_code)
        with suppress(OSError):  # Optional: from_config derives one from the configuration.
            model.generation_config = GenerationConfig.from_pretrained(path, revision=revision or "main")
    model.config.name_or_path = name
    model.eval().requires_grad_(False)
    return with_end(FrozenLM(model, tokenizer, name, "", trust_remote_code, quantized=quantize, adapter=applied))


def _empty_model(config: PreTrainedConfig, dtype: torch.dtype | str | None, trust: bool) -> PreTrainedModel:
    """The model without its weights, on torch's meta device."""
    own = None if dtype == "auto" else dtype
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=own, trust_remote_code=trust)
    return model


def _config_and_tokenizer(
    name: str, path: str, gguf: GgufFile | None, revision: str | None, trust: bool
) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    if gguf is not None:
        config = AutoConfig.from_pretrained(path, gguf_file=str(gguf.path))
        tokenizer = AutoTokenizer.from_pretrained(path, gguf_file=str(gguf.path))
        complete_config(gguf, config)
        refuse_features(name, config)
        complete_tokenizer(gguf, tokenizer)
        return config, tokenizer
    refuse_adapter(name, path, revision)
    # Explicitly False: by default transformers asks on standard input whether to run the code.
    config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust)
    if not trust:
        refuse_own_code(name, path, revision, config)
    refuse_features(name, config)
    return config, AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust)


def _stored_dtype(gguf: GgufFile | None, config: PreTrainedConfig) -> torch.dtype | None:
    found = gguf.own_dtype if gguf else config.dtype or config.get_text_config(decoder=True).dtype
    return found if isinstance(found, torch.dtype) else None


def _of_gguf(gguf: GgufFile | None, config: PreTrainedConfig) -> dict[str, Any]:
    if gguf is None:
        return {}
    # Where kernels for packed weights are installed, transformers would use them.
    return {"gguf_file": str(gguf.path), "config": config, "quantization_config": GgufConfig(dequantize=True)}


def _weight_files(path: str, gguf: GgufFile | None, revision: str | None, config: PreTrainedConfig) -> tuple[Path, ...]:
    return (gguf.path,) if gguf else weight_files(path, revision, config)


def _stamps(path: str, gguf: GgufFile | None, revision: str | None, config: PreTrainedConfig) -> tuple[FileStamp, ...]:
    return tuple(map(FileStamp.of, _weight_files(path, gguf, revision, config)))


@contextmanager
def _source(name: str, revision: str | None) -> Iterator[tuple[str, GgufFile | None]]:
    """The folder or hub id that transformers loads ``name`` from, and the GGUF file that it reads, if any."""
    if name == EMBEDDED:
        with as_file(files("dpc.zoo") / "model") as path:
            yield str(path), None
        return
    found = gguf_path(name, revision)
    if found is not None:
        # An empty folder: transformers would take tokenizer files from beside the GGUF file.
        with TemporaryDirectory() as empty:
            yield empty, read_gguf(name, found)
        return
    if Path(name).exists() and not (Path(name) / "config.json").is_file():
        refuse_folder_of_gguf(name)
        refuse_adapter(name, name, None)
        raise UserError(f"--model {name}: has no config.json; expected a folder in Hugging Face format, or a hub id")
    yield name, None


@contextmanager
def _loading(name: str) -> Iterator[None]:
    try:
        yield
    except LOADING_ERRORS as error:
        if "out of memory" in str(error):
            raise
        if "trust_remote_code" in str(error):
            raise needs_code(name, "auto_map in its configuration") from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"--model {name}: can't be loaded ({reason[:160]}); expected zoo, a folder, a GGUF file or a hub id"
        ) from error


@contextmanager
def without_bars() -> Iterator[None]:
    """Without transformers' progress bars, which outlast the loading in a notebook."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
