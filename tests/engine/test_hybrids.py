"""Models with convolution or recurrent states decode what they write themselves, in slots and in plain batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from dpc.engine import Beam, Decoder, Request, decoder, unpacked_slots
from dpc.engine.plain_check import check_plain_reproduces
from dpc.engine.slot_check import SlotWay, check_slots_reproduce
from dpc.errors import UserError
from dpc.model.lm import FrozenLM
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.settings import DecodingSettings
from tests.architectures import TABLE
from tests.engine.test_groups import answered, plain_beam
from tests.tiny_models import byte_tokenizer, tiny_lm

Break = Callable[[pytest.MonkeyPatch], None]

QUICK = ("lfm2", "qwen3_5_text", "falcon_h1", "mamba")
SLOW = (
    *("lfm2_conv_last", "lfm2_moe", "qwen3_next", "olmo_hybrid", "kimi_linear", "granitemoehybrid", "bamba"),
    *("nemotron_h", "jamba", "zamba", "mamba2", "falcon_mamba", "doge", "recurrent_gemma", "minimax", "rwkv", "xlstm"),
)
NEW_TOKENS = 10
# Models whose states are in no cache of transformers' usual kind, so that slots cannot carry them.
OWN_CACHE = ("recurrent_gemma", "minimax", "rwkv", "xlstm")


def hybrid(name: str, dtype: torch.dtype = torch.float32) -> FrozenLM:
    tokenizer = byte_tokenizer()
    config = TABLE[name].config(len(tokenizer))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    if TABLE[name].small_weights:
        with torch.no_grad():
            for weight in model.parameters():
                weight *= 4 if weight.dim() == 2 else 1
    # Several end tokens, so that lengths differ and slots are used again at different times.
    model.generation_config.eos_token_id = [*range(40)]
    return FrozenLM(model.to(dtype).eval().requires_grad_(False), tokenizer, f"tiny-{name}", "seed-0")


def requests_for(lm: FrozenLM) -> list[Request]:
    """Questions of one to twenty tokens after two soft prompts of different length, or after none."""
    generator = torch.Generator().manual_seed(1)
    vectors = [torch.randn(count, lm.hidden_size, generator=generator) for count in (5, 3)]
    prompts = [None, *(SoftPrompt.of(each, lm.name) for each in vectors)]
    lengths = (3, 9, 9, 12, 1, 4, 9, 20)
    ids = [torch.randint(40, 258, (length,), generator=generator).tolist() for length in lengths]
    return [Request(asked, prompts[at % 3], draft=[50, 51, 52], trail=True) for at, asked in enumerate(ids)]


@torch.no_grad()
def alone(lm: FrozenLM, request: Request) -> tuple[int, ...]:
    """Greedy decoding of one row by whole forward passes, without any cache."""
    row = lm.embed(torch.tensor([list(request.question)]))
    if request.soft_prompt is not None:
        row = torch.cat([request.soft_prompt.vectors[None].to(row), row], dim=1)
    written: list[int] = []
    while len(written) < NEW_TOKENS:
        token = lm.model(inputs_embeds=row, use_cache=False).logits[0, -1].argmax()
        if int(token) in lm.end_ids:
            break
        written.append(int(token))
        row = torch.cat([row, lm.embed(token[None, None])], dim=1)
    return tuple(written)


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(each, marks=pytest.mark.slow) for each in SLOW)])
def test_a_model_with_states_writes_what_it_writes_alone(name: str) -> None:
    lm = hybrid(name)
    requests = requests_for(lm)
    expected = [alone(lm, request) for request in requests]
    assert len(set(expected)) > 4
    for slots in (True, False):
        decoder = Decoder(lm, DecodingSettings(batch_size=3, slots=slots))
        assert [answer.ids for answer in decoder.all(requests, NEW_TOKENS)] == expected, slots
    assert isinstance(Decoder(lm)._model, unpacked_slots.UnpackedSlotModel) == (name not in OWN_CACHE)


def test_generate_writes_the_same_as_slots_with_states() -> None:
    lm = hybrid("lfm2")
    request = requests_for(lm)[7]
    assert request.soft_prompt is not None
    row = torch.cat([request.soft_prompt.vectors, lm.embed(torch.tensor(list(request.question)))])
    written: Any = lm.model.generate(inputs_embeds=row[None], max_new_tokens=NEW_TOKENS, do_sample=False)
    [answer] = Decoder(lm).all([request], NEW_TOKENS)
    assert answer.ids == tuple(token for token in written[0].tolist() if token not in lm.end_ids)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("lfm2", SlotWay(packed=False, shared=True)),
        # Its scan of several tokens begins with a state of zeros, whatever the cache holds.
        ("mamba", SlotWay(packed=False, shared=False)),
        ("mamba2", SlotWay(packed=False, shared=True)),
    ],
)
def test_a_prefix_is_shared_only_where_the_model_continues_its_states(
    name: str, way: SlotWay, dtype: torch.dtype
) -> None:
    assert check_slots_reproduce(hybrid(name, dtype)) == way


def test_models_with_keys_and_values_alone_keep_packed_passes() -> None:
    assert check_slots_reproduce(tiny_lm("llama")) == SlotWay(packed=True, shared=True)


@pytest.mark.parametrize(("name", "offered"), [("lfm2", True), ("lfm2_conv_last", False), ("falcon_h1", False)])
def test_a_trail_is_offered_only_where_the_last_block_has_softmax_attention_alone(name: str, offered: bool) -> None:
    lm = hybrid(name)
    decoder = Decoder(lm)
    assert decoder.offers_trail == offered
    decoder.submit(requests_for(lm)[:2])
    assert [decoded.trail is not None for decoded in decoder.drain(2)] == [offered] * 2


def test_a_prompt_that_is_prefilled_with_each_question_is_counted() -> None:
    counted = {}
    for name in ("lfm2", "mamba"):
        lm = hybrid(name)
        decoder, request = Decoder(lm), requests_for(lm)[1]
        decoder.submit([request])
        [decoded] = decoder.drain(1)
        counted[name] = decoded.forward_tokens - len(request.question)
    assert counted == {"lfm2": 0, "mamba": 5}


def states_stay_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacked_slots._States, "move", lambda *_: None)


def states_of_a_used_slot_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    own = unpacked_slots.set_states
    kept: list[Any] = []

    def set_states(cache: Any, states: Any) -> None:
        own(cache, kept[-1] if states is None and kept else states)
        kept.extend([{name: each[:1].clone() for name, each in states.items()}] if states else [])

    monkeypatch.setattr(unpacked_slots, "set_states", set_states)


def rows_take_the_states_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    own = unpacked_slots.UnpackedSlotModel.group_logits

    def swapped(self: Any, readings: Sequence[Any], *rest: Any, **keywords: Any) -> Tensor:
        logits: Tensor = own(self, readings, *rest, **keywords)
        self._states.store(torch.tensor([each.row for each in readings]).flip(0), unpacked_slots.states_of(self._cache))
        return logits

    monkeypatch.setattr(unpacked_slots.UnpackedSlotModel, "group_logits", swapped)


@pytest.mark.parametrize("broken", [states_stay_behind, states_of_a_used_slot_stay, rows_take_the_states_of_others])
def test_slots_that_mix_up_states_are_refused(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    with pytest.raises(UserError, match=r"^model 'tiny-lfm2': .*decoding\.slots=false$"):
        Decoder(hybrid("lfm2"))


def test_plain_batches_are_advised_only_where_they_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    states_stay_behind(monkeypatch)
    monkeypatch.setattr(decoder, "plain_reproduces", lambda _: False)
    with pytest.raises(
        UserError, match=r"^model 'tiny-lfm2': [^;]*; choose a model of another architecture; docs/models\.md[^;]*$"
    ):
        Decoder(hybrid("lfm2"))


def test_plain_decoding_that_differs_from_the_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, run = tiny_lm("llama"), FrozenLM.forward

    def late(self: FrozenLM, **keywords: Any) -> Tensor:
        return run(self, **keywords | {"position_ids": keywords["position_ids"] * 2})

    monkeypatch.setattr(FrozenLM, "forward", late)
    with pytest.raises(UserError, match="the logits of plain decoding differ"):
        check_plain_reproduces(lm)
    with pytest.raises(UserError, match="the logits of plain decoding differ"):
        Decoder(lm, DecodingSettings(slots=False))


@pytest.mark.slow
def test_rows_that_a_model_mixes_in_a_batch_run_one_at_a_time() -> None:
    lm = hybrid("rwkv")
    same = [Request(requests_for(lm)[1].question), Request(requests_for(lm)[2].question)]
    answers = Decoder(lm).all(same, NEW_TOKENS)
    assert [answer.ids for answer in answers] == [alone(lm, request) for request in same]


@pytest.mark.parametrize("name", ["lfm2", pytest.param("jamba", marks=pytest.mark.slow)])
def test_beams_take_the_states_of_the_hypothesis_that_they_continue(name: str) -> None:
    lm = hybrid(name)
    requests = [replace(request, tag=index) for index, request in enumerate(requests_for(lm)[:3])]
    for request, found in zip(requests, answered(lm, requests, Beam(3)), strict=True):
        assert found.generations[0].ids == plain_beam(lm, request, 3).ids


def test_likelihoods_and_beginnings_are_the_same_with_and_without_slots() -> None:
    lm = hybrid("lfm2")
    asked = [
        replace(each, trail=False, likelihood=True, begin=(60, 61)[: at % 3])
        for at, each in enumerate(requests_for(lm))
    ]
    found = []
    for slots in (True, False):
        decoder = Decoder(lm, DecodingSettings(batch_size=3, slots=slots))
        decoder.submit(asked)
        found.append({id(each.request): each for each in decoder.drain(NEW_TOKENS)})
    for in_slots, plain in ((found[0][id(each)], found[1][id(each)]) for each in asked):
        assert in_slots.generation == plain.generation
        assert in_slots.likelihood is not None
        assert plain.likelihood is not None
        torch.testing.assert_close(in_slots.likelihood.log_probs, plain.likelihood.log_probs, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_zamba2_writes_what_generate_writes_though_its_full_pass_differs() -> None:
    lm = hybrid("zamba2")
    for request in requests_for(lm):
        plain = Request(request.question, tag=request.tag)
        ids = torch.tensor([list(plain.question)])
        mask = torch.ones_like(ids)
        options = {"do_sample": False, "eos_token_id": list(lm.end_ids), "pad_token_id": 1}
        whole = lm.model.generate(ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, **options)
        written = [token for token in whole[0, ids.shape[1] :].tolist() if token not in lm.end_ids]
        assert list(Decoder(lm).all([plain], NEW_TOKENS)[0].ids) == written
