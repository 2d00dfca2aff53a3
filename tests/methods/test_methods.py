"""Every method against its own definition, composed by hand from the parts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from dpc.engine import Decoder, Request
from dpc.engine.plain import greedy
from dpc.errors import UserError
from dpc.flow.measures import accumulation_profile, has_accumulated, key_token, late_flow, rationale_influence
from dpc.flow.saliency import prompt_saliency
from dpc.flow.shallow import shallow_layers
from dpc.flow.thresholds import ALWAYS, NEVER
from dpc.flow.trigger import affected_share
from dpc.methods import METHODS, build_method, get_method
from dpc.methods.method import Setup
from dpc.model.lm import FrozenLM
from dpc.prompt.corruption import corrupt
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.settings import DecodingSettings, MethodSettings
from dpc.types import Answer, Evidence
from tests.evidence import About
from tests.tiny_models import ARCHITECTURES, tiny_lm

QUESTIONS = [[40, 41, 42], [50, 51, 52, 53, 54, 55, 56, 57], [60, 61], [70, 71, 72, 73]]
NEW_TOKENS = 14
PLAIN = DecodingSettings(slots=False, drafts=False, local_trigger=False, saliency_by_block=False)


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return tiny_lm("llama", layers=4)


def prompt_for(lm: FrozenLM) -> SoftPrompt:
    vectors = torch.randn(5, lm.hidden_size, generator=torch.Generator().manual_seed(3))
    return SoftPrompt.of(vectors, lm.name)


@pytest.fixture(scope="module")
def prompt(lm: FrozenLM) -> SoftPrompt:
    return prompt_for(lm)


def answers(
    name: str,
    lm: FrozenLM,
    setup: Setup,
    questions: Sequence[Sequence[int]] = QUESTIONS,
    new_tokens: int = NEW_TOKENS,
    decoding: DecodingSettings | None = None,
) -> list[Answer]:
    found = dict(build_method(get_method(name), setup).answer(Decoder(lm, decoding), questions, new_tokens))
    return [found[index] for index in range(len(questions))]


def test_pretrained_is_the_bare_model(lm: FrozenLM) -> None:
    made = answers("pretrained", lm, Setup())
    assert [a.final for a in made] == greedy(lm, [Request(q) for q in QUESTIONS], NEW_TOKENS)


def test_prompt_tuning_puts_the_prompt_first(lm: FrozenLM, prompt: SoftPrompt) -> None:
    made = answers("prompt_tuning", lm, Setup(prompt))
    assert [a.final for a in made] == greedy(lm, [Request(q, prompt) for q in QUESTIONS], NEW_TOKENS)


def test_dpc_that_never_triggers_is_prompt_tuning(lm: FrozenLM, prompt: SoftPrompt) -> None:
    tuned = answers("prompt_tuning", lm, Setup(prompt))
    made = answers("dpc", lm, Setup(prompt, NEVER))
    assert [a.final for a in made] == [a.final for a in tuned]
    assert all(a.second is None and a.decision is not None and not a.decision.triggered for a in made)
    assert all(a.decision is not None and a.decision.key_token is None for a in made)


@pytest.mark.parametrize("decoding", [DecodingSettings(), PLAIN], ids=["fast", "plain"])
def test_dpc_by_hand(lm: FrozenLM, prompt: SoftPrompt, decoding: DecodingSettings) -> None:
    settings = MethodSettings(gamma=30)
    made = answers("dpc", lm, Setup(prompt, ALWAYS, settings), decoding=decoding)
    for question, answer in zip(QUESTIONS, made, strict=True):
        first = greedy(lm, [Request(question, prompt)], NEW_TOKENS)[0]
        saliency = prompt_saliency(lm, prompt.vectors, [question], [first.ids])[0]
        token = key_token(accumulation_profile(saliency, shallow_layers(range(lm.layers))))
        corrupted = SoftPrompt.of(corrupt(prompt.vectors, token, 30.0), lm.name)
        second = greedy(lm, [Request(question, corrupted)], NEW_TOKENS)[0]
        assert (answer.first, answer.second, answer.final) == (first, second, second)
        assert answer.decision is not None
        assert answer.decision.key_token == token
        assert answer.decision.statistic == affected_share(rationale_influence(saliency)).ratio
        profile, influence = (
            accumulation_profile(saliency, shallow_layers(range(lm.layers))),
            rationale_influence(saliency),
        )
        assert answer.decision.evidence == About(
            Evidence(
                beta=affected_share(influence).beta,
                ratio_at=affected_share(influence).ratio,
                ratio_before=affected_share(rationale_influence(saliency, "before")).ratio,
                late_flow=late_flow(influence),
                rationale_loss=saliency.loss,
                influence=tuple(influence.tolist()),
                profile=tuple(profile.tolist()),
                accumulated=has_accumulated(profile, 2.0),
                corruption="largest S_acc: masked, gamma 30 percent per vector",
            )
        )


def test_evidence_of_what_is_not_triggered_holds_no_trace(lm: FrozenLM, prompt: SoftPrompt) -> None:
    for answer in answers("dpc", lm, Setup(prompt, NEVER)):
        assert answer.decision is not None
        evidence = answer.decision.evidence
        assert (evidence.profile, evidence.accumulated, evidence.corruption) == (None, None, None)
        assert None not in (evidence.beta, evidence.late_flow, evidence.rationale_loss)
        assert len(evidence.influence or ()) == len(answer.first.ids)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("off", ["slots", "drafts", "local_trigger", "saliency_by_block"])
def test_no_fast_path_changes_an_answer_or_a_decision(
    architecture: str, off: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that graphs as small as these are walked block by block, too.
    monkeypatch.setattr("dpc.flow.saliency._SMALL_GRAPH", 0)
    lm = tiny_lm(architecture)
    setup = Setup(prompt_for(lm), 0.4)
    fast, plain = (answers("dpc", lm, setup, decoding=DecodingSettings(**{off: state})) for state in (True, False))
    assert [(a.first, a.second) for a in fast] == [(a.first, a.second) for a in plain]
    for one, other in zip(fast, plain, strict=True):
        assert one.decision is not None
        assert other.decision is not None
        assert (one.decision.statistic, one.decision.key_token) == (other.decision.statistic, other.decision.key_token)
        assert one.decision.evidence == About(other.decision.evidence)


def test_decision_and_answers_do_not_depend_on_the_batch(lm: FrozenLM, prompt: SoftPrompt) -> None:
    setup = Setup(prompt, 0.4)
    together = answers("dpc", lm, setup, decoding=DecodingSettings(saliency_batch_size=3))
    for question, answer in zip(QUESTIONS, together, strict=True):
        [alone] = answers("dpc", lm, setup, [question])
        assert (alone.first, alone.second) == (answer.first, answer.second)
        assert alone.decision is not None
        assert answer.decision is not None
        assert (alone.decision.statistic, alone.decision.key_token) == (
            answer.decision.statistic,
            answer.decision.key_token,
        )


def test_the_threshold_alone_decides(lm: FrozenLM, prompt: SoftPrompt) -> None:
    always = answers("dpc", lm, Setup(prompt, ALWAYS))
    ratios = [a.decision.statistic for a in always if a.decision is not None and a.decision.statistic is not None]
    assert len(set(ratios)) > 1
    tau = sorted(set(ratios))[0]
    some = answers("dpc", lm, Setup(prompt, tau))
    assert [a.second is not None for a in some] == [ratio > tau for ratio in ratios]


def test_costs_count_every_pass(lm: FrozenLM, prompt: SoftPrompt) -> None:
    [answer] = answers(
        "dpc", lm, Setup(prompt, ALWAYS), QUESTIONS[:1], decoding=DecodingSettings(drafts=False, draft_tokens=0)
    )
    assert answer.second is not None
    ended = (answer.first.finish == "eos") + (answer.second.finish == "eos")
    tokens = len(answer.first.ids) + len(answer.second.ids)
    assert answer.cost.generated_tokens == tokens
    # One look at the last block for the trigger, one at the network for the key token.
    assert answer.cost.forward_passes == tokens + ended + 2
    assert answer.cost.backward_passes == 2
    [untouched] = answers("dpc", lm, Setup(prompt, NEVER), QUESTIONS[:1])
    assert untouched.cost.backward_passes == 1


def test_a_rationale_too_short_to_judge_keeps_its_first_answer(lm: FrozenLM, prompt: SoftPrompt) -> None:
    made = answers("dpc", lm, Setup(prompt, ALWAYS), new_tokens=3)
    assert all(a.second is None and a.decision is not None and a.decision.statistic is None for a in made)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "pretrained"])
def test_what_a_method_lacks_is_named(name: str) -> None:
    with pytest.raises(UserError, match="--prompt"):
        build_method(get_method(name), Setup())


def test_a_method_without_threshold_and_an_unknown_one(prompt: SoftPrompt) -> None:
    with pytest.raises(UserError, match="calibrate"):
        build_method(get_method("dpc"), Setup(prompt))
    with pytest.raises(UserError, match="did you mean dpc"):
        get_method("dcp")
