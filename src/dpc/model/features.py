"""Features of a model that rule out exact results. Each is known from the configuration, before weights are loaded."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from dpc.errors import UserError

# Multimodal classes of which the text part passes the comparison with the model's own attention.
_MULTIMODAL = frozenset({"gemma3", "gemma4", "gemma4_unified"})
# Encoders that attend to both sides unless is_decoder is set.
_ENCODERS = frozenset(
    {"bert", "bert-generation", "electra", "ernie", "megatron-bert", "rembert", "roc_bert", "roformer"}
)
# Encoders whose position ids begin after that of the padding token.
_ROBERTA = frozenset(
    {"camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"}
)
# Nested configurations that describe the blocks of the one language model.
_OF_BLOCKS = frozenset({"attn_config", "ffn_config"})
# Attention that adds to a softmax, or takes from it, what its arguments do not say.
_OWN_ATTENTION = frozenset({"ctrl", "granite_swa", "granitemoe_swa", "inkling_text", "inkling2_text"})
# Several attention modules in one layer.
_SEVERAL = frozenset({"diffllama", "longcat_flash"})
# No softmax attention at all, so that none is hidden.
_STATES_ALONE = frozenset({"mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm"})
# Kinds of quantized weights that pass the comparison and have a gradient with respect to their input; ``quantized.py``
# refuses 8 bits.
_QUANTIZED = frozenset({"bitsandbytes"})
_OTHER = "choose another model; docs/models.md lists those that work"


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature that is refused.

    field: of config.json, by which it is recognized. reason: why results would be wrong. models: some that have it.
    mend: what the user can do. value: the value of ``field`` where the feature is present, None where it is absent.
    """

    name: str
    field: str
    reason: str
    models: str
    value: Callable[[PreTrainedConfig], Any]
    mend: str = _OTHER


def refuse_features(name: str, config: PreTrainedConfig) -> None:
    """Raise ``UserError`` if a model with this configuration has a feature of ``FEATURES``.

    name: what the user typed for the model. The message names the feature and the field of config.json.
    """
    for feature in FEATURES:
        value = feature.value(config)
        if value is not None:
            raise UserError(
                f"--model {name}: {feature.name} ({feature.field}: {value}) can't be reproduced exactly: "
                f"{feature.reason}; {feature.mend}"
            )


def _text(config: PreTrainedConfig, field: str) -> Any:
    return getattr(config.get_text_config(), field, None)


def _set(field: str) -> Callable[[PreTrainedConfig], Any]:
    """The value of a field of the language model, None where it is not there, zero, false or empty."""
    return lambda config: _text(config, field) or None


def _first_set(*fields: str) -> Callable[[PreTrainedConfig], Any]:
    return lambda config: next((value for field in fields if (value := _text(config, field))), None)


def _own_class(config: PreTrainedConfig) -> bool:
    """Whether the class of the model comes with the checkpoint."""
    return "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})


def _no_causal_class(config: PreTrainedConfig) -> str | None:
    known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or _own_class(config)
    return None if known else str(config.model_type)


def _multimodal(config: PreTrainedConfig) -> str | None:
    kind = str(config.model_type)
    if kind in _MULTIMODAL or _own_class(config) or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return None
    text = config.sub_configs.get("text_config")
    # Some classes take the text part alone, and leave out the weights of the others.
    model: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    alone = text is not None and model.config_class is text
    return kind if config.sub_configs.keys() - _OF_BLOCKS and not alone else None


def _among(kinds: frozenset[str]) -> Callable[[PreTrainedConfig], Any]:
    """The model type where it is one of ``kinds``."""
    return lambda config: config.model_type if config.model_type in kinds else None


def _hidden_attention(config: PreTrainedConfig) -> str | None:
    """The model type of a class that calls no function that transformers lets others replace."""
    if config.model_type in _STATES_ALONE or _own_class(config) or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return None
    model: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    exchangeable = hasattr(sys.modules[model.__module__], "ALL_ATTENTION_FUNCTIONS")
    return None if exchangeable or config.sub_configs.keys() - _OF_BLOCKS else str(config.model_type)


def _bidirectional(config: PreTrainedConfig) -> Any:
    # "vision" concerns the tokens of images alone.
    both = _text(config, "use_bidirectional_attention")
    return both if both and both != "vision" else None


def _encoder(config: PreTrainedConfig) -> Any:
    return False if config.model_type in _ENCODERS and not _text(config, "is_decoder") else None


def _quantized(config: PreTrainedConfig) -> str | None:
    stated = getattr(config, "quantization_config", None) or {}
    given: dict[str, Any] = stated if isinstance(stated, dict) else stated.to_dict()
    bits = given.get("load_in_4bit") or given.get("load_in_8bit")
    kind = given.get("quant_method") or ("bitsandbytes" if bits else None)
    kind = getattr(kind, "value", kind)
    return None if kind is None or kind in _QUANTIZED else str(kind)


FEATURES: tuple[Feature, ...] = (
    Feature(
        name="an encoder-decoder",
        field="is_encoder_decoder",
        reason="a soft prompt and a rationale are one sequence of a decoder",
        models="T5, BART, Whisper",
        value=lambda config: True if config.is_encoder_decoder and not _own_class(config) else None,
    ),
    Feature(
        name="a class without causal language modeling",
        field="model_type",
        reason="transformers has no AutoModelForCausalLM for it",
        models="BERT variants, vision and speech models",
        value=_no_causal_class,
    ),
    Feature(
        name="a multimodal class",
        field="model_type",
        reason="its text part is not separate from its other parts",
        models="Fuyu, GIT, Phi-4-multimodal",
        value=_multimodal,
    ),
    Feature(
        name="per-layer embeddings",
        field="hidden_size_per_layer_input",
        reason="every layer looks up the id of each token, and virtual tokens have none",
        models="Gemma 3n, Gemma 4 E2B and E4B",
        value=_set("hidden_size_per_layer_input"),
    ),
    Feature(
        name="keys and values shared between layers",
        field="num_kv_shared_layers",
        reason="the gradient of a layer's attention would flow into the keys of another layer",
        models="Gemma 3n, Gemma 4 E2B and E4B",
        value=_set("num_kv_shared_layers"),
    ),
    Feature(
        name="sparse attention",
        field="index_topk",
        reason="a token attends to the positions that an indexer chooses, without a gradient",
        models="DeepSeek V3.2 and V4, GLM-5 (glm_moe_dsa), MiniMax M3",
        value=_first_set("index_topk", "index_topk_blocks"),
    ),
    Feature(
        name="attention to later tokens",
        field="use_bidirectional_attention",
        reason="the soft prompt would depend on the question and the answer",
        models="EmbeddingGemma",
        value=_bidirectional,
    ),
    Feature(
        name="attention to later tokens",
        field="is_decoder",
        reason="the soft prompt would depend on the question and the answer",
        models="BERT, ELECTRA, ERNIE",
        value=_encoder,
    ),
    Feature(
        name="position ids that begin after the padding token's",
        field="model_type",
        reason="position ids counted from 0 would give other positions",
        models="RoBERTa, XLM-RoBERTa, CamemBERT",
        value=_among(_ROBERTA),
    ),
    Feature(
        name="layers that run several times in a pass",
        field="H_cycles",
        reason="a layer has no single attention and no single entry in the KV cache",
        models="HRM-Text",
        value=_set("H_cycles"),
    ),
    Feature(
        name="attention of its own",
        field="model_type",
        reason="its attention probabilities differ from what its arguments say",
        models="CTRL, Granite with sinks (granite_swa)",
        value=_among(_OWN_ATTENTION),
    ),
    Feature(
        name="several attentions in a layer",
        field="model_type",
        reason="saliency is that of one softmax a layer",
        models="DiffLlama, LongCat-Flash",
        value=_among(_SEVERAL),
    ),
    Feature(
        name="attention that can't be captured",
        field="model_type",
        reason="its class computes attention itself, not through the AttentionInterface of transformers",
        models="GPT-J, GPT-Neo, CodeGen, BLOOM, MPT, Falcon, XGLM",
        value=_hidden_attention,
    ),
    Feature(
        name="quantized weights",
        field="quantization_config.quant_method",
        reason="their products are not known to have an exact gradient with respect to the input",
        models="checkpoints in GPTQ, AWQ, FP8, MXFP4, HQQ, compressed-tensors",
        value=_quantized,
        mend="choose the unquantized checkpoint of the model, one in 4 bits of bitsandbytes, or a GGUF file",
    ),
)
