"""Every method against its own definition, composed by hand from the parts."""

from __future__ import annotations

import pytest
import torch

from dpc.corruption import corrupt
from dpc.engine import Request, greedy
from dpc.errors import UserError
from dpc.flow import accumulation_profile, key_token, rationale_influence, shallow_layers
from dpc.lm import FrozenLM
from dpc.methods import METHODS, build_method
from dpc.methods.base import Setup
from dpc.saliency import prompt_saliency
from dpc.settings import MethodSettings
from dpc.soft_prompt import SoftPrompt
from dpc.trigger import ALWAYS, NEVER, affected_share
from tests.tiny_models import tiny_lm

QUESTIONS = [[40, 41, 42], [50, 51, 52, 53, 54, 55, 56, 57], [60, 61], [70, 71, 72, 73]]
NEW_TOKENS = 14


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return tiny_lm("llama", layers=4)


@pytest.fixture(scope="module")
def prompt(lm: FrozenLM) -> SoftPrompt:
    vectors = torch.randn(5, lm.hidden_size, generator=torch.Generator().manual_seed(3))
    return SoftPrompt.of(vectors, lm.name)


def test_pretrained_is_the_bare_model(lm: FrozenLM) -> None:
    answers = build_method("pretrained", Setup()).answer(lm, QUESTIONS, NEW_TOKENS)
    assert [a.final for a in answers] == greedy(lm, [Request(q) for q in QUESTIONS], NEW_TOKENS)


def test_prompt_tuning_puts_the_prompt_first(lm: FrozenLM, prompt: SoftPrompt) -> None:
    answers = build_method("prompt_tuning", Setup(prompt)).answer(lm, QUESTIONS, NEW_TOKENS)
    assert [a.final for a in answers] == greedy(lm, [Request(q, prompt.vectors) for q in QUESTIONS], NEW_TOKENS)


def test_dpc_that_never_triggers_is_prompt_tuning(lm: FrozenLM, prompt: SoftPrompt) -> None:
    tuned = build_method("prompt_tuning", Setup(prompt)).answer(lm, QUESTIONS, NEW_TOKENS)
    answers = build_method("dpc", Setup(prompt, NEVER)).answer(lm, QUESTIONS, NEW_TOKENS)
    assert [a.final for a in answers] == [a.final for a in tuned]
    assert all(a.second is None and a.decision is not None and not a.decision.triggered for a in answers)


def test_dpc_by_hand(lm: FrozenLM, prompt: SoftPrompt) -> None:
    settings = MethodSettings(gamma=30)
    answers = build_method("dpc", Setup(prompt, ALWAYS, settings)).answer(lm, QUESTIONS, NEW_TOKENS)
    for question, answer in zip(QUESTIONS, answers, strict=True):
        first = greedy(lm, [Request(question, prompt.vectors)], NEW_TOKENS)[0]
        saliency = prompt_saliency(lm, prompt.vectors, [question], [first.ids])[0]
        token = key_token(accumulation_profile(saliency, shallow_layers(lm.layers)))
        second = greedy(lm, [Request(question, corrupt(prompt.vectors, token, 30.0))], NEW_TOKENS)[0]
        assert (answer.first, answer.second, answer.final) == (first, second, second)
        assert answer.decision is not None
        assert answer.decision.key_token == token
        assert answer.decision.ratio == affected_share(rationale_influence(saliency)).ratio


def test_decision_and_answers_do_not_depend_on_the_batch(lm: FrozenLM, prompt: SoftPrompt) -> None:
    method = build_method("dpc", Setup(prompt, 0.4, saliency_batch_size=3))
    together = method.answer(lm, QUESTIONS, NEW_TOKENS)
    for question, answer in zip(QUESTIONS, together, strict=True):
        alone = method.answer(lm, [question], NEW_TOKENS)[0]
        assert (alone.first, alone.second) == (answer.first, answer.second)
        assert alone.decision is not None
        assert answer.decision is not None
        assert (alone.decision.ratio, alone.decision.key_token) == (answer.decision.ratio, answer.decision.key_token)


def test_the_threshold_alone_decides(lm: FrozenLM, prompt: SoftPrompt) -> None:
    always = build_method("dpc", Setup(prompt, ALWAYS)).answer(lm, QUESTIONS, NEW_TOKENS)
    ratios = [a.decision.ratio for a in always if a.decision is not None]
    assert len(set(ratios)) > 1
    tau = sorted(set(ratios))[0]
    some = build_method("dpc", Setup(prompt, tau)).answer(lm, QUESTIONS, NEW_TOKENS)
    assert [a.second is not None for a in some] == [ratio > tau for ratio in ratios]


def test_costs_count_every_pass(lm: FrozenLM, prompt: SoftPrompt) -> None:
    answer = build_method("dpc", Setup(prompt, ALWAYS)).answer(lm, QUESTIONS[:1], NEW_TOKENS)[0]
    assert answer.second is not None
    ended = (answer.first.finish == "eos") + (answer.second.finish == "eos")
    tokens = len(answer.first.ids) + len(answer.second.ids)
    assert answer.cost.generated_tokens == tokens
    assert answer.cost.forward_passes == tokens + ended + 1
    assert answer.cost.backward_passes == 1


def test_a_rationale_too_short_to_judge_keeps_its_first_answer(lm: FrozenLM, prompt: SoftPrompt) -> None:
    answers = build_method("dpc", Setup(prompt, ALWAYS)).answer(lm, QUESTIONS, 3)
    assert all(a.second is None and a.decision is not None and a.decision.ratio is None for a in answers)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "pretrained"])
def test_what_a_method_lacks_is_named(name: str) -> None:
    with pytest.raises(UserError, match="--prompt"):
        build_method(name, Setup())


def test_a_method_without_threshold_and_an_unknown_one(prompt: SoftPrompt) -> None:
    with pytest.raises(UserError, match="calibrate"):
        build_method("dpc", Setup(prompt))
    with pytest.raises(UserError, match="did you mean dpc"):
        build_method("dcp", Setup(prompt))
