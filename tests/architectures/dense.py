"""Decoders with softmax attention and one MLP in every layer, and the ways to scale rotary positions."""

from __future__ import annotations

from typing import Any

from tests.architectures.entry import WINDOW, Architecture, by_layer

# Rows of the comparison are shorter and longer than SWITCH. Where frequencies change with the longest row of a batch,
# a context ends there, so it is LONGEST, and all rows fit.
SWITCH, LONGEST = 24, 64


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


LONGROPE = {
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 4.0, 6.0, 8.0],
    "original_max_position_embeddings": LONGEST,
}
WINDOWS = {"sliding_window": WINDOW, "layer_types": by_layer("sliding_attention", "full_attention")}
GEMMA = {"head_dim": 12, "query_pre_attn_scalar": 5, "sliding_window": WINDOW}

DENSE = {
    "llama": Architecture("llama", "Llama 2, TinyLlama, SmolLM 1 and 2, Vicuna, Yi, DeepSeek-LLM"),
    "llama_mha": Architecture(
        "llama", "Llama 2 7B and 13B (as many key-value heads as heads)", {"num_key_value_heads": 4}
    ),
    "llama3": Architecture(
        "llama",
        "Llama 3.1, 3.2, 3.3",
        rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=SWITCH),
    ),
    "llama_linear": Architecture("llama", "Llama with linear position interpolation", rope("linear", factor=4.0)),
    "llama_dynamic": Architecture("llama", "Llama with dynamic NTK scaling", rope("dynamic", factor=4.0)),
    "llama_yarn": Architecture(
        "llama", "Llama with YaRN", rope("yarn", factor=4.0, original_max_position_embeddings=SWITCH)
    ),
    "qwen3_yarn": Architecture(
        "qwen3",
        "Qwen3 with YaRN",
        {**rope("yarn", factor=4.0, original_max_position_embeddings=SWITCH), "head_dim": 12},
    ),
    "mistral": Architecture("mistral", "Mistral 7B v0.1, Zephyr", {"head_dim": 12, "sliding_window": WINDOW}),
    "mistral_full": Architecture(
        "mistral", "Mistral 7B v0.2 and v0.3, Nemo, Small", {"head_dim": 12, "sliding_window": None}
    ),
    "ministral": Architecture("ministral", "Ministral 8B", {"head_dim": 12, **WINDOWS}, layers=4),
    "ministral3": Architecture(
        "ministral3",
        "Ministral 3 3B, 8B, 14B",
        {
            **rope(
                "yarn",
                factor=4.0,
                original_max_position_embeddings=SWITCH,
                llama_4_scaling_beta=0.1,
                mscale=1.0,
                mscale_all_dim=1.0,
            ),
            "head_dim": 12,
        },
    ),
    "qwen2": Architecture("qwen2", "Qwen1.5, Qwen2, Qwen2.5, DeepSeek-R1-Distill-Qwen"),
    "qwen2_window": Architecture(
        "qwen2",
        "Qwen2 with use_sliding_window",
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "qwen3": Architecture("qwen3", "Qwen3 0.6B to 32B", {"head_dim": 12}),
    "gemma": Architecture("gemma", "Gemma 2B and 7B", {"head_dim": 12}),
    "gemma2": Architecture(
        "gemma2",
        "Gemma 2 2B, 9B, 27B",
        {**GEMMA, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 10.0},
    ),
    "gemma3_text": Architecture(
        "gemma3_text",
        "Gemma 3 270M and 1B",
        {**GEMMA, "layer_types": by_layer("sliding_attention", "sliding_attention", "full_attention")},
    ),
    "vaultgemma": Architecture(
        "vaultgemma", "VaultGemma 1B", {**GEMMA, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 10.0}
    ),
    "gemma3n_text": Architecture(
        "gemma3n_text",
        "Gemma 3n E2B and E4B",
        {
            "head_dim": 12,
            "sliding_window": WINDOW,
            "layer_types": by_layer("sliding_attention", "full_attention"),
            "intermediate_size": by_layer(48),
            "vocab_size_per_layer_input": 258,
            "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": 2,
            "laurel_rank": 8,
            "activation_sparsity_pattern": by_layer(0.0),
        },
        layers=4,
    ),
    "gemma4_text": Architecture(
        "gemma4_text",
        "Gemma 4 31B",
        {
            "head_dim": 12,
            "global_head_dim": 16,
            "sliding_window": WINDOW,
            "layer_types": by_layer("sliding_attention", "full_attention"),
            "hidden_size_per_layer_input": 0,
        },
        layers=4,
    ),
    "gemma4_text_per_layer": Architecture(
        "gemma4_text",
        "Gemma 4 E2B and E4B",
        {
            "head_dim": 12,
            "global_head_dim": 16,
            "sliding_window": WINDOW,
            "layer_types": by_layer("sliding_attention", "full_attention"),
            "vocab_size_per_layer_input": 258,
            "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": 2,
        },
        layers=4,
    ),
    "phi": Architecture("phi", "Phi-1, Phi-1.5, Phi-2", {"num_key_value_heads": 4}),
    "phi3": Architecture("phi3", "Phi-3 4k, Phi-4"),
    "phi3_window": Architecture("phi3", "Phi-3-mini 4k (window)", {"sliding_window": WINDOW}),
    "phi3_longrope": Architecture(
        "phi3",
        "Phi-3 128k, Phi-3.5-mini (rows within the original context)",
        {**rope("longrope", **LONGROPE), "original_max_position_embeddings": LONGEST},
    ),
    "phi4_mini": Architecture(
        "phi3",
        "Phi-4-mini (rows within the original context)",
        {
            **rope("longrope", **LONGROPE | {"short_factor": [1.0] * 3, "long_factor": [2.0, 4.0, 6.0]}),
            "original_max_position_embeddings": LONGEST,
            "partial_rotary_factor": 0.75,
        },
    ),
    "olmo": Architecture("olmo", "OLMo 1B and 7B", {"clip_qkv": 2.0}),
    "olmo2": Architecture("olmo2", "OLMo 2 1B to 32B"),
    "olmo3": Architecture(
        "olmo3",
        "OLMo 3 7B and 32B",
        {
            "sliding_window": WINDOW,
            "layer_types": by_layer("sliding_attention", "sliding_attention", "full_attention"),
        },
    ),
    "smollm3": Architecture("smollm3", "SmolLM3 3B", {"no_rope_layer_interval": 2}, layers=4),
    "granite": Architecture(
        "granite",
        "Granite 3.x 2B and 8B",
        {
            "embedding_multiplier": 3.0,
            "logits_scaling": 2.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.2,
        },
    ),
    "granite_swa": Architecture(
        "granite_swa", "Granite with windows", {**WINDOWS, "attention_multiplier": 0.2}, layers=4
    ),
    "glm": Architecture("glm", "GLM-4 9B", {"head_dim": 8}),
    "glm4": Architecture("glm4", "GLM-4-0414 9B and 32B", {"head_dim": 8}),
    "cohere": Architecture("cohere", "Command-R, Aya 23", {"use_qk_norm": True, "logit_scale": 1.0}),
    "cohere2": Architecture("cohere2", "Command R7B, Command A", {**WINDOWS, "logit_scale": 1.0}, layers=4),
    "starcoder2": Architecture("starcoder2", "StarCoder2 3B, 7B, 15B", {"sliding_window": WINDOW}),
    "stablelm": Architecture("stablelm", "StableLM 2, StableLM 3B", {"num_key_value_heads": 4}),
    "nemotron": Architecture("nemotron", "Nemotron-4, Minitron", {"head_dim": 8}),
    "persimmon": Architecture("persimmon", "Persimmon 8B"),
    "bitnet": Architecture("bitnet", "BitNet b1.58 2B (unpacked weights)"),
    "hunyuan_v1_dense": Architecture("hunyuan_v1_dense", "Hunyuan 0.5B to 7B", {"head_dim": 8}),
    "ernie4_5": Architecture("ernie4_5", "ERNIE 4.5 0.3B", {"head_dim": 8}),
    "seed_oss": Architecture("seed_oss", "Seed-OSS 36B", {"head_dim": 8}),
    "exaone4": Architecture(
        "exaone4", "EXAONE 4.0 1.2B and 32B", {"sliding_window": WINDOW, "sliding_window_pattern": 2}, layers=4
    ),
    "arcee": Architecture("arcee", "Arcee AFM 4.5B"),
    "apertus": Architecture("apertus", "Apertus 8B and 70B"),
    "helium": Architecture("helium", "Helium 2B", {"head_dim": 8}),
    "diffllama": Architecture("diffllama", "DiffLlama"),
    "internlm3": Architecture("internlm3", "InternLM3 8B", {"head_dim": 8}),
    "jais2": Architecture("jais2", "Jais 2"),
    "nanochat": Architecture("nanochat", "nanochat"),
    "hrm_text": Architecture("hrm_text", "HRM-Text", {"head_dim": 8}),
}
