"""A soft prompt: its initialization, its file format (a PEFT adapter), and the models it is refused for."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jaxtyping
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import normalizers
from tokenizers.processors import TemplateProcessing
from transformers import LlamaForCausalLM

from dpc.errors import UserError
from dpc.model.lm import FrozenLM
from dpc.prompt import soft_prompt as module
from dpc.prompt.soft_prompt import SoftPrompt, init_prompt, load_adapter, save_adapter, tokenizer_fingerprint
from dpc.settings import Init
from tests.tiny_models import EOS, byte_tokenizer, tiny_config, tiny_lm

LENGTH = 5


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return tiny_lm("llama", layers=2)


@pytest.fixture
def saved(lm: FrozenLM, tmp_path: Path) -> tuple[SoftPrompt, Path]:
    prompt = init_prompt(lm, LENGTH, "random", seed=1)
    save_adapter(prompt, lm, tmp_path / "prompt", {"note": "kept"})
    return prompt, tmp_path / "prompt"


def peft_adapter(lm: FrozenLM, directory: Path, config: peft.PeftConfig) -> peft.PeftModel:
    model = peft.get_peft_model(tiny_lm(lm.name.removeprefix("tiny-"), layers=2).model, config)
    model.save_pretrained(directory)
    return model


def prompt_tuning(length: int = LENGTH) -> peft.PromptTuningConfig:
    return peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=length)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_text_init_repeats_or_trims_one_example_with_its_start_token(lm: FrozenLM) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{EOS} $A", special_tokens=[(EOS, 0)])
    starting = replace(lm, tokenizer=tokenizer)
    ids = starting.encode("ab")
    assert ids[0] == 0
    table = lm.model.get_input_embeddings().weight
    assert torch.equal(init_prompt(starting, 7, "text", 0, "ab").vectors, table[(ids * 3)[:7]])
    assert torch.equal(init_prompt(starting, 2, "text", 0, "ab").vectors, table[ids[:2]])


def test_vocabulary_init_draws_embeddings_of_real_tokens_only() -> None:
    tokenizer = byte_tokenizer()
    model = LlamaForCausalLM(tiny_config("llama", vocab=2 * len(tokenizer), layers=1))
    lm = FrozenLM(model, tokenizer, "padded", "seed-0")
    vectors = init_prompt(lm, 400, "sample-vocab", seed=0).vectors
    matches = (vectors[:, None] == model.get_input_embeddings().weight[None]).all(dim=2)
    assert (matches.sum(dim=1) == 1).all()
    drawn = set(matches.nonzero()[:, 1].tolist())
    assert drawn <= set(range(2, len(tokenizer)))
    assert len(drawn) > 150


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_random_init_has_the_spread_of_the_embeddings_that_the_model_sees(architecture: str) -> None:
    lm = tiny_lm(architecture, layers=1)
    seen = lm.embed(torch.arange(2, lm.vocab_size))
    vectors = init_prompt(lm, 300, "random", seed=0).vectors
    assert vectors.std().item() == pytest.approx(seen.std().item(), rel=0.05)
    assert abs(vectors.mean().item()) < 0.05 * seen.std().item()


@pytest.mark.parametrize("init", ["random", "sample-vocab"])
def test_init_depends_on_its_seed_and_leaves_the_global_generator_alone(lm: FrozenLM, init: Init) -> None:
    before = torch.get_rng_state()
    first = init_prompt(lm, LENGTH, init, seed=3)
    torch.rand(1)
    assert init_prompt(lm, LENGTH, init, seed=3) == first
    assert init_prompt(lm, LENGTH, init, seed=4) != first
    torch.set_rng_state(before)
    init_prompt(lm, LENGTH, init, seed=3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("init", ["random", "sample-vocab", "text"])
def test_a_prompt_is_float32_on_a_bfloat16_model(init: Init, tmp_path: Path) -> None:
    lm = tiny_lm("llama", torch.bfloat16, layers=1)
    prompt = init_prompt(lm, LENGTH, init, seed=0, text="one example")
    assert prompt.vectors.dtype == torch.float32
    save_adapter(prompt, lm, tmp_path, {})
    assert torch.equal(load_adapter(lm, tmp_path).vectors, prompt.vectors)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda lm: init_prompt(lm, 0, "random", 0), "prompt length 0: expected at least 1"),
        (lambda lm: init_prompt(lm, 4, "text", 0, ""), "expected a text to start from"),
        (lambda lm: init_prompt(lm, 4, "text", 0), "expected a text to start from"),
    ],
)
def test_an_init_without_what_it_needs_is_refused(
    lm: FrozenLM, call: Callable[[FrozenLM], SoftPrompt], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        call(lm)


def test_an_unknown_init_is_refused(lm: FrozenLM, monkeypatch: pytest.MonkeyPatch) -> None:
    # Off, because the checks of the test run would refuse the name before the function can.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UserError, match="prompt init 'zeros': expected one of random, sample-vocab, text"):
        init_prompt(lm, LENGTH, "zeros", 0)  # type: ignore[arg-type]


def test_the_hash_is_of_shape_and_little_endian_float32_values() -> None:
    vectors = torch.tensor([[1.0, -2.0, 0.5]])
    raw = bytes.fromhex("0000803f000000c00000003f")
    assert SoftPrompt.of(vectors, "m").sha256 == hashlib.sha256(b"1x3\n" + raw).hexdigest()
    assert SoftPrompt.of(vectors.T, "m").sha256 != SoftPrompt.of(vectors, "m").sha256


def test_a_prompt_keeps_its_values_when_its_source_changes() -> None:
    source = torch.zeros(2, 3)
    prompt = SoftPrompt.of(source, "m")
    source += 1
    assert prompt.vectors.count_nonzero() == 0


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_peft_loads_a_saved_prompt_as_it_is(architecture: str, tmp_path: Path) -> None:
    lm = tiny_lm(architecture, layers=2)
    prompt = init_prompt(lm, LENGTH, "random", seed=0)
    save_adapter(prompt, lm, tmp_path, {})
    loaded = peft.PeftModel.from_pretrained(tiny_lm(architecture, layers=2).model, tmp_path)
    assert torch.equal(loaded.get_prompt(batch_size=1)[0], prompt.vectors)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_adapter_files_are_those_that_peft_writes(architecture: str, tmp_path: Path) -> None:
    lm = tiny_lm(architecture, layers=2)
    model = peft_adapter(lm, tmp_path / "theirs", prompt_tuning())
    prompt = SoftPrompt.of(model.get_prompt(batch_size=1)[0], lm.name)
    save_adapter(prompt, lm, tmp_path / "ours", {})
    ours, theirs = (json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("ours", "theirs"))
    assert ours == theirs | {"base_model_name_or_path": lm.name}
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("ours", "theirs")]
    assert weights[0] == weights[1]


def test_an_adapter_that_peft_made_loads_where_it_fits(lm: FrozenLM, tmp_path: Path) -> None:
    model = peft_adapter(lm, tmp_path, prompt_tuning())
    assert torch.equal(load_adapter(lm, tmp_path).vectors, model.get_prompt(batch_size=1)[0])


def test_a_prompt_knows_the_directory_that_it_was_read_from(lm: FrozenLM, saved: tuple[SoftPrompt, Path]) -> None:
    prompt, directory = saved
    loaded = load_adapter(lm, directory)
    assert (prompt.directory, loaded.directory) == (None, directory)
    assert loaded == prompt
    assert hash(loaded) == hash(prompt)


def test_a_saved_prompt_comes_back_with_its_provenance(lm: FrozenLM, saved: tuple[SoftPrompt, Path]) -> None:
    prompt, directory = saved
    loaded = load_adapter(lm, directory)
    assert loaded == prompt
    assert torch.equal(loaded.vectors, prompt.vectors)
    notes = json.loads((directory / "dpc.json").read_text())
    assert notes["note"] == "kept"
    assert notes["prompt_sha256"] == prompt.sha256
    assert (notes["base_model"], notes["revision"], notes["vocab_size"], notes["hidden_size"]) == (
        "tiny-llama",
        "seed-0",
        lm.vocab_size,
        lm.hidden_size,
    )
    assert set(notes["versions"]) == {"torch", "transformers", "peft"}


def test_provenance_cannot_take_the_place_of_what_identifies_the_model(lm: FrozenLM, tmp_path: Path) -> None:
    save_adapter(init_prompt(lm, LENGTH, "random", 0), lm, tmp_path, {"revision": "another"})
    assert json.loads((tmp_path / "dpc.json").read_text())["revision"] == lm.revision


def test_a_tokenizer_is_known_by_what_it_does(lm: FrozenLM) -> None:
    fingerprint = tokenizer_fingerprint(byte_tokenizer())
    padding = byte_tokenizer()
    padding(["a", "bc"], padding=True, truncation=True, max_length=2)
    assert tokenizer_fingerprint(padding) == fingerprint

    lower = byte_tokenizer()
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    more = byte_tokenizer()
    more.add_tokens(["new"])
    special = byte_tokenizer()
    special.add_special_tokens({"bos_token": "a"})
    assert len({fingerprint, *map(tokenizer_fingerprint, (lower, more, special))}) == 4


def test_a_prompt_for_other_weights_is_refused(lm: FrozenLM, saved: tuple[SoftPrompt, Path]) -> None:
    other = replace(lm, revision="seed-9", name="other")
    with pytest.raises(UserError, match=r"tuned on model 'tiny-llama', which is not model 'other' \(weights seed-0 ag"):
        load_adapter(other, saved[1])


def test_a_prompt_for_another_tokenizer_is_refused(lm: FrozenLM, saved: tuple[SoftPrompt, Path]) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(UserError, match=r"\(tokenizer \w{12} against \w{12}\)"):
        load_adapter(replace(lm, tokenizer=tokenizer), saved[1])


def test_a_prompt_for_another_vocabulary_is_refused(lm: FrozenLM, saved: tuple[SoftPrompt, Path]) -> None:
    model = LlamaForCausalLM(tiny_config("llama", vocab=lm.vocab_size + 2, layers=2))
    with pytest.raises(UserError, match=r"\(vocabulary size 258 against 260\)"):
        load_adapter(replace(lm, model=model), saved[1])


def test_a_prompt_of_another_width_is_refused(lm: FrozenLM, tmp_path: Path) -> None:
    peft_adapter(lm, tmp_path, prompt_tuning())
    save_file({"prompt_embeddings": torch.zeros(LENGTH, 16)}, tmp_path / "adapter_model.safetensors")
    edit(tmp_path / "adapter_config.json", token_dim=16, base_model_name_or_path="narrow")
    with pytest.raises(UserError, match=r"vectors have 16 values, but model 'tiny-llama' expects 32; .*\(narrow\)"):
        load_adapter(lm, tmp_path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: (path / "adapter_config.json").unlink(), "has no adapter_config.json"),
        (lambda path: (path / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
        (lambda path: (path / "adapter_config.json").write_text("{"), "adapter_config.json is not readable JSON"),
        (lambda path: (path / "adapter_config.json").write_text("[]"), "adapter_config.json holds a list"),
        (lambda path: (path / "dpc.json").write_text("\0"), "dpc.json is not readable JSON"),
        (lambda path: (path / "dpc.json").write_text('{"format_version": 1}'), "dpc.json lacks revision, tokenizer_"),
        (lambda path: edit(path / "dpc.json", format_version=2), "format version 2, expected 1"),
        (
            lambda path: edit(path / "adapter_config.json", num_virtual_tokens=9),
            "holds 5 vectors .* states num_virtual_tokens 9",
        ),
        (
            lambda path: edit(path / "adapter_config.json", task_type="SEQ_2_SEQ_LM"),
            "PROMPT_TUNING adapter for SEQ_2_SEQ",
        ),
        (
            lambda path: edit(path / "adapter_config.json", token_dim=31),
            "5 vectors of 32 values .* states token_dim 31",
        ),
        (
            lambda path: edit(path / "adapter_config.json", num_transformer_submodules=2),
            "num_transformer_submodules 2, expected 1",
        ),
        (lambda path: edit(path / "adapter_config.json", modules_to_save=["lm_head"]), r"of the model too \(lm_head\)"),
        (lambda path: edit(path / "adapter_config.json", peft_type=None), "names no peft_type"),
        (lambda path: edit(path / "adapter_config.json", peft_type="LORA"), "is a LORA adapter, which changes the mod"),
        (
            lambda path: (path / "adapter_model.safetensors").write_bytes(b"12"),
            "holds no readable tensors",
        ),
        (lambda path: rewrite(path, "prompt_embeddings", torch.full((5, 32), torch.nan)), "not finite"),
        (
            lambda path: rewrite(path, "prompt_embeddings", torch.zeros(5)),
            r"has the shape \[5\], expected \[prompt, d\]",
        ),
        (lambda path: rewrite(path, "prompt_embeddings", torch.zeros(5, 32).int()), "torch.int32, expected floating"),
        (lambda path: rewrite(path, "weight", torch.zeros(5, 32)), "has no tensor 'prompt_embeddings'"),
        (
            lambda path: rewrite(path, "prompt_embeddings", torch.zeros(5, 32)),
            "is not the prompt that dpc.json describes",
        ),
    ],
)
def test_a_spoilt_directory_is_refused_in_one_line_that_names_it(
    lm: FrozenLM, saved: tuple[SoftPrompt, Path], spoil: Callable[[Path], object], message: str
) -> None:
    spoil(saved[1])
    with pytest.raises(UserError, match=message) as caught:
        load_adapter(lm, saved[1])
    assert str(saved[1]) in str(caught.value)
    assert "\n" not in str(caught.value)


def rewrite(directory: Path, key: str, tensor: torch.Tensor) -> None:
    save_file({key: tensor}, directory / "adapter_model.safetensors")


def test_a_missing_directory_is_refused(lm: FrozenLM, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load_adapter(lm, tmp_path / "nowhere")


def test_a_prompt_is_not_saved_for_a_model_that_it_does_not_fit(lm: FrozenLM, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="vectors of 8 values, but model 'tiny-llama' expects 32"):
        save_adapter(SoftPrompt.of(torch.zeros(2, 8), lm.name), lm, tmp_path / "out", {})
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_line_and_leaves_the_old_prompt(
    lm: FrozenLM, saved: tuple[SoftPrompt, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt, directory = saved
    files = sorted(directory.iterdir())

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write '.*dpc\.json' \(No space left on device\)"):
        save_adapter(init_prompt(lm, LENGTH, "random", seed=2), lm, directory, {})
    assert sorted(directory.iterdir()) == files
    assert load_adapter(lm, directory) == prompt


@pytest.mark.parametrize("last", ["dpc.json", "adapter_config.json"])
def test_a_save_that_was_killed_half_way_is_never_read_as_a_prompt(
    lm: FrozenLM, saved: tuple[SoftPrompt, Path], monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    write = module.write_atomically

    def killed_after(path: Path, content: bytes) -> None:
        write(path, content)
        if path.name == last:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_atomically", killed_after)
    newer = init_prompt(lm, LENGTH, "random", seed=2)
    for directory in (saved[1], saved[1].parent / "fresh"):
        with pytest.raises(KeyboardInterrupt):
            save_adapter(newer, lm, directory, {})
        with pytest.raises(UserError):
            load_adapter(lm, directory)


def test_the_weights_file_holds_one_float32_tensor(saved: tuple[SoftPrompt, Path]) -> None:
    tensors = load_file(saved[1] / "adapter_model.safetensors")
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {"prompt_embeddings": torch.float32}


def test_a_prompt_of_a_model_without_attention_heads_is_saved_and_loaded(tmp_path: Path) -> None:
    lm = tiny_lm("mamba2")
    prompt = SoftPrompt.of(torch.randn(3, lm.hidden_size), lm.name)
    save_adapter(prompt, lm, tmp_path, {})
    assert torch.equal(load_adapter(lm, tmp_path).vectors, prompt.vectors)
