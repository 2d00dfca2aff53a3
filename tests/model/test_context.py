"""The context ends where rotary frequencies change, and a user is told so, and of generation settings not used."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma3TextConfig, GenerationConfig, Llama4ForCausalLM, Llama4TextConfig, PreTrainedConfig

from dpc.api import load_model
from dpc.cli import run_command
from dpc.engine import Decoder, Request
from dpc.errors import UserError
from dpc.flow.saliency import prompt_saliency
from dpc.model.context import Context, context_of
from dpc.model.lm import FrozenLM
from dpc.model.notices import notices
from dpc.model.wrap import wrap_model
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.prompt.target_loss import target_loss
from dpc.settings import DecodingSettings
from tests.model.checkpoints import edit_json, save, tiny_model
from tests.tiny_models import byte_tokenizer, tiny_lm

ORIGINAL, WHOLE = 48, 512
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "partial_rotary_factor": 1.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 3.0, 4.0, 8.0],
    "original_max_position_embeddings": ORIGINAL,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": ORIGINAL}),
    ("llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": ORIGINAL}),
]


def rope_lm(architecture: str, changes: dict[str, Any]) -> FrozenLM:
    model = tiny_model(architecture, **changes).requires_grad_(False)
    return FrozenLM(model, byte_tokenizer(), f"tiny-{architecture}", "seed-0")


def tokens(count: int, seed: int) -> list[int]:
    return torch.randint(2, 258, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("slots", [True, False])
@pytest.mark.parametrize(("architecture", "changes"), KINDS, ids=["longrope", "dynamic"])
def test_rows_that_fill_the_context_and_their_neighbours_answer_as_each_does_alone(
    architecture: str, changes: dict[str, Any], slots: bool
) -> None:
    lm = rope_lm(architecture, changes)
    assert lm.context == ORIGINAL
    questions = [tokens(ORIGINAL - 5, 1), tokens(6, 2), tokens(ORIGINAL - 20, 3)]
    answers = Decoder(lm, DecodingSettings(slots=slots)).all([Request(question) for question in questions], 16)
    assert len(answers[0].ids) == 5
    for question, answer in zip(questions, answers, strict=True):
        # The row alone, without a cache: the rotary frequencies are those of its own length at every step.
        ids = list(question)
        for token in answer.ids:
            logits = lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            assert token == int(logits.argmax())
            ids.append(token)


@pytest.mark.parametrize(("architecture", "changes"), KINDS, ids=["longrope", "dynamic"])
def test_longer_sequences_are_refused_with_the_reason(architecture: str, changes: dict[str, Any]) -> None:
    lm = rope_lm(architecture, changes)
    reason = rf"{ORIGINAL} tokens \(.*max_position_embeddings: past it, rope_type \w+ changes the rotary frequencies"
    with pytest.raises(UserError, match=reason):
        Decoder(lm).all([Request(tokens(ORIGINAL, 1))], 4)
    with pytest.raises(UserError, match=reason):
        prompt_saliency(lm, torch.zeros(4, lm.hidden_size), [tokens(30, 1)], [tokens(15, 2)])
    for shared in (True, False):
        target_loss(lm, torch.zeros(4, lm.hidden_size), [(tokens(30, 1), tokens(15, 2))], shared)
        with pytest.raises(UserError, match=reason):
            target_loss(lm, torch.zeros(4, lm.hidden_size), [(tokens(30, 1), tokens(16, 2))], shared)


@pytest.mark.parametrize(
    ("given", "limit"),
    [
        (LONGROPE | {"rope_type": "default"}, WHOLE),
        (LONGROPE | {"rope_type": "yarn"}, WHOLE),
        (LONGROPE, ORIGINAL),
        # The original length is the whole: frequencies never change.
        (LONGROPE | {"original_max_position_embeddings": WHOLE}, WHOLE),
        ({"full_attention": LONGROPE, "sliding_attention": {"rope_type": "default"}}, ORIGINAL),
        ({"full_attention": {"rope_type": "default"}, "sliding_attention": LONGROPE}, ORIGINAL),
        (None, WHOLE),
    ],
)
def test_the_limit_is_the_first_length_at_which_any_layer_changes(given: dict[str, Any] | None, limit: int) -> None:
    config = PreTrainedConfig(max_position_embeddings=WHOLE)
    config.rope_parameters = given
    found = context_of(config, 7)
    assert found.tokens == limit
    assert (found.reason is None) == (limit == WHOLE)


def test_a_model_that_states_no_length_has_its_tokenizers() -> None:
    assert context_of(PreTrainedConfig(), 1000) == Context(1000)
    assert context_of(Gemma3TextConfig(max_position_embeddings=77), 1000) == Context(77)


def test_generation_settings_that_greedy_decoding_ignores_are_told_once() -> None:
    lm = rope_lm("llama", {})
    assert notices(lm) == ()
    sampling = {"temperature": 0.6, "top_p": 0.9}
    lm.model.generation_config = GenerationConfig(do_sample=False, repetition_penalty=1.0, **sampling)
    assert notices(lm) == ()
    lm.model.generation_config = GenerationConfig(
        do_sample=True, repetition_penalty=1.1, no_repeat_ngram_size=3, suppress_tokens=[5, 6], **sampling
    )
    [said] = notices(lm)
    assert said == (
        "tiny-llama: decoding is greedy; its generation_config.json is not used for repetition_penalty (1.1), "
        "no_repeat_ngram_size (3), suppress_tokens, temperature (0.6), top_p (0.9)"
    )


def test_answers_stay_greedy_whatever_the_generation_settings() -> None:
    lm = rope_lm("llama", {})
    request = Request(tokens(9, 4), SoftPrompt.of(torch.ones(2, lm.hidden_size), lm.name))
    plain = Decoder(lm).all([request], 12)
    lm.model.generation_config = GenerationConfig(repetition_penalty=5.0, do_sample=True, temperature=3.0)
    assert Decoder(lm).all([request], 12) == plain


def test_commands_and_python_say_it_when_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    folder = save(tiny_model("phi3", **KINDS[0][1]), tmp_path / "model")
    edit_json(folder / "generation_config.json", repetition_penalty=1.3)
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"question": "1 + 1?"}) + "\n")
    capsys.readouterr()
    given = ["--method", "pretrained", "--set", "decoding.max_new_tokens=2"]
    assert run_command(["generate", str(questions), "--model", str(folder), *given]) == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0].startswith(f"note: {folder}: sequences are limited to {ORIGINAL} tokens (original_max_position_emb")
    assert said[1].endswith("generation_config.json is not used for repetition_penalty (1.3)")
    with pytest.warns(UserWarning, match="limited to|not used for") as warned:
        load_model(folder)
    assert [f"note: {warning.message}" for warning in warned] == said


def test_llama_4_answers_as_each_row_does_alone_up_to_where_its_attention_temperature_changes() -> None:
    config = Llama4TextConfig(
        vocab_size=258,
        hidden_size=32,
        intermediate_size=48,
        intermediate_size_mlp=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=2,
        max_position_embeddings=WHOLE,
        attention_chunk_size=10,
        no_rope_layers=[1, 0, 1, 0],
        floor_scale=ORIGINAL + 1,
        attn_scale=5.0,
        initializer_range=0.25,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        own = Llama4ForCausalLM(config).eval()
    lm = wrap_model(deepcopy(own), byte_tokenizer(), "tiny-llama4")
    assert lm.context == ORIGINAL
    questions = [tokens(ORIGINAL - 5, 1), tokens(6, 2), tokens(ORIGINAL - 20, 3)]
    for slots in (True, False):
        answers = Decoder(lm, DecodingSettings(slots=slots)).all([Request(question) for question in questions], 16)
        for question, answer in zip(questions, answers, strict=True):
            logits = own(input_ids=torch.tensor([[*question, *answer.ids]]), use_cache=False).logits[0]
            assert logits[len(question) - 1 : -1].argmax(-1).tolist() == list(answer.ids)
    with pytest.raises(UserError, match=rf"{ORIGINAL} tokens \(floor_scale: past it, attn_temperature_tuning scales"):
        Decoder(lm).all([Request(tokens(ORIGINAL, 1))], 4)


def test_a_model_that_states_no_context_has_one_that_its_positions_can_count() -> None:
    assert tiny_lm("recurrent_gemma").context == 2**20
    assert tiny_lm("mamba").context == 2**20


def test_a_context_ends_where_doge_masks_tokens_by_their_values() -> None:
    lm = tiny_lm("doge")
    assert lm.context == lm.model.config.keep_window_size < lm.model.config.max_position_embeddings
    assert "keep_window_size" in str(lm.context_limit)
