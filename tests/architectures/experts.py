"""Decoders with softmax attention in every layer and a mixture of experts."""

from __future__ import annotations

from tests.architectures.dense import GEMMA, LONGROPE, WINDOWS, rope
from tests.architectures.entry import WINDOW, Architecture, by_layer

LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
# Multi-head latent attention.
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
}
QWEN = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
}

EXPERTS = {
    "mixtral": Architecture("mixtral", "Mixtral 8x7B and 8x22B", LOCAL),
    "llama4_text": Architecture(
        "llama4_text",
        "Llama 4 Scout and Maverick",
        {
            **LOCAL,
            "num_experts_per_tok": 1,
            "head_dim": 8,
            "intermediate_size_mlp": 48,
            "attention_chunk_size": WINDOW,
            "interleave_moe_layer_step": 2,
            "no_rope_layer_interval": 2,
            "floor_scale": 400,
        },
        layers=4,
    ),
    "qwen2_moe": Architecture("qwen2_moe", "Qwen1.5-MoE-A2.7B, Qwen2-57B-A14B", QWEN),
    "qwen3_moe": Architecture("qwen3_moe", "Qwen3-30B-A3B, Qwen3-235B-A22B", {**QWEN, "head_dim": 12}),
    "olmoe": Architecture("olmoe", "OLMoE 1B-7B", {"num_experts": 4, "num_experts_per_tok": 2}),
    "flex_olmo": Architecture("flex_olmo", "FlexOlmo", {"num_experts": 4, "num_experts_per_tok": 2}),
    "phimoe": Architecture(
        "phimoe",
        "Phi-3.5-MoE (rows within the original context)",
        {**LOCAL, **rope("longrope", **LONGROPE, short_mscale=1.1, long_mscale=1.2)},
    ),
    "phimoe_default": Architecture("phimoe", "Phi-tiny-MoE, Phi-mini-MoE", LOCAL),
    "granitemoe": Architecture(
        "granitemoe", "Granite 3.x 1B-A400M and 3B-A800M", {**LOCAL, "attention_multiplier": 0.3}
    ),
    "granitemoeshared": Architecture(
        "granitemoeshared", "Granite MoE with shared experts", {**LOCAL, "shared_intermediate_size": 24}
    ),
    "gpt_oss": Architecture("gpt_oss", "gpt-oss 20B and 120B", {**LOCAL, "head_dim": 12, "sliding_window": WINDOW}),
    "deepseek_v2": Architecture("deepseek_v2", "DeepSeek-V2, V2-Lite", {**ROUTED, **LATENT, "topk_method": "greedy"}),
    "deepseek_v3": Architecture("deepseek_v3", "DeepSeek-V3, R1, Kimi K2", {**ROUTED, **LATENT}),
    "glm4_moe": Architecture("glm4_moe", "GLM-4.5, GLM-4.5-Air", {**ROUTED, "head_dim": 8, "use_qk_norm": True}),
    "glm4_moe_lite": Architecture("glm4_moe_lite", "GLM-4.7-Flash", {**ROUTED, **LATENT}),
    "ernie4_5_moe": Architecture(
        "ernie4_5_moe",
        "ERNIE 4.5 21B-A3B",
        {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 24, "moe_num_shared_experts": 1},
    ),
    "hunyuan_v1_moe": Architecture("hunyuan_v1_moe", "Hunyuan-A13B", {"num_experts": 4, "moe_topk": 2, "head_dim": 8}),
    "dots1": Architecture("dots1", "dots.llm1", {**ROUTED, "head_dim": 8}),
    "jetmoe": Architecture("jetmoe", "JetMoE 8B", {**LOCAL, "kv_channels": 8, "num_key_value_heads": 2}),
    "minimax_m2": Architecture("minimax_m2", "MiniMax-M2", {**LOCAL, "head_dim": 8}),
    "afmoe": Architecture(
        "afmoe",
        "Arcee Trinity",
        {
            **WINDOWS,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "num_shared_experts": 1,
            "moe_intermediate_size": 24,
            "head_dim": 8,
        },
        layers=4,
    ),
    "exaone_moe": Architecture(
        "exaone_moe",
        "K-EXAONE",
        {
            **WINDOWS,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "mlp_layer_types": by_layer("dense", "sparse"),
        },
        layers=4,
    ),
    "solar_open": Architecture("solar_open", "Solar Open 100B", {**ROUTED, "head_dim": 8}),
    "longcat_flash": Architecture(
        "longcat_flash",
        "LongCat-Flash",
        {
            **LATENT,
            "num_layers": 2,
            "num_hidden_layers": 4,
            "head_dim": 4,
            "ffn_hidden_size": 48,
            "expert_ffn_hidden_size": 24,
            "moe_topk": 2,
            "n_routed_experts": 4,
            "zero_expert_num": 2,
        },
    ),
    "mimo_v2_flash": Architecture(
        "mimo_v2_flash",
        "MiMo-V2-Flash",
        {
            **WINDOWS,
            **ROUTED,
            "head_dim": 12,
            "v_head_dim": 8,
            "mlp_layer_types": by_layer("dense", "sparse"),
        },
        layers=4,
    ),
    "gemma4_text_moe": Architecture(
        "gemma4_text",
        "Gemma 4 26B-A4B",
        {
            **GEMMA,
            "global_head_dim": 16,
            "layer_types": by_layer("sliding_attention", "full_attention"),
            "hidden_size_per_layer_input": 0,
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 24,
        },
        layers=4,
    ),
    "dbrx": Architecture(
        "dbrx",
        "DBRX",
        {
            "d_model": 32,
            "n_heads": 4,
            "max_seq_len": 512,
            "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2},
        },
    ),
}
