"""Tiny models as GGUF files, written as llama.cpp's converter lays them out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from torch import Tensor
from transformers import PreTrainedModel

from tests.tiny_models import byte_tokenizer

F32 = GGMLQuantizationType.F32


def write_gguf(
    model: PreTrainedModel,
    path: Path,
    kind: GGMLQuantizationType = F32,
    *,
    architecture: str | None = None,
    pre: str = "gpt-2",
    metadata: dict[str, Any] | None = None,
    extra: dict[str, np.ndarray] | None = None,
) -> Path:
    """``model`` with the byte tokenizer. Matrices are stored as ``kind``, vectors as float32, as llama.cpp does.

    architecture: llama.cpp's name, where it differs from the model type. metadata: more keys of the architecture.
    extra: more tensors.
    """
    config = model.config
    name = architecture or config.model_type.removesuffix("_text")
    writer = GGUFWriter(str(path), name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    _add_head_count_kv(writer, model)
    writer.add_layer_norm_rms_eps(getattr(config, "rms_norm_eps", None) or config.norm_eps)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    if name == "llama":
        writer.add_rope_dimension_count(config.head_dim)
    if name.startswith("gemma"):
        writer.add_key_length(config.head_dim)
        writer.add_sliding_window(config.sliding_window)
    if name == "lfm2":
        writer.add_shortconv_l_cache(config.conv_L_cache)
        writer.add_vocab_size(config.vocab_size)
    for key, value in (metadata or {}).items():
        add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32}[type(value)]
        add(f"{name}.{key}", value)
    _add_tokenizer(writer, pre)
    for tensor, values in {**_named(model, name), **(extra or {})}.items():
        stored = kind if values.ndim > 1 and values.shape[-1] % 32 == 0 else F32
        writer.add_tensor(tensor, gguf.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_head_count_kv(writer: GGUFWriter, model: PreTrainedModel) -> None:
    heads, kinds = model.config.num_key_value_heads, getattr(model.config, "layer_types", None)
    mixed = model.config.model_type == "lfm2"
    writer.add_head_count_kv([heads if kind == "full_attention" else 0 for kind in kinds] if mixed else heads)


def _add_tokenizer(writer: GGUFWriter, pre: str) -> None:
    tokenizer = byte_tokenizer()
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(1)
    writer.add_chat_template("{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}")


def _named(model: PreTrainedModel, architecture: str) -> dict[str, np.ndarray]:
    """Weights under llama.cpp's names, with its changes: rotary rows interleaved, Gemma's norms raised by one."""
    kind = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
    names = gguf.get_tensor_name_map(kind, model.config.num_hidden_layers)
    state = dict(model.named_parameters())
    return {
        f"{names.get_name(key.rpartition('.')[0])}.{key.rpartition('.')[2]}": _changed(key, value, model, architecture)
        for key, value in state.items()
    }


def _changed(key: str, value: Tensor, model: PreTrainedModel, architecture: str) -> np.ndarray:
    weights = value.detach().float().numpy()
    if architecture == "llama" and (found := re.search(r"\.([qk])_proj\.weight", key)):
        config = model.config
        heads = config.num_attention_heads if found[1] == "q" else config.num_key_value_heads
        return weights.reshape(heads, 2, -1, weights.shape[1]).swapaxes(1, 2).reshape(weights.shape)
    if architecture.startswith("gemma") and "norm" in key:
        return weights + np.float32(1)
    return weights.squeeze(1) if ".conv.conv." in key else weights
