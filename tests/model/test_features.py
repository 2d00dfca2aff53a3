"""A model with a feature that cannot be computed exactly is refused by its configuration, before weights are loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from dpc.cli import run_command
from dpc.errors import UserError
from dpc.model.features import FEATURES, refuse_features
from dpc.model.loading import load_lm, load_outline
from dpc.model.wrap import wrap_model
from tests.tiny_models import byte_tokenizer

SMALL: dict[str, Any] = {
    "vocab_size": 258,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
PER_LAYER = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 258, "laurel_rank": 8}
NOT_PER_LAYER = PER_LAYER | {"hidden_size_per_layer_input": 0}
TYPES = {"layer_types": ["sliding_attention", "full_attention"] * 2}
QUANTIZED = {"quantization_config": {"quant_method": "gptq", "bits": 4}}

# The model type, what differs from SMALL, the feature and the field that are named.
REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("gemma3n_text", PER_LAYER, "per-layer embeddings", "hidden_size_per_layer_input: 8"),
    ("gemma4_text", PER_LAYER, "per-layer embeddings", "hidden_size_per_layer_input: 8"),
    ("gemma4", {"text_config": SMALL | PER_LAYER}, "per-layer embeddings", "hidden_size_per_layer_input: 8"),
    ("gemma4_text", NOT_PER_LAYER | TYPES | {"num_kv_shared_layers": 2}, "shared between", "num_kv_shared_layers: 2"),
    ("gemma3_text", {"use_bidirectional_attention": True}, "later tokens", "use_bidirectional_attention: True"),
    ("t5", {}, "encoder-decoder", "is_encoder_decoder: True"),
    ("bart", {}, "encoder-decoder", "is_encoder_decoder: True"),
    ("vit", {}, "without causal language modeling", "model_type: vit"),
    ("phi4_multimodal", {}, "multimodal", "model_type: phi4_multimodal"),
    ("bert", {}, "later tokens", "is_decoder: False"),
    ("roberta", {"is_decoder": True}, "padding token", "model_type: roberta"),
    ("deepseek_v32", {"index_topk": 8}, "sparse attention", "index_topk: 8"),
    ("minimax_m3_vl_text", {}, "sparse attention", "index_topk: 16"),
    ("hrm_text", {}, "several times", "H_cycles: 2"),
    ("ctrl", {}, "attention of its own", "model_type: ctrl"),
    ("granite_swa", {}, "attention of its own", "model_type: granite_swa"),
    ("diffllama", {}, "several attentions", "model_type: diffllama"),
    ("longcat_flash", {}, "several attentions", "model_type: longcat_flash"),
    ("gptj", {}, "can't be captured", "model_type: gptj"),
    ("bloom", {}, "can't be captured", "model_type: bloom"),
    ("mpt", {}, "can't be captured", "model_type: mpt"),
    ("llama", QUANTIZED, "quantized weights", "quant_method: gptq"),
    ("gpt_oss", {"quantization_config": {"quant_method": "mxfp4"}}, "quantized weights", "quant_method: mxfp4"),
]
TAKEN: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("gemma4_text", NOT_PER_LAYER),
    ("gemma4", {"text_config": SMALL | NOT_PER_LAYER}),
    ("gemma3", {"text_config": SMALL}),
    ("bert", {"is_decoder": True}),
    ("gpt_neox", {}),
    ("dbrx", {}),
    ("mamba", {}),
    ("qwen3_5", {"text_config": SMALL}),
    ("llama", {"quantization_config": {"load_in_4bit": True, "quant_method": "bitsandbytes"}}),
]


def config_of(kind: str, changes: dict[str, Any]) -> PreTrainedConfig:
    made: PreTrainedConfig = CONFIG_MAPPING[kind](**(changes if "text_config" in changes else SMALL | changes))
    return made


def folder_without_weights(config: PreTrainedConfig, folder: Path) -> Path:
    config.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("load", [load_lm, load_outline])
@pytest.mark.parametrize(("kind", "changes", "feature", "field"), REFUSED, ids=[f"{r[0]}-{r[3]}" for r in REFUSED])
def test_it_is_refused_by_feature_and_field_without_any_weights(
    kind: str, changes: dict[str, Any], feature: str, field: str, load: Callable[..., object], tmp_path: Path
) -> None:
    folder = folder_without_weights(config_of(kind, changes), tmp_path / "model")
    with pytest.raises(
        UserError, match=rf"^--model .*model: .*{feature}.* \(.*{field}\) can't be reproduced"
    ) as caught:
        load(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "changes"), TAKEN, ids=[kind for kind, _ in TAKEN])
def test_models_without_such_a_feature_are_not_refused(kind: str, changes: dict[str, Any]) -> None:
    refuse_features("m", config_of(kind, changes))


def test_every_feature_is_refused_in_some_test() -> None:
    named = " ".join(f"{feature} {field}" for _, _, feature, field in REFUSED)
    assert not [feature.field for feature in FEATURES if feature.field.split(".")[-1] not in named]


def test_a_model_in_memory_is_refused_as_well() -> None:
    config = config_of("gemma4_text", PER_LAYER)
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    with pytest.raises(UserError, match=r"per-layer embeddings \(hidden_size_per_layer_input: 8\)"):
        wrap_model(model, byte_tokenizer(), "mine")


@pytest.mark.parametrize(
    "command",
    [
        pytest.param("run --model {model} --output {out} --dry-run", marks=pytest.mark.slow),
        pytest.param("run --model {model} --output {out}", marks=pytest.mark.slow),
        pytest.param("tune --model {model} --output {out}", marks=pytest.mark.slow),
        "generate --model {model} --method pretrained {questions}",
    ],
)
def test_commands_say_so_in_one_line(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_without_weights(config_of("gemma4_text", PER_LAYER), tmp_path / "model")
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "1 + 1?"}\n')
    given = command.format(model=folder, out=tmp_path / "out", questions=questions)
    assert run_command(given.split()) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "per-layer embeddings (hidden_size_per_layer_input: 8)" in said
