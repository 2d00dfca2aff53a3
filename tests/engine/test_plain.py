"""Plain batches write what greedy decoding of each instance alone writes, for any padding, prompt and architecture."""

from __future__ import annotations

from dataclasses import replace

import peft
import pytest
import torch
from transformers import GenerationConfig

from dpc.engine import Decoder, Request, by_length
from dpc.engine.plain import greedy
from dpc.errors import UserError
from dpc.model.lm import FrozenLM
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.settings import DecodingSettings
from tests.tiny_models import ARCHITECTURES, tiny_lm


def requests_for(lm: FrozenLM, count: int = 6, prompt: int = 4) -> list[Request]:
    """Questions of very different lengths, each with a soft prompt of its own (and one without)."""
    generator = torch.Generator().manual_seed(1)
    made: list[Request] = []
    for index in range(count):
        ids = torch.randint(5, lm.vocab_size, (3 + 7 * index,), generator=generator).tolist()
        vectors = torch.randn(prompt, lm.hidden_size, generator=generator) * 0.1
        made.append(Request(ids, None if index == 2 else SoftPrompt.of(vectors, lm.name)))
    return made


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_batch_writes_what_each_instance_writes_alone(architecture: str) -> None:
    lm = tiny_lm(architecture)
    requests = requests_for(lm)
    together = greedy(lm, requests, 12)
    assert together == [greedy(lm, [request], 12)[0] for request in requests]
    assert all(g.ids for g in together)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_equals_peft_generate_without_padding(architecture: str) -> None:
    lm = tiny_lm(architecture)
    _, request, _, _, longer, _ = requests_for(lm)
    assert list(greedy(lm, [longer, request], 10)[1].ids) == peft_generate(architecture, request, 10)


def peft_generate(architecture: str, request: Request, new_tokens: int) -> list[int]:
    """What PEFT generates for one instance, up to its end token."""
    lm = tiny_lm(architecture)
    assert request.soft_prompt is not None
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=request.prompt_length)
    model = peft.get_peft_model(lm.model, config).eval()
    with torch.no_grad():
        model.prompt_encoder["default"].embedding.weight.copy_(request.soft_prompt.vectors)
    ids = torch.tensor([list(request.question)])
    settings = GenerationConfig(
        max_new_tokens=new_tokens, do_sample=False, eos_token_id=list(lm.end_ids), pad_token_id=1
    )
    with pytest.warns(UserWarning, match="Position ids are not supported"):
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings)[0].tolist()
    new: list[int] = out[len(request.question) :]
    return new[: next((i for i, token in enumerate(new) if token in lm.end_ids), len(new))]


def test_an_end_token_ends_one_instance_and_not_the_others() -> None:
    lm = tiny_lm("llama")
    requests = requests_for(lm)
    free = greedy(lm, requests, 12)
    ending = free[0].ids[3]
    lm.model.generation_config.eos_token_id = ending
    ended = greedy(lm, requests, 12)
    for before, after in zip(free, ended, strict=True):
        stop = before.ids.index(ending) if ending in before.ids else len(before.ids)
        assert after.ids == before.ids[:stop]
        assert after.finish == ("eos" if ending in before.ids else "length")


def test_generation_stops_where_the_context_is_full() -> None:
    lm = tiny_lm("llama")
    left = 5
    question = [7] * (lm.context - left)
    lm.model.generation_config.eos_token_id = [lm.vocab_size - 1]
    made = greedy(lm, [Request(question), Request([7, 8])], 9)
    assert len(made[0].ids) <= left
    assert made[0].finish == "length"
    assert len(made[1].ids) == 9


@pytest.mark.parametrize(("length", "words"), [(0, "no tokens"), (10_000, "context")])
def test_a_question_that_does_not_fit_is_refused(length: int, words: str) -> None:
    lm = tiny_lm("llama")
    with pytest.raises(UserError, match=words):
        greedy(lm, [Request([7] * length)], 4)


def test_groups_have_every_request_once_and_similar_lengths() -> None:
    lm = tiny_lm("llama")
    requests = requests_for(lm)[::-1]
    groups = list(by_length(requests, 4))
    assert sorted(i for group in groups for i in group) == list(range(len(requests)))
    lengths = [len(requests[i]) for group in groups for i in group]
    assert lengths == sorted(lengths)
    assert greedy(lm, [], 4) == []


def test_decoding_does_not_change_the_model() -> None:
    lm = tiny_lm("llama")
    before = {name: p.clone() for name, p in lm.model.named_parameters()}
    greedy(lm, requests_for(lm), 3)
    assert all(torch.equal(before[name], p) and p.grad is None for name, p in lm.model.named_parameters())
    assert replace(lm) == lm


@pytest.mark.parametrize("architecture", ["gemma2", "llama"])
def test_plain_batches_in_float64_write_what_slots_write(architecture: str) -> None:
    lm = tiny_lm(architecture, torch.float64)
    lm.model.set_attn_implementation("eager")
    requests = requests_for(lm)
    assert len({len(request) for request in requests}) > 1
    plain, slots = (Decoder(lm, DecodingSettings(slots=on)).all(requests, 8) for on in (False, True))
    assert plain == slots
