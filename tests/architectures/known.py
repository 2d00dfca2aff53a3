"""Configurations that are known to be computed wrongly today, each with the reason."""

from __future__ import annotations

_HYBRID = "layers without softmax attention: no prefix, and no row leaves a padded batch"
_STATES = "a padded batch runs padding through the recurrent state"

KNOWN = {
    "doge": "the mask depends on the values: a traceback",
    **dict.fromkeys(["lfm2", "lfm2_conv_last", "lfm2_moe", "lfm3", "qwen3_next", "qwen3_5_text"], _HYBRID),
    **dict.fromkeys(["qwen3_5_moe_text", "olmo_hybrid", "kimi_linear", "bailing_hybrid", "zaya"], _HYBRID),
    **dict.fromkeys(["granitemoehybrid", "granitemoehybrid_dense", "bamba", "falcon_h1", "nemotron_h"], _HYBRID),
    **dict.fromkeys(["nemotron_h_moe", "jamba", "zamba", "zamba2", "recurrent_gemma", "minimax"], _HYBRID),
    **dict.fromkeys(["mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm"], _STATES),
}
