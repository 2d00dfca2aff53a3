"""What a GPU does another way: recorded passes, other attention kernels, other rounding. ``make test-gpu``."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from dpc.engine import Decoder, Request
from dpc.engine.plain import greedy
from dpc.flow.local_influence import local_influence
from dpc.flow.measures import rationale_influence
from dpc.flow.saliency import prompt_saliency
from dpc.methods import build_method
from dpc.methods.method import Setup
from dpc.model.attention_call import AttentionCall
from dpc.model.lm import FrozenLM
from dpc.model.loading import load_lm
from dpc.prompt.soft_prompt import SoftPrompt, init_prompt
from dpc.settings import DecodingSettings
from dpc.tasks import get_task
from tests.model.test_sixteen_bits import NEW_TOKENS, TIE, first_difference, requests_for, sixteen_bit_lm
from tests.tiny_models import ARCHITECTURES, tiny_lm

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
MANY_ENDS = [7, 9, *range(100, 105)]


def on_gpu(lm: FrozenLM) -> FrozenLM:
    lm.model.to("cuda")
    return lm


def zoo_requests(lm: FrozenLM, count: int) -> list[Request]:
    task, prompt = get_task("zoo"), init_prompt(lm, 20, "sample-vocab", seed=0)
    examples = task.load("test", None)[:count]
    return [Request(lm.encode(task.prompt(e)), prompt, trail=True, tag=i) for i, e in enumerate(examples)]


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gpt_oss"])
@pytest.mark.filterwarnings("ignore:passes are not captured")
def test_slots_equal_one_at_a_time_on_every_architecture(architecture: str) -> None:
    lm = on_gpu(tiny_lm(architecture))
    lm.model.generation_config.eos_token_id = MANY_ENDS
    requests = requests_for(lm, 20)
    alone = [greedy(lm, [request], 30)[0] for request in requests]
    for draft_tokens in (0, 4):
        decoder = Decoder(lm, DecodingSettings(batch_size=4, draft_tokens=draft_tokens))
        assert decoder.all(requests, 30) == alone
        again = [replace(request, draft=answer.ids) for request, answer in zip(requests, alone, strict=True)]
        assert decoder.all(again, 30) == alone
        assert architecture != "llama" or recordings(decoder)


def test_recorded_passes_write_what_passes_write_and_what_a_cpu_writes() -> None:
    on_cpu, lm = load_lm("zoo", device="cpu"), load_lm("zoo", device="cuda", dtype="float32")
    requests = zoo_requests(on_cpu, 200)
    decoder = Decoder(lm, DecodingSettings(batch_size=32))
    written = decoder.all(requests, 160)
    assert recordings(decoder)
    assert Decoder(lm, DecodingSettings(batch_size=32, cuda_graphs=False)).all(requests, 160) == written
    there = Decoder(on_cpu).all(requests, 160)
    assert sum(a == b for a, b in zip(written, there, strict=True)) >= 0.99 * len(written)


def test_compiled_passes_write_the_same() -> None:
    """In a process without the checks of shapes that tests switch on, which compilers cannot see through."""
    program = """
from dpc.engine import Decoder
from dpc.model.loading import load_lm
from dpc.settings import DecodingSettings
from tests.test_gpu import zoo_requests

lm = load_lm("zoo", device="cuda", dtype="float32")
requests = zoo_requests(lm, 64)
plain, compiled = (Decoder(lm, DecodingSettings(batch_size=16, compile=on)).all(requests, 80) for on in (False, True))
equal = sum(a == b for a, b in zip(plain, compiled, strict=True))
assert equal >= 63, equal
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_model_that_looks_at_numbers_is_decoded_without_recording() -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    small = tiny_lm("llama")
    config = LlamaConfig(**small.model.config.to_dict() | {"rope_parameters": rope})
    model = LlamaForCausalLM(config).cuda().eval().requires_grad_(False)
    model.generation_config.eos_token_id = MANY_ENDS
    lm = replace(small, model=model)
    requests = requests_for(lm, 6)
    with pytest.warns(UserWarning, match="not captured as CUDA graphs"):
        made = Decoder(lm, DecodingSettings(batch_size=4)).all(requests, 20)
    assert made == [greedy(lm, [request], 20)[0] for request in requests]


def test_recordings_are_made_anew_when_the_cache_moves() -> None:
    lm = on_gpu(tiny_lm("llama"))
    lm.model.generation_config.eos_token_id = [lm.vocab_size]
    decoder = Decoder(lm, DecodingSettings(batch_size=2, draft_tokens=0))
    first, second = requests_for(lm, 2)
    assert decoder.all([first], 400) == greedy(lm, [first], 400)
    # Those made before the cache grew last, at 384 positions, are gone.
    assert min(length for _, _, length, _ in recordings(decoder)) >= 384
    assert decoder.all([second], 400) == greedy(lm, [second], 400)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("way", ["by block", "one graph", "whole"])
def test_saliency_equals_float64_on_a_cpu(architecture: str, way: str) -> None:
    lm, double = on_gpu(tiny_lm(architecture)), tiny_lm(architecture, torch.float64)
    generator = torch.Generator().manual_seed(2)
    vectors = torch.randn(6, lm.hidden_size, generator=generator) * 0.3
    texts = [torch.randint(10, 99, (n,), generator=generator).tolist() for n in (9, 14, 30, 21)]
    questions, rationales = texts[:2], texts[2:]
    expected = prompt_saliency(double, vectors.double(), questions, rationales)
    for ours, truth in zip(prompt_saliency(lm, vectors.cuda(), questions, rationales, way=way), expected, strict=True):
        assert relative_error(ours.scores, truth.scores) < 1e-3


def test_the_trigger_alone_equals_the_whole_backward_pass() -> None:
    lm = load_lm("zoo", device="cuda", dtype="float32")
    decoder = Decoder(lm, DecodingSettings(batch_size=8))
    decoder.submit(zoo_requests(lm, 16))
    decoded = list(decoder.drain(160))
    for each, local in zip(decoded, local_influence(lm, decoded), strict=True):
        assert each.request.soft_prompt is not None
        [whole] = prompt_saliency(
            lm, each.request.soft_prompt.vectors, [each.request.question], [each.generation.ids], [lm.layers - 1]
        )
        assert relative_error(local.values, rationale_influence(whole)) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_the_kernel_tells_the_log_sum_exp(dtype: torch.dtype, masked: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    query, key, value = (
        torch.randn(2, heads, rows, 16, generator=generator).cuda().to(dtype)
        for heads, rows in ((4, 27), (2, 45), (2, 45))
    )
    visible = torch.ones(27, 45, dtype=torch.bool, device="cuda").tril(18)
    given = AttentionCall(query, key, value, visible[None, None] if masked else None, scale=0.4)
    output, known = given.attend()
    logits = (query.double() @ key.double().repeat_interleave(2, 1).mT * 0.4).masked_fill(~visible, -torch.inf)
    assert known.lse is not None
    assert relative_error(known.lse, logits.logsumexp(-1)) < 1e-5
    truth = logits.softmax(-1) @ value.double().repeat_interleave(2, 1)
    assert relative_error(output, truth) < (1e-5 if dtype == torch.float32 else 1e-2)


def test_bfloat16_answers_part_only_where_two_tokens_tie() -> None:
    lm = on_gpu(sixteen_bit_lm("llama"))
    requests = requests_for(lm, 48)
    plain = [greedy(lm, [request], NEW_TOKENS)[0] for request in requests]
    drafted = [replace(request, draft=answer.ids) for request, answer in zip(requests, plain, strict=True)]
    made = Decoder(lm, DecodingSettings(batch_size=8)).all(drafted, NEW_TOKENS)
    gaps = [first_difference(lm, r, a.ids, b.ids) for r, a, b in zip(requests, plain, made, strict=True)]
    assert max((gap for gap in gaps if gap is not None), default=0.0) < TIE


def test_the_whole_method_answers_as_on_a_cpu() -> None:
    found = []
    for device in ("cpu", "cuda"):
        lm = load_lm("zoo", device=device, dtype="float32")
        requests = zoo_requests(lm, 100)
        prompt = requests[0].soft_prompt
        assert isinstance(prompt, SoftPrompt)
        method = build_method("dpc", Setup(prompt, 0.3))
        answers = dict(method.answer(Decoder(lm), [request.question for request in requests], 160))
        found.append([answers[index].final.ids for index in range(len(requests))])
    assert sum(a == b for a, b in zip(*found, strict=True)) >= 97


def recordings(decoder: Decoder) -> list[tuple[int, ...]]:
    """Rows, tokens a row, positions and whether a trail is left, of every pass that is recorded."""
    assert decoder._model is not None
    assert decoder._model._replay is not None
    return list(decoder._model._replay._recorded)


def relative_error(ours: Tensor, truth: Tensor) -> float:
    ours, truth = ours.cpu().double(), truth.cpu().double()
    return float((ours - truth).norm() / truth.norm())
