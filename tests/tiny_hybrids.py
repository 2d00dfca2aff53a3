"""Tiny random models that mix softmax attention with convolutions, linear attention or state spaces, or have none."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    BambaConfig,
    DogeConfig,
    FalconH1Config,
    FalconMambaConfig,
    GraniteMoeHybridConfig,
    JambaConfig,
    Lfm2Config,
    Llama4TextConfig,
    Mamba2Config,
    MambaConfig,
    MiniMaxConfig,
    NemotronHConfig,
    OlmoHybridConfig,
    PreTrainedConfig,
    Qwen3_5TextConfig,
    Qwen3NextConfig,
    RecurrentGemmaConfig,
    RwkvConfig,
    Zamba2Config,
    ZambaConfig,
    xLSTMConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from dpc.model.lm import FrozenLM
from tests.tiny_models import CONTEXT, HIDDEN, WEIGHT_STD, WINDOW, byte_tokenizer

TOKENS: dict[str, Any] = {"vocab_size": 258, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}
_COMMON: dict[str, Any] = TOKENS | {
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": WEIGHT_STD,
}
_SSM: dict[str, Any] = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 8}
_DELTA: dict[str, Any] = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
_MOE: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2}
_LINEAR, _FULL = "linear_attention", "full_attention"


def hybrid_config(name: str) -> PreTrainedConfig:
    """The configuration ``name``; each mixes as its family does, and is small enough for chunks and windows to bite."""
    match name:
        case "lfm2":
            return Lfm2Config(**_COMMON, layer_types=["conv", _FULL, "conv", _FULL], block_auto_adjust_ff_dim=False)
        case "lfm2_conv_last":
            return Lfm2Config(**_COMMON, layer_types=["conv", _FULL, _FULL, "conv"], block_auto_adjust_ff_dim=False)
        case "granite_hybrid":
            kinds = ["mamba", "attention", "mamba", "attention"]
            experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 24}
            return GraniteMoeHybridConfig(**_COMMON, **_SSM, **experts, layer_types=kinds)
        case "qwen3_next":
            sizes = {"moe_intermediate_size": 24, "shared_expert_intermediate_size": 24, "head_dim": 12}
            kinds = [_LINEAR, _FULL, _LINEAR, _FULL]
            return Qwen3NextConfig(**_COMMON, **_DELTA, **_MOE, **sizes, layer_types=kinds)
        case "qwen3_5":
            kinds = [_LINEAR, _FULL, _LINEAR, _FULL]
            return Qwen3_5TextConfig(**_COMMON, **_DELTA, head_dim=16, layer_types=kinds)
        case "olmo_hybrid":
            kinds = [_LINEAR, _FULL, _LINEAR, _FULL]
            return OlmoHybridConfig(**_COMMON, **_DELTA, layer_types=kinds)
        case "falcon_h1":
            return FalconH1Config(**_COMMON, **_SSM, mamba_d_ssm=64)
        case "nemotron_h":
            sizes = {"ssm_state_size": 8, "mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 1, "chunk_size": 8}
            kinds = ["mamba", "attention", "mlp", "attention", "mlp"]
            own = {key: value for key, value in _COMMON.items() if key != "num_hidden_layers"}
            return NemotronHConfig(**own, **sizes, head_dim=8, layers_block_type=kinds)
        case "bamba":
            return BambaConfig(**_COMMON, **_SSM, attn_layer_indices=[1, 3])
        case "zamba":
            own = _COMMON | {"num_key_value_heads": 4, "num_hidden_layers": 5}
            return ZambaConfig(**own, attn_layer_period=2, attn_layer_offset=1, mamba_d_state=8)
        case "zamba2":
            sizes = {"mamba_d_state": 8, "n_mamba_heads": 4, "mamba_ngroups": 1, "chunk_size": 8, "adapter_rank": 4}
            own = {key: value for key, value in _COMMON.items() if key != "num_key_value_heads"}
            kinds = ["mamba", "hybrid", "mamba", "hybrid"]
            return Zamba2Config(**own, **sizes, layers_block_type=kinds, use_mem_rope=True, num_mem_blocks=1)
        case "jamba":
            own = {key: value for key, value in _COMMON.items() if key != "max_position_embeddings"}
            periods = {"attn_layer_period": 2, "attn_layer_offset": 1}
            return JambaConfig(**own, **_MOE, **periods, mamba_d_state=8)
        case "minimax":
            experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "block_size": 8}
            return MiniMaxConfig(**_COMMON, **experts, layer_types=[_LINEAR, _FULL, _LINEAR, _FULL])
        case "recurrent_gemma":
            own = _COMMON | {"num_hidden_layers": 6}
            del own["max_position_embeddings"]
            del own["initializer_range"]
            return RecurrentGemmaConfig(
                **own, lru_width=HIDDEN, attention_window_size=WINDOW, w_init_variance_scale=1.0
            )
        case "doge":
            return DogeConfig(**_COMMON, keep_window_size=16)
        case "llama4":
            sizes = {"head_dim": 8, "intermediate_size_mlp": 48, "num_local_experts": 4, "attention_chunk_size": 16}
            return Llama4TextConfig(**_COMMON, **sizes, no_rope_layer_interval=2, floor_scale=8)
        case "mamba":
            return MambaConfig(**TOKENS, hidden_size=HIDDEN, num_hidden_layers=2, state_size=8)
        case "mamba2":
            sizes = {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1, "chunk_size": 8}
            return Mamba2Config(**TOKENS, **sizes, hidden_size=HIDDEN, num_hidden_layers=2)
        case "falcon_mamba":
            return FalconMambaConfig(**TOKENS, hidden_size=HIDDEN, num_hidden_layers=2, state_size=8)
        case "rwkv":
            return RwkvConfig(**TOKENS, hidden_size=HIDDEN, num_hidden_layers=2, attention_hidden_size=HIDDEN)
        case "xlstm":
            return xLSTMConfig(**TOKENS, hidden_size=HIDDEN, num_hidden_layers=2, num_heads=2, chunk_size=8)
    raise ValueError(f"unknown hybrid {name!r}")


def hybrid_lm(name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> FrozenLM:
    """A frozen random model with a byte tokenizer: same seed, same weights."""
    config = hybrid_config(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
        if name == "doge":
            # At its initial value of zero, every key has the same bias, and which are kept is decided by rounding.
            for layer in model.model.layers:
                layer.self_attn.A.data.normal_()
    model = model.to(dtype).eval().requires_grad_(False)
    return FrozenLM(model=model, tokenizer=byte_tokenizer(), name=f"tiny-{name}", revision=f"seed-{seed}")


# The layers with softmax attention of each hybrid.
SOFTMAX_LAYERS = {
    "bamba": (1, 3),
    "doge": (0, 1, 2, 3),
    "falcon_h1": (0, 1, 2, 3),
    "granite_hybrid": (1, 3),
    "jamba": (1, 3),
    "lfm2": (1, 3),
    "lfm2_conv_last": (1, 2),
    "llama4": (0, 1, 2, 3),
    "minimax": (1, 3),
    "nemotron_h": (1, 3),
    "olmo_hybrid": (1, 3),
    "qwen3_5": (1, 3),
    "qwen3_next": (1, 3),
    "recurrent_gemma": (2, 5),
    "zamba": (2, 4),
    "zamba2": (1, 3),
}
WITHOUT_SOFTMAX = ("mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm")
