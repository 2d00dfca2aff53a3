"""Models in GGUF files: their weights are those that were written, or the file is refused before they are loaded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import Gemma3TextConfig, Lfm2Config, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from dpc.errors import UserError
from dpc.model.gguf_file import ARCHITECTURES, complete_tokenizer, read_gguf
from dpc.model.loading import load_lm, load_outline
from tests.model.checkpoints import save, tiny_model
from tests.model.gguf_files import write_gguf
from tests.tiny_models import byte_tokenizer

IDS = torch.arange(5, 60)[None]


def _like(architecture: str) -> PreTrainedModel:
    """A tiny model with what llama.cpp takes for granted: Gemma's heads and soft caps, Qwen 3's heads."""
    gemma = {"head_dim": 256, "query_pre_attn_scalar": 256}
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "vocab_size": 258}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "eos_token_id": 0}
    torch.manual_seed(0)
    match architecture:
        case "gemma2":
            return tiny_model("gemma2", **gemma, attn_logit_softcapping=50.0, final_logit_softcapping=30.0)
        case "qwen3":
            return tiny_model("qwen3", head_dim=128)
        case "gemma3":
            config: Any = Gemma3TextConfig(**sizes, **gemma, sliding_window=10)
        case "lfm2":
            kinds = ["conv", "full_attention", "conv"]
            config = Lfm2Config(**sizes, layer_types=kinds, conv_L_cache=3, block_auto_adjust_ff_dim=False)
        case _:
            return tiny_model(architecture)
    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).eval()


SLOW = pytest.mark.slow
BY_DEFAULT = ("llama", "gemma3")


@pytest.mark.parametrize(
    "architecture", [pytest.param(each, marks=() if each in BY_DEFAULT else SLOW) for each in ARCHITECTURES]
)
def test_a_gguf_file_gives_the_logits_of_the_model_that_was_written(architecture: str, tmp_path: Path) -> None:
    model = _like(architecture)
    lm = load_lm(str(write_gguf(model, tmp_path / "model.gguf")))
    assert torch.equal(lm.model(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize(
    "kind", [Kind.F16, Kind.Q8_0, Kind.Q4_0, pytest.param(Kind.Q5_0, marks=SLOW), pytest.param(Kind.BF16, marks=SLOW)]
)
def test_a_quantized_file_equals_a_checkpoint_of_the_unpacked_weights(kind: Kind, tmp_path: Path) -> None:
    model = tiny_model("llama", tie_word_embeddings=True)
    lm = load_lm(str(write_gguf(model, tmp_path / "model.gguf", kind)))
    for parameter in model.parameters():
        if parameter.ndim > 1 and parameter.shape[-1] % 32 == 0:
            unpacked = gguf.dequantize(gguf.quantize(parameter.detach().numpy(), kind), kind)
            parameter.data = torch.from_numpy(unpacked)
    other = load_lm(str(save(model, tmp_path / "unpacked")))
    assert torch.equal(lm.model(IDS).logits, other.model(IDS).logits)
    assert lm.encode("12 of them") == other.encode("12 of them")
    assert (lm.context, lm.end_ids, lm.dtype) == (other.context, other.end_ids, other.dtype)


def test_the_outline_of_a_gguf_file_has_its_sizes_tokenizer_and_chat_template(tmp_path: Path) -> None:
    path = str(write_gguf(tiny_model("llama"), tmp_path / "model.gguf", Kind.Q8_0))
    outline, lm = load_outline(path), load_lm(path)
    assert outline.model.config.to_dict() == lm.model.config.to_dict()
    assert {each.device.type for each in outline.model.parameters()} == {"meta"}
    assert lm.tokenizer.get_chat_template() == outline.tokenizer.get_chat_template() != ""
    assert outline.dtype == lm.dtype == torch.float32


def test_files_beside_a_gguf_file_are_not_read(tmp_path: Path) -> None:
    path = write_gguf(tiny_model("llama"), save(tiny_model("qwen2"), tmp_path / "other") / "model.gguf")
    (path.parent / "tokenizer_config.json").write_text('{"tokenizer_class": "NoSuchTokenizer", "eos_token": "a"}')
    assert load_lm(str(path)).model.config.model_type == "llama"
    assert load_lm(str(path)).end_ids == (0,)


def test_the_fingerprint_of_a_gguf_file_sees_every_weight_and_its_type(tmp_path: Path) -> None:
    model = tiny_model("llama")
    first = load_lm(str(write_gguf(model, tmp_path / "a.gguf", Kind.Q8_0)))
    assert load_lm(str(write_gguf(model, tmp_path / "b.gguf", Kind.Q8_0)), dtype="bfloat16").revision == first.revision
    assert load_lm(str(write_gguf(model, tmp_path / "c.gguf", Kind.F16))).revision != first.revision
    model.model.layers[1].mlp.up_proj.weight.data[0] += 1
    write_gguf(model, tmp_path / "d.gguf", Kind.Q8_0)
    assert load_lm(str(tmp_path / "d.gguf")).revision != first.revision
    first.verify_unchanged()
    shutil.copy(tmp_path / "b.gguf", tmp_path / "a.gguf")
    first.verify_unchanged()
    shutil.copy(tmp_path / "d.gguf", tmp_path / "a.gguf")
    with pytest.raises(UserError, match="changed after the model was loaded"):
        first.verify_unchanged()


@pytest.mark.parametrize("factor", [pytest.param(8.0, marks=SLOW), 32.0])
def test_the_rotary_factors_of_llama_3_are_those_of_its_own_checkpoint(factor: float, tmp_path: Path) -> None:
    scaling = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": factor, "low_freq_factor": 1.0}
    scaling |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    plain = tiny_model("llama", head_dim=64, rope_parameters={"rope_type": "default", "rope_theta": 500000.0})
    model = tiny_model("llama", head_dim=64, rope_parameters=scaling)
    factors = (plain.model.rotary_emb.inv_freq / model.model.rotary_emb.inv_freq).numpy()
    path = write_gguf(model, tmp_path / "model.gguf", extra={"rope_freqs.weight": factors})
    lm = load_lm(str(path))
    assert torch.equal(lm.model.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)
    assert torch.equal(lm.model(IDS).logits, model(IDS).logits)
    assert not torch.allclose(plain(IDS).logits, model(IDS).logits, atol=1e-3)


def _damaged(path: Path, keep: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


FACTORS = {"rope_freqs.weight": np.array([1, 1, 1.5, 7], np.float32)}
WRITTEN: dict[str, tuple[str, dict[str, Any], str]] = {
    "scaling": ("llama", {"metadata": {"rope.scaling.type": "yarn"}}, r"the key llama.rope.scaling.type = yarn"),
    "window": ("phi3", {"metadata": {"attention.sliding_window": 7}}, r"the key phi3.attention.sliding_window = 7"),
    "tensor": ("llama", {"extra": {"blk.0.attn_q.bias": np.ones(32, np.float32)}}, r"1 tensors \(blk.0.attn_q.bias\)"),
    "factors": ("llama", {"extra": FACTORS}, r"rotary factors .* other than those of Llama 3"),
    "longrope": ("phi3", {"extra": {"rope_factors_long.weight": np.ones(4, np.float32)}}, r"rope_factors_long.weight"),
    "heads": ("gemma2", {}, r"a Gemma model with heads of 12"),
    "pre": ("llama", {"pre": "default"}, r"a pre-tokenizer \(default\)"),
    "architecture": ("llama", {"architecture": "falcon"}, r"of the architecture falcon, expected one of llama"),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_a_gguf_file_that_would_lose_something_is_refused(case: str, tmp_path: Path) -> None:
    architecture, written, message = WRITTEN[case]
    path = write_gguf(tiny_model(architecture), tmp_path / "model.gguf", **written)
    with pytest.raises(UserError, match=message) as error:
        load_outline(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.3, 0.99])
def test_a_cut_off_gguf_file_is_refused_by_name(keep: float, tmp_path: Path) -> None:
    path = write_gguf(tiny_model("llama"), tmp_path / "model.gguf", Kind.F16)
    _damaged(path, keep)
    with pytest.raises(UserError, match=r"--model .*model.gguf: is (not a whole GGUF file|cut off)"):
        load_outline(str(path))


def test_a_missing_weight_in_a_gguf_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = write_gguf.__globals__["_named"]
    drop = {"blk.1.ffn_up.weight"}
    keep = lambda *args: {key: value for key, value in named(*args).items() if key not in drop}  # noqa: E731
    monkeypatch.setitem(write_gguf.__globals__, "_named", keep)
    path = write_gguf(tiny_model("llama"), tmp_path / "model.gguf")
    with pytest.raises(UserError, match=r"1 missing \(model.layers.1.mlp.up_proj.weight\)"):
        load_lm(str(path))


def test_what_is_no_single_file_is_refused_with_the_right_name(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"a folder with 2 GGUF files \(a.gguf, b.gguf\).*--model .*a.gguf"):
        load_lm(str(tmp_path))
    with pytest.raises(UserError, match="no such file"):
        load_lm(str(tmp_path / "c.gguf"))
    with pytest.raises(UserError, match="part of a split GGUF file"):
        load_lm(str(tmp_path / "a-00001-of-00002.gguf"))


def test_without_the_package_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tiny_model("llama"), tmp_path / "model.gguf")
    monkeypatch.setattr("dpc.model.gguf_file.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install gguf"):
        load_lm(str(path))


def test_a_file_on_the_hub_is_named_after_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, asked = write_gguf(tiny_model("llama"), tmp_path / "model.gguf"), []
    monkeypatch.setattr(
        "dpc.model.gguf_file.cached_file", lambda *args, **kwargs: asked.append((*args, kwargs)) or str(path)
    )
    monkeypatch.setattr("dpc.model.loading.model_repository", lambda *_: None)
    assert load_outline("someone/some-GGUF:sub/model.Q4_0.gguf", revision="v1").layers == 2
    assert asked == [("someone/some-GGUF", "sub/model.Q4_0.gguf", {"revision": "v1"})]


def test_the_vocabulary_of_smollm_splits_off_each_digit(tmp_path: Path) -> None:
    path = write_gguf(tiny_model("llama"), tmp_path / "model.gguf", pre="smollm")
    tokenizer = byte_tokenizer()
    complete_tokenizer(read_gguf("model.gguf", path), tokenizer)
    pieces = [text for text, _ in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  40%")]
    assert pieces == ["a", "ĠĠ", "4", "0", "%"]
