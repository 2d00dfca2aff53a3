"""Older decoders: learned or ALiBi positions, attention that cannot be exchanged, other names in the configuration."""

from __future__ import annotations

from tests.architectures.entry import CONTEXT, HEADS, HIDDEN, WEIGHT_STD, WINDOW, Architecture

NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
SIZES = {"n_embd": HIDDEN, "n_head": HEADS, "n_positions": CONTEXT}

OLDER = {
    "gpt2": Architecture("gpt2", "GPT-2, DistilGPT-2", {**SIZES, "scale_attn_by_inverse_layer_idx": True}),
    "gpt_neox": Architecture("gpt_neox", "Pythia, GPT-NeoX 20B, Dolly 2"),
    "gpt_neox_japanese": Architecture("gpt_neox_japanese", "GPT-NeoX Japanese"),
    "gpt_neo": Architecture(
        "gpt_neo",
        "GPT-Neo 125M to 2.7B, TinyStories",
        {
            "num_layers": 2,
            "num_hidden_layers": 2,
            "num_heads": HEADS,
            "attention_types": [[["global", "local"], 1]],
            "window_size": WINDOW,
        },
        layers=2,
    ),
    "gptj": Architecture("gptj", "GPT-J 6B", {**SIZES, "rotary_dim": 4}),
    "codegen": Architecture("codegen", "CodeGen 350M to 16B", {**SIZES, "n_ctx": CONTEXT, "rotary_dim": 4}),
    "gpt_bigcode": Architecture("gpt_bigcode", "StarCoder, SantaCoder", SIZES | NO_DROPOUT),
    "opt": Architecture(
        "opt", "OPT 125M to 66B", {"ffn_dim": 48, "word_embed_proj_dim": HIDDEN, "init_std": WEIGHT_STD, "dropout": 0.0}
    ),
    "opt_350m": Architecture(
        "opt",
        "OPT 350M (projected embeddings)",
        {
            "ffn_dim": 48,
            "word_embed_proj_dim": 16,
            "init_std": WEIGHT_STD,
            "dropout": 0.0,
            "do_layer_norm_before": False,
        },
    ),
    "bloom": Architecture("bloom", "BLOOM 560M to 176B, BLOOMZ", {"n_head": HEADS}),
    "mpt": Architecture(
        "mpt", "MPT 7B and 30B", {"d_model": HIDDEN, "n_heads": HEADS, "max_seq_len": CONTEXT, "expansion_ratio": 2}
    ),
    "falcon": Architecture("falcon", "Falcon 7B"),
    "falcon_40b": Architecture(
        "falcon", "Falcon 40B and 180B, Falcon 2 11B", {"new_decoder_architecture": True, "num_kv_heads": 2}
    ),
    "falcon_alibi": Architecture(
        "falcon", "Falcon-RW 1B", {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True}
    ),
    "xglm": Architecture(
        "xglm",
        "XGLM 564M to 7.5B",
        {"d_model": HIDDEN, "ffn_dim": 48, "attention_heads": HEADS, "init_std": WEIGHT_STD, "dropout": 0.0},
    ),
    "biogpt": Architecture("biogpt", "BioGPT", {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}),
    "ctrl": Architecture("ctrl", "CTRL", {"n_embd": HIDDEN, "n_head": HEADS, "dff": 48, "n_positions": CONTEXT}),
    "openai_gpt": Architecture("openai-gpt", "GPT-1", SIZES),
    "minicpm3": Architecture(
        "minicpm3",
        "MiniCPM3 4B",
        {
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 4,
            "v_head_dim": 8,
            "scale_emb": 2,
            "dim_model_base": 32,
        },
    ),
    "youtu": Architecture(
        "youtu",
        "Youtu-LLM 2B",
        {
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 4,
            "v_head_dim": 8,
        },
    ),
}
