"""Quantized weights: 4 bits equal the unpacked weights in every computation; other methods are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from dpc.api import generate
from dpc.errors import UserError
from dpc.model.lm import FrozenLM
from dpc.model.loading import load_lm, load_outline
from dpc.model.wrap import wrap_model
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.prompt.target_loss import target_loss
from dpc.run.inputs import describe_model
from tests.model.checkpoints import edit_json, save, tiny_model
from tests.model.gguf_files import write_gguf
from tests.tiny_models import byte_tokenizer

SIZES = {"hidden_size": 64, "intermediate_size": 128}
QUESTIONS = ["What is 3+4?", "A longer question of many words, about 17 apples and 5 boxes", "Why?"]
METHODS = ("awq", "fp8", "unheard-of")


@pytest.mark.parametrize("method", METHODS)
def test_other_methods_of_quantization_are_refused_by_name_before_weights_are_read(method: str, tmp_path: Path) -> None:
    folder = save(tiny_model(), tmp_path)
    (folder / "model.safetensors").write_bytes(b"not read")
    edit_json(folder / "config.json", quantization_config={"quant_method": method, "bits": 4})
    for load in (load_lm, load_outline):
        with pytest.raises(UserError, match=f"quantized weights .*quant_method: {method}.*4 bits of bitsandbytes"):
            load(str(folder))


@pytest.mark.parametrize("load", [load_lm, load_outline])
def test_what_cannot_be_quantized_is_refused_in_one_line(load: Any, tmp_path: Path) -> None:
    folder = save(tiny_model(), tmp_path / "model")
    file = write_gguf(tiny_model(), tmp_path / "model.gguf")
    for name, options, message in (
        (folder, {"quantize": "8bit"}, "--quantize 8bit: .*depend on the questions beside it.*use --quantize 4bit"),
        (folder, {"quantize": "3bit"}, "--quantize 3bit: expected 4bit"),
        (folder, {"quantize": "4bit", "dtype": "float64"}, "not float64"),
        (file, {"quantize": "4bit"}, "is a GGUF file, quantized already"),
    ):
        with pytest.raises(UserError, match=message):
            load(str(name), **options)
    edit_json(folder / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    with pytest.raises(UserError, match="depend on the questions beside it"):
        load(str(folder))
    with pytest.raises(UserError, match="stored quantized already"):
        load(str(folder), quantize="4bit")


def test_without_bitsandbytes_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpc.model.quantized.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        load_lm(str(save(tiny_model(), tmp_path)), quantize="4bit")


def _unpacked(lm: FrozenLM, folder: Path) -> FrozenLM:
    """A model without quantization that holds the unpacked weights of a quantized one."""
    functional = pytest.importorskip("bitsandbytes").functional
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=lm.dtype, quantization_config=None)
    for name, module in lm.model.named_modules():
        if type(module).__name__ == "Linear4bit":
            stored: Any = module.weight
            values = functional.dequantize_4bit(stored.data, stored.quant_state)
            model.get_submodule(name).weight.data = values.to(lm.dtype)
    return wrap_model(model, byte_tokenizer(), lm.name)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[FrozenLM, FrozenLM]:
    pytest.importorskip("bitsandbytes", reason="pip install bitsandbytes")
    folder = save(tiny_model("llama", layers=3, **SIZES), tmp_path)
    lm = load_lm(str(folder), quantize="4bit")
    return lm, _unpacked(lm, folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("settings", [{}, {"decoding.slots": False, "decoding.local_trigger": False}])
def test_four_bits_answer_and_decide_like_the_unpacked_weights(pair: Any, settings: Any) -> None:
    vectors = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)) * 0.3
    found = [
        generate(
            lm,
            QUESTIONS,
            prompt=SoftPrompt.of(vectors, lm.name),
            tau=0.1,
            settings={"decoding.max_new_tokens": 20, **settings},
        )
        for lm in pair
    ]
    assert [(a.first.ids, a.decision, a.second) for a in found[0]] == [
        (a.first.ids, a.decision, a.second) for a in found[1]
    ]
    assert any(answer.second for answer in found[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_four_bits_tune_like_the_unpacked_weights_also_after_decoding(pair: Any) -> None:
    ids = torch.arange(5, 40)[None]
    with torch.no_grad():
        assert torch.equal(*[lm.model(ids).logits for lm in pair])
    gradients = []
    for lm in pair:
        vectors = (torch.ones(5, 64) * 0.1).requires_grad_()
        target_loss(lm, vectors, [([5, 6, 7], [8, 9]), ([11], [12, 13, 14])]).backward()
        gradients.append(vectors.grad)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_quantization_is_part_of_what_identifies_a_model(pair: Any, tmp_path: Path) -> None:
    lm, plain = pair[0], load_lm(pair[0].name)
    assert describe_model(lm) == describe_model(plain) | {"quantized": "4bit"}
    lm.model.save_pretrained(tmp_path / "stored")
    byte_tokenizer().save_pretrained(tmp_path / "stored")
    stored = load_lm(str(tmp_path / "stored"))
    assert stored.revision not in (lm.revision, "")
    assert torch.equal(stored.model(torch.arange(5, 40)[None]).logits, lm.model(torch.arange(5, 40)[None]).logits)
    stored.verify_unchanged()
    other = wrap_model(lm.model, byte_tokenizer())
    assert other.revision != plain.revision


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_eight_bits_make_a_row_depend_on_its_neighbours(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="pip install bitsandbytes")
    folder = save(tiny_model("llama", **SIZES), tmp_path)
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=BitsAndBytesConfig(load_in_8bit=True), device_map={"": "cpu"}
    )
    ids = torch.arange(5, 125).view(4, 30)
    with torch.no_grad():
        assert (model(ids).logits[:1] - model(ids[:1]).logits).abs().max() > 0.01
    with pytest.raises(UserError, match="depend on the questions beside it"):
        wrap_model(model, byte_tokenizer())
