"""The package against ``benchmarks/naive.py``, which is written without it: the parts, then the whole method."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import naive
from dpc.engine import Decoder
from dpc.flow.measures import rationale_influence
from dpc.flow.saliency import prompt_saliency
from dpc.flow.trigger import affected_share
from dpc.methods import build_method, get_method
from dpc.methods.method import Setup
from dpc.model.lm import FrozenLM
from dpc.model.loading import load_lm
from dpc.prompt.corruption import corrupt
from dpc.prompt.soft_prompt import SoftPrompt, init_prompt, save_adapter
from dpc.prompt.target_loss import encode_rows, target_loss
from dpc.settings import MethodSettings
from dpc.tasks import get_task
from dpc.types import InfluenceRow
from tests.eager_oracle import instance, relative_error
from tests.paths import ROOT
from tests.tiny_models import tiny_lm

# Every share exceeds it.
ALWAYS = -1.0
GAMMA = 10.0


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return tiny_lm("llama")


def test_naive_dpc_imports_nothing_of_this_package() -> None:
    imported: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / "benchmarks/naive.py").read_text("utf-8"))):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "dpc")
    assert {name.split(".")[0] for name in imported} - sys.stdlib_module_names == {"torch", "transformers", "peft"}


def test_saliency_and_trigger_are_those_of_naive_dpc(lm: FrozenLM) -> None:
    prompt, question, rationale = instance(lm)
    maps = naive.saliency(lm.model, prompt.float(), question, rationale, range(lm.layers))
    ours = prompt_saliency(lm, prompt, [question], [rationale])[0]
    theirs = torch.stack([matrix[len(prompt) :, : len(prompt)] for matrix in maps.values()])
    assert relative_error(ours.scores, theirs) < 1e-4
    influence = maps[lm.layers - 1][len(prompt) + len(question) :, : len(prompt)].mean(dim=1)
    share = affected_share(rationale_influence(ours)).ratio
    assert share == pytest.approx(naive.affected_share(influence), abs=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 10.0, 50.0])
def test_corruption_is_that_of_naive_dpc(gamma: float) -> None:
    vectors = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(naive.corrupt(vectors, 2, gamma), corrupt(vectors, 2, gamma))


@pytest.mark.parametrize("by_length", [True, False])
def test_naive_answers_do_not_depend_on_the_batch(lm: FrozenLM, by_length: bool) -> None:
    prompt = init_prompt(lm, 3, "sample-vocab", 0).vectors
    questions = [lm.encode("x" * n) for n in (9, 1, 5, 30, 2)]
    together = naive.generate(lm.model, questions, [prompt] * 5, 6, 2, by_length)
    assert together == [naive.generate(lm.model, [question], [prompt], 6, 1)[0] for question in questions]


def test_naive_dpc_reads_the_prompt_of_an_adapter(lm: FrozenLM, tmp_path: Path) -> None:
    prompt = init_prompt(lm, 3, "sample-vocab", 0)
    save_adapter(prompt, lm, tmp_path, {})
    assert torch.equal(naive.read_prompt(tiny_lm("llama").model, tmp_path), prompt.vectors)


@pytest.mark.parametrize("by_length", [True, False])
def test_naive_tuning_lowers_the_loss(lm: FrozenLM, by_length: bool) -> None:
    rows = encode_rows(lm, [(f"{n} =", f" {n}{n}") for n in range(8)], 3, None, "training")
    start = init_prompt(lm, 3, "random", 0).vectors
    settings: dict[str, Any] = {"batch_size": 4, "learning_rate": 0.05, "warmup_steps": 1}
    tuned = naive.tune(lm.model, start, rows, steps=12, by_length=by_length, seed=0, **settings)
    assert target_loss(lm, tuned, rows) < 0.9 * target_loss(lm, start, rows)
    assert not lm.model.training


@dataclass(frozen=True)
class Case:
    """A model, questions in batches, a soft prompt. shallow: the layers of the key token, by the paper's fractions."""

    lm: FrozenLM
    batches: list[list[list[int]]]
    vectors: Tensor
    shallow: Sequence[int]
    max_new_tokens: int
    row: InfluenceRow = "at"


def our_answers(case: Case, tau: float) -> list[naive.Answer]:
    """The package's answers to all questions together, as values of naive DPC."""
    lm, questions, vectors = case.lm, [*chain(*case.batches)], case.vectors
    runner = build_method(get_method("dpc"), Setup(SoftPrompt.of(vectors, lm.name), tau, MethodSettings(row=case.row)))
    found = dict(runner.answer(Decoder(lm), questions, case.max_new_tokens))
    answers = []
    for index in range(len(questions)):
        decision, second = found[index].decision, found[index].second
        assert decision is not None
        ids = None if second is None else second.ids
        answers.append(naive.Answer(found[index].first.ids, decision.statistic, decision.key_token, ids))
    return answers


def naive_answers(case: Case, tau: float) -> list[naive.Answer]:
    sizes = {"max_new_tokens": case.max_new_tokens, "batch_size": 64}
    options = {"shallow": case.shallow, "tau": tau, "gamma": GAMMA, "row": case.row, **sizes}
    return [*chain(*(naive.answer(case.lm.model, batch, case.vectors, **options) for batch in case.batches))]


def comparable(answer: naive.Answer) -> tuple[Any, ...]:
    """R as the exact fraction that its float stands for; the key token only where it was used."""
    late = len(answer.first) - len(answer.first) // 2
    ratio = None if answer.ratio is None else Fraction(answer.ratio).limit_denominator(late)
    return answer.first, ratio, None if answer.second is None else answer.key_token, answer.second


def middle_threshold(answers: Sequence[naive.Answer]) -> float:
    """A threshold that about half of the answers exceed, midway between two values of R, so that none is near it."""
    ratios = [answer.ratio for answer in answers if answer.ratio is not None]
    candidates = [(low + high) / 2 for low, high in pairwise(sorted(set(ratios)))]
    return min(candidates, key=lambda tau: abs(sum(ratio > tau for ratio in ratios) - len(ratios) / 2))


def check_against_naive_dpc(case: Case) -> None:
    """Every first answer, R, key token and second answer: with a trigger that always fires, and with one that may."""
    always = naive_answers(case, ALWAYS)
    assert list(map(comparable, our_answers(case, ALWAYS))) == list(map(comparable, always))
    tau = middle_threshold(always)
    some = naive_answers(case, tau)
    assert list(map(comparable, our_answers(case, tau))) == list(map(comparable, some))
    # There was something to compare.
    assert 0.2 < sum(answer.second is not None for answer in some) / len(some) < 0.8
    assert len({answer.key_token for answer in always} - {None}) > 1
    assert sum(answer.second != answer.first for answer in always) > len(always) / 3


def test_the_package_answers_as_naive_dpc_does_with_the_embedded_model() -> None:
    lm, task = load_lm("zoo", dtype="float32"), get_task("zoo")
    questions = [lm.encode(task.prompt(example)) for example in task.load("test", None)[::28]]
    first = task.load("train", None)[0]
    vectors = init_prompt(lm, 20, "text", 0, task.prompt(first) + task.target(first)).vectors
    noise = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(0))
    vectors = vectors + 0.5 * vectors.std() * noise
    check_against_naive_dpc(Case(lm, [questions], vectors, shallow=(0, 1), max_new_tokens=task.max_new_tokens))


@pytest.mark.parametrize(
    ("architecture", "row"), [("llama", "at"), ("gemma2", "at"), ("gpt2", "before"), ("qwen3", "before")]
)
def test_the_package_answers_as_naive_dpc_does_with_tiny_models(architecture: str, row: InfluenceRow) -> None:
    # In float64 no two logits of these models are so close that rounding decides between them.
    lm = tiny_lm(architecture, torch.float64, layers=6)
    assert lm.model.generation_config is not None
    # One token in 16 ends an answer, so that some answers are too short to be judged.
    lm.model.generation_config.eos_token_id = list(range(0, lm.vocab_size, 16))
    generator = torch.Generator().manual_seed(0)
    size = lm.embed(torch.arange(2, lm.vocab_size)).std().float()
    vectors = torch.randn(5, lm.hidden_size, generator=generator) * size
    # Each batch has questions of one length: in float64 the library's eager attention gives NaN for padding.
    shapes = [(8, 1), (8, 6), (8, 11)]
    batches = [torch.randint(2, lm.vocab_size, shape, generator=generator).tolist() for shape in shapes]
    check_against_naive_dpc(Case(lm, batches, vectors, shallow=(0, 1, 2), max_new_tokens=20, row=row))
