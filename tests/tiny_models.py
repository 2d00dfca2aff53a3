"""Tiny random models of every supported architecture, with a byte tokenizer built in memory; nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from dpc.model.lm import FrozenLM

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gpt2", "gpt_neox", "phi3", "olmo2")
HIDDEN, HEADS, KV_HEADS, CONTEXT, WINDOW = 32, 4, 2, 512, 10
EOS, PAD = "<eos>", "<pad>"
# Weights this large make attention far from uniform, so that scale, soft cap, window and grouping all matter.
WEIGHT_STD = 0.25


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte: ``<eos>`` is 0, ``<pad>`` is 1, then the 256 bytes; no special tokens are added to a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([EOS, PAD, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD)


def tiny_config(architecture: str, vocab: int, layers: int = 3) -> PreTrainedConfig:
    """Configuration of a tiny model: grouped heads where they exist, windows and soft caps small enough to bite."""
    tokens: dict[str, Any] = {"vocab_size": vocab, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}
    common: dict[str, Any] = tokens | {
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "max_position_embeddings": CONTEXT,
        "initializer_range": WEIGHT_STD,
    }
    grouped = common | {"num_key_value_heads": KV_HEADS}
    match architecture:
        case "llama":
            return LlamaConfig(**grouped)
        case "mistral":
            return MistralConfig(**grouped, head_dim=12, sliding_window=WINDOW)
        case "qwen2":
            return Qwen2Config(**grouped)
        case "qwen3":
            return Qwen3Config(**grouped, head_dim=12)
        case "gemma2":
            soft_caps = {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 10.0}
            return Gemma2Config(**grouped, **soft_caps, head_dim=12, query_pre_attn_scalar=5, sliding_window=WINDOW)
        case "gpt2":
            sizes = {"n_embd": HIDDEN, "n_layer": layers, "n_head": HEADS, "n_positions": CONTEXT}
            return GPT2Config(**tokens, **sizes, initializer_range=WEIGHT_STD, scale_attn_by_inverse_layer_idx=True)
        case "gpt_neox":
            return GPTNeoXConfig(**common)
        case "phi3":
            return Phi3Config(**grouped)
        case "olmo2":
            return Olmo2Config(**grouped)
        case "gpt_oss":
            experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
            return GptOssConfig(**grouped, **experts, head_dim=12, sliding_window=WINDOW)
    raise ValueError(f"unknown architecture {architecture!r}")


def tiny_lm(architecture: str, dtype: torch.dtype = torch.float32, seed: int = 0, layers: int = 3) -> FrozenLM:
    """A frozen random model (width 32, 258 tokens, context 512): same seed, same weights in every ``dtype``."""
    tokenizer = byte_tokenizer()
    config = tiny_config(architecture, len(tokenizer), layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    model = model.to(dtype).eval().requires_grad_(False)
    return FrozenLM(model=model, tokenizer=tokenizer, name=f"tiny-{architecture}", revision=f"seed-{seed}")
