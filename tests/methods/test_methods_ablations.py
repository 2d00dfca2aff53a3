"""Ablations and controls: each differs from DPC in one thing, and in nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpc.engine import Decoder, Request
from dpc.engine.plain import greedy
from dpc.errors import UserError
from dpc.flow.measures import accumulation_profile
from dpc.flow.saliency import prompt_saliency
from dpc.flow.shallow import shallow_layers
from dpc.flow.thresholds import ALWAYS, NEVER
from dpc.methods import METHODS, build_method, get_method
from dpc.methods.draw import draw, draw_position
from dpc.methods.method import Setup
from dpc.model.lm import FrozenLM
from dpc.prompt.corruption import corrupt
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.settings import DecodingSettings, MethodSettings
from dpc.types import Answer, Decision
from tests.tiny_models import tiny_lm

QUESTIONS = [[40 + i, 60 + 2 * i, *range(50, 52 + i % 4)] for i in range(12)]
NEW_TOKENS, LENGTH = 10, 5
JUDGING = ["dpc", "random_corruption", "first_token_corruption", "least_token_corruption", "gamma_only", "key_only"]
NOT_JUDGING = ["all_corruption", "random_trigger"]
TRACING = ["dpc", "least_token_corruption", "gamma_only", "key_only", *NOT_JUDGING]
SETTINGS = MethodSettings(gamma=30)


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return tiny_lm("llama", layers=4)


@pytest.fixture(scope="module")
def prompt(lm: FrozenLM) -> SoftPrompt:
    return SoftPrompt.of(torch.randn(LENGTH, lm.hidden_size, generator=torch.Generator().manual_seed(3)), lm.name)


def answers(
    name: str,
    lm: FrozenLM,
    setup: Setup,
    questions: Sequence[Sequence[int]] = QUESTIONS,
    decoding: DecodingSettings | None = None,
    new_tokens: int = NEW_TOKENS,
) -> list[Answer]:
    found = dict(build_method(get_method(name), setup).answer(Decoder(lm, decoding), questions, new_tokens))
    return [found[index] for index in range(len(questions))]


def decision(answer: Answer) -> Decision:
    assert answer.decision is not None
    return answer.decision


def always(prompt: SoftPrompt, settings: MethodSettings = SETTINGS) -> Setup:
    """A setup under which every trigger fires."""
    return Setup(prompt, ALWAYS, settings, trigger_rate=1.0)


@pytest.fixture(scope="module")
def dpc(lm: FrozenLM, prompt: SoftPrompt) -> list[Answer]:
    return answers("dpc", lm, always(prompt))


def second_by_hand(lm: FrozenLM, question: Sequence[int], vectors: torch.Tensor) -> object:
    return greedy(lm, [Request(question, SoftPrompt.of(vectors, lm.name))], NEW_TOKENS)[0]


@pytest.mark.parametrize("name", JUDGING)
def test_every_method_triggers_exactly_where_dpc_does(name: str, lm: FrozenLM, prompt: SoftPrompt) -> None:
    setup = Setup(prompt, 0.39, SETTINGS)
    ours, theirs = answers(name, lm, setup), answers("dpc", lm, setup)
    assert [(decision(a).triggered, decision(a).statistic) for a in ours] == [
        (decision(a).triggered, decision(a).statistic) for a in theirs
    ]
    assert 0 < sum(decision(a).triggered for a in ours) < len(QUESTIONS)
    assert [a.first for a in ours] == [a.first for a in theirs]


def test_all_corruption_answers_as_dpc_does_where_it_triggers(
    lm: FrozenLM, prompt: SoftPrompt, dpc: list[Answer]
) -> None:
    made = answers("all_corruption", lm, Setup(prompt, None, SETTINGS))
    assert [(a.first, a.second, decision(a).key_token) for a in made] == [
        (a.first, a.second, decision(a).key_token) for a in dpc
    ]
    assert all(decision(a).triggered and decision(a).statistic is None for a in made)


def test_random_corruption_masks_the_position_that_was_drawn(lm: FrozenLM, prompt: SoftPrompt) -> None:
    settings = SETTINGS.model_copy(update={"seed": 5})
    made = answers("random_corruption", lm, always(prompt, settings))
    for question, answer in zip(QUESTIONS, made, strict=True):
        token = draw_position(5, question, LENGTH)
        assert decision(answer).key_token == token
        assert answer.second == second_by_hand(lm, question, corrupt(prompt.vectors, token, 30.0))
        assert decision(answer).evidence.corruption == "random position: masked, gamma 30 percent per vector"
    assert len({decision(a).key_token for a in made}) > 1


def test_the_first_token_is_position_0(lm: FrozenLM, prompt: SoftPrompt) -> None:
    corrupted = corrupt(prompt.vectors, 0, 30.0)
    for question, answer in zip(QUESTIONS, answers("first_token_corruption", lm, always(prompt)), strict=True):
        assert (decision(answer).key_token, answer.second) == (0, second_by_hand(lm, question, corrupted))


def test_the_least_token_gathers_least(lm: FrozenLM, prompt: SoftPrompt) -> None:
    for question, answer in zip(QUESTIONS, answers("least_token_corruption", lm, always(prompt)), strict=True):
        [saliency] = prompt_saliency(lm, prompt.vectors, [question], [answer.first.ids])
        token = int(accumulation_profile(saliency, shallow_layers(lm.layers)).argmin())
        profile = decision(answer).evidence.profile
        assert profile is not None
        assert decision(answer).key_token == token == profile.index(min(profile))
        assert answer.second == second_by_hand(lm, question, corrupt(prompt.vectors, token, 30.0))


def test_mask_and_pruning_are_what_dpc_does_split_in_two(lm: FrozenLM, prompt: SoftPrompt, dpc: list[Answer]) -> None:
    masked, pruned = (answers(name, lm, always(prompt)) for name in ("key_only", "gamma_only"))
    for question, whole, one, other in zip(QUESTIONS, dpc, masked, pruned, strict=True):
        token = decision(whole).key_token
        assert token is not None
        assert decision(one).key_token == decision(other).key_token == token
        mask_alone = prompt.vectors.clone()
        mask_alone[token] = 0.0
        assert one.second == second_by_hand(lm, question, mask_alone)
        pruned_alone = corrupt(prompt.vectors, token, 30.0)
        pruned_alone[token] = prompt.vectors[token]
        assert other.second == second_by_hand(lm, question, pruned_alone)
        assert "masked, gamma 0 percent" in (decision(one).evidence.corruption or "")
        assert "kept, gamma 30 percent" in (decision(other).evidence.corruption or "")
    assert [a.second for a in masked] != [a.second for a in pruned]


def test_a_random_trigger_corrupts_as_dpc_does_wherever_it_fires(
    lm: FrozenLM, prompt: SoftPrompt, dpc: list[Answer]
) -> None:
    made = answers("random_trigger", lm, Setup(prompt, None, SETTINGS, trigger_rate=0.5))
    fired = [decision(a).triggered for a in made]
    assert fired == [draw(0, "trigger", question) > 0.5 for question in QUESTIONS]
    assert 0 < sum(fired) < len(QUESTIONS)
    for answer, other in zip(made, dpc, strict=True):
        assert answer.second == (other.second if decision(answer).triggered else None)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_rate_of_none_or_all_leaves_nothing_to_chance(rate: float, lm: FrozenLM, prompt: SoftPrompt) -> None:
    made = answers("random_trigger", lm, Setup(prompt, None, SETTINGS, trigger_rate=rate))
    assert {decision(a).triggered for a in made} == {bool(rate)}


@pytest.mark.parametrize("name", ["random_corruption", "random_trigger"])
def test_chance_depends_on_seed_and_question_alone(name: str, lm: FrozenLM, prompt: SoftPrompt) -> None:
    def chosen(setup: Setup, questions: Sequence[Sequence[int]]) -> list[tuple[bool, int | None]]:
        made = answers(name, lm, setup, questions, DecodingSettings(batch_size=3))
        return [(decision(a).triggered, decision(a).key_token) for a in made]

    setup, questions = Setup(prompt, ALWAYS, SETTINGS, trigger_rate=0.5), QUESTIONS[:8]
    whole = chosen(setup, questions)
    assert chosen(setup, questions[::-1]) == whole[::-1]
    assert [chosen(setup, [question])[0] for question in questions[:4]] == whole[:4]
    other = Setup(prompt, ALWAYS, SETTINGS.model_copy(update={"seed": 1}), trigger_rate=0.5)
    assert chosen(other, questions) != whole


@pytest.mark.parametrize("name", [*JUDGING, *NOT_JUDGING])
def test_nothing_is_computed_that_the_method_does_not_look_at(name: str, lm: FrozenLM, prompt: SoftPrompt) -> None:
    for answer in answers(name, lm, always(prompt)):
        assert answer.cost.backward_passes == (name in JUDGING) + (name in TRACING)
        evidence = asdict(decision(answer).evidence)
        judged, traced = {"influence", "beta", "late_flow", "rationale_loss"}, {"profile", "accumulated"}
        known = {field for field in judged | traced if evidence[field] is not None}
        assert known == (judged if name in JUDGING else set()) | (traced if name in TRACING else set())


@pytest.mark.parametrize("name", [*JUDGING, *NOT_JUDGING])
def test_a_rationale_too_short_to_judge_is_never_corrupted(name: str, lm: FrozenLM, prompt: SoftPrompt) -> None:
    for answer in answers(name, lm, always(prompt), new_tokens=3):
        assert (answer.second, decision(answer).triggered) == (None, False)
        assert "shorter than 4" in (decision(answer).evidence.reason or "")
        assert not decision(answer).judged
        assert answer.cost.backward_passes == 0


@pytest.mark.parametrize("name", [*JUDGING, "random_trigger"])
def test_a_silent_trigger_means_prompt_tuning(name: str, lm: FrozenLM, prompt: SoftPrompt) -> None:
    made = answers(name, lm, Setup(prompt, NEVER, SETTINGS, trigger_rate=0.0))
    assert [a.final for a in made] == [a.final for a in answers("prompt_tuning", lm, Setup(prompt))]


@given(st.lists(st.integers(0, 2**17), max_size=40), st.integers(0, 2**63 - 1), st.integers(1, 200))
def test_draws_stay_in_their_range(question: list[int], seed: int, positions: int) -> None:
    assert 0 < draw(seed, "trigger", question) <= 1
    assert 0 <= draw_position(seed, question, positions) < positions


def test_draws_are_uniform_and_do_not_follow_each_other() -> None:
    questions = [[i, i + 1] for i in range(4000)]
    counts = Counter(draw_position(0, question, 8) for question in questions)
    # 500 each is expected, with a standard deviation of 21.
    assert set(counts) == set(range(8))
    assert all(abs(count - 500) < 5 * 21 for count in counts.values())
    triggers = torch.tensor([draw(0, "trigger", question) for question in questions])
    positions = torch.tensor([draw(0, "position", question) for question in questions])
    assert abs(float(triggers.mean()) - 0.5) < 0.025
    assert abs(float(torch.corrcoef(torch.stack([triggers, positions]))[0, 1])) < 0.08


def test_what_a_method_lacks_is_named(prompt: SoftPrompt) -> None:
    with pytest.raises(UserError, match="dev split"):
        build_method(get_method("random_trigger"), Setup(prompt, 0.5))
    with pytest.raises(UserError, match="random_corruption needs a threshold"):
        build_method(get_method("random_corruption"), Setup(prompt, trigger_rate=0.5))
    blind = {name for name in METHODS if get_method(name).calibrated is None}
    assert blind == {"pretrained", "prompt_tuning", "act", "all_corruption", "beam"}
