"""Log-probabilities of an answer's tokens are a log-softmax of the logits that the model itself gives."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from dpc.engine import Decoded, Decoder, Request
from dpc.flow.likelihood import local_log_probs, token_log_probs
from dpc.methods import build_method
from dpc.methods.corruptions import KEY_TOKEN
from dpc.methods.method import Method, Setup
from dpc.methods.triggers import StatisticTrigger
from dpc.model.lm import FrozenLM
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.settings import DecodingSettings
from dpc.types import Decision
from tests.tiny_models import ARCHITECTURES, tiny_lm

LENGTH = 5


def prompt_for(lm: FrozenLM) -> SoftPrompt:
    return SoftPrompt.of(torch.randn(LENGTH, lm.hidden_size, generator=torch.Generator().manual_seed(3)), lm.name)


@torch.no_grad()
def by_hand(lm: FrozenLM, vectors: Tensor, question: Sequence[int], rationale: Sequence[int]) -> Tensor:
    """One instance without padding through the model as it comes, a token's probability looked up one by one."""
    embedded = torch.cat([vectors.to(lm.dtype), lm.model.get_input_embeddings()(torch.tensor([*question, *rationale]))])
    logits = lm.model(inputs_embeds=embedded[None], use_cache=False).logits[0]
    start = len(vectors) + len(question)
    rows = [torch.log_softmax(logits[start + place - 1].double(), -1) for place in range(len(rationale))]
    return torch.stack([row[token] for row, token in zip(rows, rationale, strict=True)]).float()


def decoded_for(lm: FrozenLM, trail: bool = True) -> list[Decoded]:
    """Answers of different lengths to questions of different lengths."""
    generator = torch.Generator().manual_seed(4)
    questions = [torch.randint(10, 99, (2 + 5 * i,), generator=generator).tolist() for i in range(6)]
    requests = [Request(q, prompt_for(lm), trail=trail, tag=i) for i, q in enumerate(questions)]
    decoder = Decoder(lm, DecodingSettings(batch_size=3))
    # End tokens that some answers meet.
    free = decoder.all(requests, 20)
    lm.model.generation_config.eos_token_id = [free[0].ids[5], free[1].ids[9]]
    decoder.submit(requests)
    return sorted((each for each in decoder.drain(20) if each.generation.ids), key=lambda each: each.request.tag)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gpt_oss"])
def test_both_ways_equal_a_log_softmax_of_the_models_own_logits(architecture: str) -> None:
    lm = tiny_lm(architecture)
    decoded, prompt = decoded_for(lm), prompt_for(lm)
    questions, rationales = [each.request.question for each in decoded], [each.generation.ids for each in decoded]
    assert len({len(rationale) for rationale in rationales}) > 1
    local = local_log_probs(lm, decoded)
    whole = token_log_probs(lm, prompt.vectors, questions, rationales)
    for question, rationale, one, other in zip(questions, rationales, local, whole, strict=True):
        expected = by_hand(lm, prompt.vectors, question, rationale)
        assert expected.shape == (len(rationale),)
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(other, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_texts_that_the_model_would_not_have_written_have_their_own_probability(architecture: str) -> None:
    lm = tiny_lm(architecture)
    vectors = prompt_for(lm).vectors
    questions, rationales = [[40, 41, 42], [50], list(range(60, 75))], [[90, 2, 90, 2], [33], [12, 13]]
    found = token_log_probs(lm, vectors, questions, rationales)
    for question, rationale, each in zip(questions, rationales, found, strict=True):
        torch.testing.assert_close(each, by_hand(lm, vectors, question, rationale), rtol=1e-4, atol=2e-5)
    assert min(float(each.min()) for each in found) < -4


def test_logits_are_made_a_few_positions_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm("llama")
    decoded = decoded_for(lm)
    at_once = local_log_probs(lm, decoded)
    monkeypatch.setattr("dpc.flow.likelihood._ELEMENTS", 3 * len(decoded) * lm.vocab_size)
    for one, other in zip(at_once, local_log_probs(lm, decoded), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_no_answers_have_no_probabilities() -> None:
    lm = tiny_lm("llama")
    assert local_log_probs(lm, []) == token_log_probs(lm, prompt_for(lm).vectors, [], []) == []


def test_an_answer_without_a_trail_is_a_mistake_of_the_caller() -> None:
    lm = tiny_lm("llama")
    with pytest.raises(ValueError, match="trail=True"):
        local_log_probs(lm, decoded_for(lm, trail=False))


DOUBT = StatisticTrigger(
    "doubt",
    lambda first: -float(first.log_probs.mean()) if first.log_probs is not None else 0.0,
    frozenset({"log_probs"}),
)
BOTH = StatisticTrigger(
    "both",
    lambda first: float(first.influence is not None) + float(first.log_probs is not None),
    frozenset({"log_probs", "influence"}),
)
QUESTIONS = [[40, 41, 42], [50, 51, 52, 53, 54, 55], [60, 61], [70, 71, 72]]


def decisions(lm: FrozenLM, trigger: StatisticTrigger, decoding: DecodingSettings) -> list[tuple[Decision, int, float]]:
    """Decision, backward passes, and the negative mean log-likelihood by hand, of each question."""
    prompt = prompt_for(lm)
    built = build_method(Method("own", "own", trigger, KEY_TOKEN), Setup(prompt, 1.7))
    found = dict(built.answer(Decoder(lm, decoding), QUESTIONS, 14))
    made = []
    for place, question in enumerate(QUESTIONS):
        answer = found[place]
        assert answer.decision is not None
        loss = -float(by_hand(lm, prompt.vectors, question, answer.first.ids).mean())
        made.append((answer.decision, answer.cost.backward_passes, loss))
    return made


WAYS = {
    "fast": DecodingSettings(),
    "whole": DecodingSettings(local_trigger=False),
    "plain": DecodingSettings(slots=False),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_a_trigger_that_asks_for_them_gets_them(way: str, architecture: str) -> None:
    lm = tiny_lm(architecture, layers=4)
    made = decisions(lm, DOUBT, WAYS[way])
    for decision, backward, loss in made:
        assert decision.statistic == pytest.approx(loss, rel=1e-4)
        # To find the key token; the trigger itself takes a forward pass alone.
        assert backward == decision.triggered
        assert decision.triggered == (loss > 1.7)
        assert decision.evidence.rationale_loss == pytest.approx(loss, rel=1e-4)
        assert (decision.trigger, decision.evidence.influence, decision.evidence.beta) == ("doubt", None, None)
    assert len({round(loss, 3) for _, _, loss in made}) == len(QUESTIONS)


def test_a_trigger_may_ask_for_both() -> None:
    for decision, backward, loss in decisions(tiny_lm("llama", layers=4), BOTH, WAYS["fast"]):
        assert (decision.statistic, decision.triggered) == (2.0, True)
        assert backward == 2
        assert decision.evidence.rationale_loss == pytest.approx(loss, rel=1e-4)
        assert decision.evidence.beta is not None
