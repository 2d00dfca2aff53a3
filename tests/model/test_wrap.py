"""Models that are loaded already, with or without PEFT, are used as they are. Models and prompts print briefly."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModel, PreTrainedTokenizerFast

from dpc.engine.plain import greedy
from dpc.engine.request import Request
from dpc.errors import UserError
from dpc.model.lm import FrozenLM
from dpc.model.loading import load_lm
from dpc.model.wrap import wrap_model
from dpc.prompt.soft_prompt import SoftPrompt, init_prompt, load_adapter, prompt_of, save_adapter
from tests.model.checkpoints import save, tiny_model
from tests.tiny_models import byte_tokenizer, tiny_lm


def peft_model(kind: type[peft.PeftConfig] = peft.PromptTuningConfig, **options: object) -> peft.PeftModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return peft.get_peft_model(tiny_model(), kind(task_type="CAUSAL_LM", **options))


def test_a_wrapped_model_is_frozen_and_not_copied() -> None:
    model = tiny_model().train()
    lm = wrap_model(model, byte_tokenizer(), "mine")
    assert lm.model is model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert lm.name == "mine"


def test_a_wrapped_model_is_named_after_where_it_came_from(tmp_path: Path) -> None:
    assert wrap_model(tiny_model(), byte_tokenizer()).name == "LlamaForCausalLM"
    folder = save(tiny_model(), tmp_path)
    assert wrap_model(type(tiny_model()).from_pretrained(folder), byte_tokenizer()).name == str(folder)


def test_a_prompt_tuned_on_a_folder_is_accepted_for_the_same_model_in_memory(tmp_path: Path) -> None:
    folder = save(tiny_model(), tmp_path / "model")
    loaded = load_lm(str(folder))
    save_adapter(init_prompt(loaded, 4, "random", seed=0), loaded, tmp_path / "prompt", {})
    own = wrap_model(tiny_model(), byte_tokenizer())
    assert load_adapter(own, tmp_path / "prompt").sha256
    with pytest.raises(UserError, match=r"weights .* against"):
        load_adapter(wrap_model(tiny_model(seed=1), byte_tokenizer()), tmp_path / "prompt")


def test_a_peft_model_gives_its_base_model_and_its_prompt() -> None:
    model = peft_model(num_virtual_tokens=5)
    lm, prompt = wrap_model(model, byte_tokenizer()), prompt_of(model)
    assert lm.model is model.get_base_model()
    assert lm.revision == wrap_model(tiny_model(), byte_tokenizer()).revision
    assert torch.equal(prompt.vectors, model.get_prompt(batch_size=1)[0])
    assert prompt.base_model == lm.name
    assert prompt.directory is None


def test_base_model_and_prompt_of_a_peft_model_write_what_it_writes() -> None:
    model = peft_model(num_virtual_tokens=5).eval()
    ids, written = [10, 11, 12, 13], []
    with torch.no_grad():
        for _ in range(8):
            logits = model(input_ids=torch.tensor([[*ids, *written]])).logits
            written.append(int(logits[0, -1].argmax()))
    [decoded] = greedy(wrap_model(model, byte_tokenizer()), [Request(ids, prompt_of(model))], 8)
    assert list(decoded.ids) == written[: len(decoded.ids)]
    assert len(decoded.ids) > 2


def test_the_prompt_that_peft_saves_is_the_prompt_of_its_model(tmp_path: Path) -> None:
    model = peft_model(num_virtual_tokens=5)
    model.save_pretrained(tmp_path)
    loaded = load_adapter(wrap_model(model, byte_tokenizer()), tmp_path)
    assert loaded.sha256 == prompt_of(model).sha256
    assert loaded.directory == tmp_path


def test_a_peft_model_with_another_adapter_has_no_prompt() -> None:
    lora = peft_model(peft.LoraConfig, target_modules=["q_proj"])
    prefix = peft_model(peft.PrefixTuningConfig, num_virtual_tokens=3)
    with pytest.raises(UserError, match="has a PREFIX_TUNING adapter, expected one that acts on each token alone"):
        wrap_model(prefix, byte_tokenizer())
    for model, message in ((lora, "is a LORA adapter, .* give it with --adapter"), (prefix, "is a PREFIX_TUNING ada")):
        with pytest.raises(UserError, match=message):
            prompt_of(model)
    assert wrap_model(lora, byte_tokenizer()).adapter is not None
    merged = lora.merge_and_unload()
    assert wrap_model(merged, byte_tokenizer()).model is merged
    assert wrap_model(merged, byte_tokenizer()).adapter is None


def test_a_model_without_adapter_has_no_prompt() -> None:
    with pytest.raises(UserError, match="LlamaForCausalLM: expected a PEFT model"):
        prompt_of(tiny_model())


def test_what_is_no_causal_language_model_is_refused() -> None:
    for model in (torch.nn.Linear(2, 2), AutoModel.from_config(tiny_model().config)):
        with pytest.raises(UserError, match="expected a causal language model"):
            wrap_model(model, byte_tokenizer())


def test_a_model_without_an_end_token_is_refused() -> None:
    model = tiny_model()
    model.generation_config.eos_token_id = None
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer().backend_tokenizer)
    with pytest.raises(UserError, match="mine: neither model nor tokenizer has an end token"):
        wrap_model(model, tokenizer, "mine")


def test_a_model_prints_as_one_short_line() -> None:
    assert repr(load_lm("zoo")) == "FrozenLM('zoo', 0.9M parameters, float32, cpu)"
    lm: FrozenLM = tiny_lm("llama", torch.bfloat16)
    assert repr(lm) == f"FrozenLM('tiny-llama', {lm.model.num_parameters():,} parameters, bfloat16, cpu)"


def test_a_prompt_prints_as_one_short_line_and_is_a_table_in_a_notebook() -> None:
    prompt = SoftPrompt.of(torch.zeros(20, 128), "a<b")
    assert repr(prompt) == f"SoftPrompt(20 virtual tokens x 128, sha256 {prompt.sha256[:8]}…)"
    table = prompt._repr_html_()
    assert "<td>20</td>" in table
    assert "<td>128</td>" in table
    assert prompt.sha256 in table
    assert "a&lt;b" in table
    assert "a<b" not in table
