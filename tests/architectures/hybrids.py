"""Models in which some or all layers are convolutions, state-space models or linear attention."""

from __future__ import annotations

from tests.architectures.entry import HIDDEN, WINDOW, Architecture, by_layer
from tests.architectures.experts import LATENT, LOCAL, QWEN, ROUTED

# A Mamba-2 mixer with more states than one group, and chunks that a question is longer than.
MAMBA2 = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 2,
    "mamba_d_state": 8,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 8,
}
DELTA = {
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
LINEAR = by_layer("linear_attention", "full_attention")

HYBRIDS = {
    "lfm2": Architecture(
        "lfm2",
        "LFM2 350M to 2.6B",
        {"layer_types": by_layer("conv", "full_attention"), "block_multiple_of": 16},
        layers=4,
    ),
    "lfm2_conv_last": Architecture(
        "lfm2",
        "LFM2 (last block a convolution)",
        {"layer_types": by_layer("conv", "full_attention", "conv"), "block_multiple_of": 16},
        layers=3,
    ),
    "lfm2_moe": Architecture(
        "lfm2_moe",
        "LFM2 8B-A1B",
        {
            "layer_types": by_layer("conv", "full_attention"),
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "num_dense_layers": 1,
            "moe_intermediate_size": 24,
        },
        layers=4,
    ),
    "lfm3": Architecture(
        "lfm3",
        "LFM3",
        {
            "layer_types": by_layer("conv", "full_attention", "conv", "sliding_attention"),
            "head_dim": 8,
            "sliding_window": WINDOW,
        },
        layers=4,
    ),
    "qwen3_next": Architecture(
        "qwen3_next",
        "Qwen3-Next 80B-A3B, Qwen3-Coder-Next",
        {**QWEN, **DELTA, "head_dim": 12, "layer_types": LINEAR},
        layers=4,
    ),
    "qwen3_5_text": Architecture(
        "qwen3_5_text", "Qwen3.5 0.8B to 27B", {**DELTA, "head_dim": 12, "layer_types": LINEAR}, layers=4
    ),
    "qwen3_5_moe_text": Architecture(
        "qwen3_5_moe_text",
        "Qwen3.5 35B-A3B to 397B-A17B",
        {**QWEN, **DELTA, "head_dim": 12, "layer_types": LINEAR},
        layers=4,
    ),
    "olmo_hybrid": Architecture("olmo_hybrid", "OLMo Hybrid 7B", {**DELTA, "layer_types": LINEAR}, layers=4),
    "kimi_linear": Architecture(
        "kimi_linear",
        "Kimi-Linear 48B-A3B",
        {
            **LATENT,
            "q_lora_rank": None,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "mlp_layer_types": by_layer("dense", "sparse"),
            "linear_head_dim": 8,
            "linear_num_heads": 4,
            "layer_types": LINEAR,
        },
        layers=4,
    ),
    "granitemoehybrid": Architecture(
        "granitemoehybrid",
        "Granite 4 Tiny and Small",
        {
            **LOCAL,
            **MAMBA2,
            "shared_intermediate_size": 24,
            "layer_types": by_layer("mamba", "attention"),
            "attention_multiplier": 0.3,
        },
        layers=4,
    ),
    "granitemoehybrid_dense": Architecture(
        "granitemoehybrid",
        "Granite 4 H-Micro and H-1B",
        {
            **MAMBA2,
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "shared_intermediate_size": 48,
            "layer_types": by_layer("mamba", "attention", "mamba"),
        },
    ),
    "granitemoehybrid_attention": Architecture(
        "granitemoehybrid",
        "Granite 4 Micro, 1B, 350M (attention only)",
        {
            **MAMBA2,
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "shared_intermediate_size": 48,
            "position_embedding_type": "rope",
            "layer_types": by_layer("attention"),
        },
    ),
    "bamba": Architecture("bamba", "Bamba 9B", {**MAMBA2, "attn_layer_indices": [1, 3]}, layers=4),
    "falcon_h1": Architecture(
        "falcon_h1", "Falcon-H1 0.5B to 34B", {**MAMBA2, "mamba_d_ssm": 64, "mlp_multipliers": [0.9, 0.8]}
    ),
    "nemotron_h": Architecture(
        "nemotron_h",
        "Nemotron-H, Nemotron Nano 2",
        {
            "layers_block_type": by_layer("linear_attention", "mlp", "full_attention", "mlp"),
            "head_dim": 8,
            "ssm_state_size": 8,
            "mamba_num_heads": 8,
            "mamba_head_dim": 8,
            "n_groups": 2,
            "chunk_size": 8,
        },
        layers=4,
    ),
    "nemotron_h_moe": Architecture(
        "nemotron_h",
        "Nemotron 3 Nano 30B-A3B",
        {
            "layers_block_type": by_layer("linear_attention", "moe", "full_attention", "moe"),
            "head_dim": 8,
            "ssm_state_size": 8,
            "mamba_num_heads": 8,
            "mamba_head_dim": 8,
            "n_groups": 2,
            "chunk_size": 8,
            "n_routed_experts": 4,
            "moe_intermediate_size": 24,
            "moe_shared_expert_intermediate_size": 24,
        },
        layers=4,
    ),
    "jamba": Architecture(
        "jamba",
        "Jamba 1.5, Jamba 2",
        {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "use_mamba_kernels": False,
            "mamba_d_state": 8,
        },
        layers=4,
    ),
    "zamba": Architecture(
        "zamba",
        "Zamba 7B",
        {
            "layers_block_type": by_layer("mamba", "hybrid"),
            "num_key_value_heads": 4,
            "use_mamba_kernels": False,
            "mamba_d_state": 8,
            "n_mamba_heads": 2,
        },
        layers=4,
    ),
    "zamba2": Architecture(
        "zamba2",
        "Zamba2 1.2B, 2.7B, 7B",
        {
            "layers_block_type": by_layer("mamba", "hybrid"),
            "num_key_value_heads": 4,
            "use_mamba_kernels": False,
            "mamba_d_state": 8,
            "n_mamba_heads": 8,
            "chunk_size": 8,
            "adapter_rank": 8,
            "use_mem_rope": True,
        },
        layers=4,
    ),
    "recurrent_gemma": Architecture(
        "recurrent_gemma",
        "RecurrentGemma 2B and 9B",
        {"attention_window_size": WINDOW, "lru_width": HIDDEN, "block_types": ("recurrent", "recurrent", "attention")},
        small_weights=True,
    ),
    "minimax": Architecture(
        "minimax",
        "MiniMax-Text-01, MiniMax-M1",
        {**LOCAL, "head_dim": 8, "layer_types": LINEAR, "block_size": 8},
        layers=4,
    ),
    "doge": Architecture("doge", "Doge 20M to 320M", {"keep_window_size": 400}),
    "zaya": Architecture(
        "zaya", "ZAYA1", {"num_experts": 4, "moe_intermediate_size": 24, "head_dim": 8, "router_hidden_size": 8}
    ),
    "bailing_hybrid": Architecture(
        "bailing_hybrid",
        "Ling and Ring 2.5",
        {
            **ROUTED,
            **LATENT,
            "num_local_experts": 4,
            "head_dim": 8,
            "layer_types": LINEAR,
            "mlp_layer_types": by_layer("dense", "sparse"),
        },
        layers=4,
    ),
    "mamba": Architecture("mamba", "Mamba 130M to 2.8B", {"state_size": 8}),
    "mamba2": Architecture(
        "mamba2",
        "Mamba-2, Codestral Mamba",
        {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 2, "chunk_size": 8},
    ),
    "falcon_mamba": Architecture("falcon_mamba", "Falcon-Mamba 7B", {"state_size": 8}),
    "rwkv": Architecture("rwkv", "RWKV-4", small_weights=True),
    "xlstm": Architecture("xlstm", "xLSTM 7B", {"num_heads": 4, "hidden_size": 128}, small_weights=True),
}
