"""Continuous batching with a shared prefix and drafts writes what plain decoding of each instance alone writes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BloomConfig, BloomForCausalLM

from benchmarks.worker import resident
from dpc.engine import Decoded, Decoder, Request
from dpc.engine.packed import Reading
from dpc.engine.plain import greedy
from dpc.engine.slot_cache import SlotCache, lazy_zeros
from dpc.engine.slot_model import SlotModel
from dpc.errors import UserError
from dpc.model.lm import FrozenLM
from dpc.prompt.prefix import PrefixStore
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.settings import DecodingSettings
from dpc.types import Generation
from tests.tiny_models import ARCHITECTURES, CONTEXT, byte_tokenizer, tiny_lm

# Answers end often, so that lengths differ and slots are freed all the time.
MANY_ENDS = [7, 9, *range(100, 105)]


def lm_with_many_ends(architecture: str, ends: list[int] | None = None) -> FrozenLM:
    lm = tiny_lm(architecture)
    lm.model.generation_config.eos_token_id = MANY_ENDS if ends is None else ends
    return lm


def soft_prompt(lm: FrozenLM, length: int = 5, seed: int = 0) -> SoftPrompt:
    vectors = torch.randn(length, lm.hidden_size, generator=torch.Generator().manual_seed(seed)) * 0.3
    return SoftPrompt.of(vectors, lm.name)


def requests_for(lm: FrozenLM, count: int, prompts: list[SoftPrompt | None], longest: int = 40) -> list[Request]:
    """Questions of very different lengths, each with the next of the prompts."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, longest, (count,), generator=generator).tolist()
    return [
        Request(torch.randint(10, 100, (n,), generator=generator).tolist(), prompts[i % len(prompts)], tag=i)
        for i, n in enumerate(lengths)
    ]


def drained(decoder: Decoder, requests: list[Request], new_tokens: int) -> list[Decoded]:
    """Answers in the order in which they were completed."""
    decoder.submit(requests)
    return list(decoder.drain(new_tokens))


def alone(lm: FrozenLM, requests: list[Request], new_tokens: int) -> list[Generation]:
    return [greedy(lm, [request], new_tokens)[0] for request in requests]


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gpt_oss"])
def test_slots_write_what_each_instance_writes_alone(architecture: str) -> None:
    lm = lm_with_many_ends(architecture)
    requests = requests_for(lm, 12, [soft_prompt(lm), None, soft_prompt(lm, 3, seed=1)])
    assert Decoder(lm, DecodingSettings(batch_size=4)).all(requests, 20) == alone(lm, requests, 20)


def test_slots_serve_hundreds_of_instances_of_very_different_lengths() -> None:
    lm = lm_with_many_ends("llama")
    requests = requests_for(lm, 300, [soft_prompt(lm), soft_prompt(lm, 9, seed=1)], longest=150)
    slots = Decoder(lm, DecodingSettings(batch_size=16)).all(requests, 60)
    assert slots == Decoder(lm, DecodingSettings(batch_size=16, slots=False)).all(requests, 60)
    assert slots[:40] == alone(lm, requests[:40], 60)
    lengths = {len(generation.ids) for generation in slots}
    assert min(lengths) < 5
    assert max(lengths) == 60


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gpt_oss"])
def test_drafts_change_no_answer_on_any_architecture(architecture: str) -> None:
    lm = lm_with_many_ends(architecture)
    prompt, other = soft_prompt(lm), SoftPrompt.of(soft_prompt(lm).vectors * 0.9, lm.name)
    first = requests_for(lm, 10, [prompt])
    written = Decoder(lm).all(first, 24)
    again = [Request(r.question, other, draft=g.ids, tag=r.tag) for r, g in zip(first, written, strict=True)]
    made = Decoder(lm, DecodingSettings(batch_size=8, draft_tokens=3)).all(again, 24)
    assert made == alone(lm, again, 24)


def test_a_correct_draft_takes_one_pass() -> None:
    lm = lm_with_many_ends("llama")
    [request] = requests_for(lm, 1, [soft_prompt(lm)])
    [answer] = Decoder(lm).all([request], 30)
    [again] = drained(Decoder(lm), [Request(request.question, request.soft_prompt, draft=answer.ids)], 30)
    assert (again.generation, again.forward_passes) == (answer, 1)
    [plain] = drained(Decoder(lm, DecodingSettings(draft_tokens=0)), [request], 30)
    assert plain.forward_passes == len(answer.ids) + (answer.finish == "eos") > 1


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_no_draft_changes_an_answer(data: st.DataObject) -> None:
    """Drafts are correct, wrong, empty, too long, or have an end token in the middle."""
    lm, prompt = CACHED
    questions = data.draw(st.lists(st.lists(st.integers(10, 99), min_size=1, max_size=12), min_size=1, max_size=6))
    right = alone(lm, [Request(question, prompt) for question in questions], 12)
    drafts = []
    for generation in right:
        kept = data.draw(st.integers(0, len(generation.ids)))
        more = data.draw(st.lists(st.sampled_from([*range(10, 20), *MANY_ENDS]), max_size=15))
        drafts.append((*generation.ids[:kept], *more))
    requests = [Request(q, prompt, draft=d, tag=i) for i, (q, d) in enumerate(zip(questions, drafts, strict=True))]
    slots = DecodingSettings(batch_size=data.draw(st.integers(1, 8)), draft_tokens=data.draw(st.integers(0, 4)))
    assert Decoder(lm, slots).all(requests, 12) == right


CACHED = (lm_with_many_ends("llama"), soft_prompt(tiny_lm("llama")))


# GPT-2 has an embedding for every position of the context and none beyond.
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mistral"])
def test_generation_stops_where_the_context_is_full(architecture: str) -> None:
    lm = lm_with_many_ends(architecture, [lm_last := 257])
    prompt = soft_prompt(lm)
    requests = [Request([20] * (CONTEXT - len(prompt.vectors) - 3), prompt, tag=0), Request([20, 21], prompt, tag=1)]
    made = Decoder(lm, DecodingSettings(batch_size=2)).all(requests, 9)
    assert [len(generation.ids) for generation in made] == [3, 9]
    assert made == alone(lm, requests, 9)
    drafted = [
        replace(request, draft=[*generation.ids, 30, 31]) for request, generation in zip(requests, made, strict=True)
    ]
    assert Decoder(lm, DecodingSettings(batch_size=2)).all(drafted, 9) == made
    assert all(lm_last not in generation.ids for generation in made)


def test_a_question_that_does_not_fit_is_refused_by_name() -> None:
    lm = tiny_lm("llama")
    with pytest.raises(UserError, match=r"question 3: .* context"):
        Decoder(lm).all([Request([20] * CONTEXT, tag=2)], 4)
    with pytest.raises(UserError, match=r"question 1: .* no tokens"):
        Decoder(lm).all([Request([])], 4)
    assert Decoder(lm).all([], 4) == []


def test_a_model_without_exchangeable_attention_is_decoded_in_plain_batches_or_refused() -> None:
    config = BloomConfig(vocab_size=258, hidden_size=32, n_layer=2, n_head=4)
    lm = FrozenLM(BloomForCausalLM(config).eval(), byte_tokenizer(), name="tiny-bloom", revision="")
    with pytest.raises(UserError, match=r"BloomForCausalLM.*decoding\.slots=false"):
        Decoder(lm)
    assert Decoder(lm, DecodingSettings(slots=False)).all([Request([20, 21])], 4)


def test_decoding_does_not_change_the_model() -> None:
    lm = lm_with_many_ends("llama")
    before, attention = Decoder(lm, DecodingSettings(slots=False)), lm.model.config._attn_implementation
    requests = requests_for(lm, 5, [soft_prompt(lm)])
    expected = before.all(requests, 9)
    decoder = Decoder(lm)
    decoder.submit(requests)
    drain = decoder.drain(9)
    next(drain)
    # Between two passes of a drain, too.
    assert lm.model.config._attn_implementation == attention
    assert before.all(requests, 9) == expected
    assert all(p.grad is None and not p.requires_grad for p in lm.model.parameters())


def test_the_prefix_of_a_prompt_is_computed_once() -> None:
    lm = lm_with_many_ends("llama")
    decoder, prompt = Decoder(lm, DecodingSettings(batch_size=2, prefixes=2)), soft_prompt(lm)
    for _ in range(3):
        decoder.all(requests_for(lm, 9, [prompt]), 5)
    assert decoder.prefixes.computed == 1


def test_the_least_recently_used_prefix_is_dropped() -> None:
    lm = tiny_lm("llama")
    store, prompts = PrefixStore(lm, 2), [soft_prompt(lm, seed=seed) for seed in range(3)]
    store.get(prompts[:2])
    store.get([prompts[0]])
    store.get([prompts[2]])
    assert store.computed == 3
    store.get([prompts[0]])
    assert store.computed == 3
    store.get([prompts[1]])
    assert store.computed == 4
    assert len(store.get(prompts)) == 3


def test_decode_steps_read_no_result_on_the_host() -> None:
    """Tokens go from one step to the next on the device: no step turns a tensor into a Python number."""
    lm = lm_with_many_ends("llama")
    model = SlotModel(lm, 4)
    with torch.no_grad():
        model.read([Reading(row, 0, [20, 21, 22]) for row in range(4)], False)
        with Reads() as reads:
            model.steps([30, 31, 32, 33], [3, 3, 3, 3], 8, True)
        assert reads.count == 0
        with Reads() as reads:
            model.steps([30, 31, 32, 33], [3, 3, 3, 3], 2, False).sum().item()
        assert reads.count == 1


class Reads(TorchDispatchMode):
    """Counts how often a tensor's value is read on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


def test_several_steps_at_once_write_what_single_steps_write() -> None:
    lm = lm_with_many_ends("llama")
    texts, single = [[20, 21, 22], [40, 41, 42, 43, 44]], []
    for count in (1, 6):
        model = SlotModel(lm, 2)
        with torch.no_grad():
            tokens = [token for [token] in model.read([Reading(row, 0, text) for row, text in enumerate(texts)], False)]
            written, positions = [], [3, 5]
            while len(written) < 6:
                written += model.steps(tokens, positions, count, False).tolist()
                tokens, positions = written[-1], [p + count for p in positions]
        single.append(written)
    assert single[0] == single[1]


@pytest.mark.slow
def test_a_compiled_step_writes_the_same() -> None:
    """In a process without the runtime checks of shapes that tests enable, which torch.compile cannot trace."""
    program = """
from dataclasses import replace

import torch
from torch._dynamo.utils import counters

from dpc.engine import Decoder
from dpc.settings import DecodingSettings
from tests.engine.test_slots import lm_with_many_ends, requests_for, soft_prompt

lm = lm_with_many_ends("llama")
requests = requests_for(lm, 12, [soft_prompt(lm)])
found = []
for on in (False, True):
    decoder = Decoder(lm, DecodingSettings(batch_size=4, draft_tokens=0, compile=on))
    # Without trails first: code that was compiled without the hook must not be used with it.
    for trail in (False, True):
        decoder.submit(replace(request, trail=trail) for request in requests)
        found.append(sorted(decoder.drain(20), key=lambda decoded: decoded.request.tag))
plain, plain_with_trails, compiled, compiled_with_trails = found
for one, other in ((plain, compiled), (plain, plain_with_trails), (plain, compiled_with_trails)):
    assert [each.generation for each in one] == [each.generation for each in other]
for one, other in zip(plain_with_trails, compiled_with_trails, strict=True):
    assert (one.trail is None) == (other.trail is None) == (not one.generation.ids)
    if one.trail is not None:
        torch.testing.assert_close(one.trail.hidden, other.trail.hidden, rtol=1e-4, atol=1e-4)
assert not counters["graph_break"], counters["graph_break"]
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_similar_answers_take_fewer_passes_than_they_have_tokens() -> None:
    lm, prompt = lm_with_many_ends("llama"), soft_prompt(tiny_lm("llama"))
    requests = [Request([20, 21, 22], prompt, tag=tag) for tag in range(6)]
    settings = DecodingSettings(batch_size=1, draft_tokens=3)
    done = drained(Decoder(lm, settings), requests, 30)
    [expected] = alone(lm, requests[:1], 30)
    assert all(decoded.generation == expected for decoded in done)
    # The first has no drafts. The others take one pass for the question, and one for each four tokens.
    assert done[0].forward_passes > done[-1].forward_passes
    assert done[-1].forward_passes <= 2 + len(expected.ids) // 4


def test_the_cache_grows_with_the_longest_answer_so_far() -> None:
    lm = tiny_lm("llama")
    model = SlotModel(lm, 2)
    model.read([Reading(0, 0, [20, 21, 22]), Reading(1, 0, [40, 41])], trail=False)
    assert model.capacity == 64
    model.steps([23, 42], [3, 2], 60, trail=False)
    assert model.capacity == 64
    model.steps([23, 42], [63, 62], 2, trail=False)
    assert model.capacity == 128


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system says nothing of a process's memory")
def test_a_cache_takes_memory_only_when_it_is_written() -> None:
    before = resident("VmRSS")
    cache = lazy_zeros(torch.zeros(1), 64, 4, 2**15, 8)
    assert float(cache[:, :, :9].abs().sum()) == 0
    assert cache.numel() * 4 == 2**28
    assert resident("VmRSS") - before < 2**25
    cache[:32] = 1.0
    assert resident("VmRSS") - before > 2**26


def test_a_row_that_is_not_decoding_does_not_change() -> None:
    lm = tiny_lm("llama")
    model, [prefix] = SlotModel(lm, 2), PrefixStore(lm, 1).get([soft_prompt(lm)])
    model.insert([0, 1], [prefix, prefix])
    model.read([Reading(row, 5, [20, 21, 22]) for row in range(2)], trail=True)
    kept = model.trail(0, 5, 8)
    model.steps([0, 30], [None, 8], 4, trail=True)
    again = model.trail(0, 5, 8)
    assert torch.equal(kept.hidden, again.hidden)
    assert torch.equal(kept.keys, again.keys)
    assert torch.equal(kept.values, again.values)


def test_a_prefix_is_copied_only_when_the_prompt_of_a_row_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = lm_with_many_ends("llama")
    inserted: list[int] = []
    insert = SlotCache.insert
    decoder = Decoder(lm, DecodingSettings(batch_size=2))
    monkeypatch.setattr(
        SlotCache, "insert", lambda self, row, prefix: (inserted.append(row), insert(self, row, prefix))[1]
    )
    requests = requests_for(lm, 9, [soft_prompt(lm)])
    assert decoder.all(requests, 9) == alone(lm, requests, 9)
    assert len(inserted) <= 3
    others = requests_for(lm, 4, [None, soft_prompt(lm, 3, seed=1)])
    assert decoder.all(others, 9) == alone(lm, others, 9)
    assert decoder.all(requests, 9) == alone(lm, requests, 9)


def test_finished_rows_decode_on_within_the_context() -> None:
    lm = tiny_lm("gpt2")
    model = SlotModel(lm, 1)
    model.read([Reading(0, 0, [20] * (lm.context - 2))], trail=False)
    model.steps([21], [lm.context - 2], 8, trail=False)
    assert model.capacity == lm.context
