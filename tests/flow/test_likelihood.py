"""Log-probabilities of an answer's tokens are a log-softmax of the logits that the model itself gives."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from dpc.engine import Decoded, Decoder, Request
from dpc.engine.token_figures import token_figures
from dpc.flow.likelihood import answer_log_probs, token_log_probs
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


def decoded_for(lm: FrozenLM, decoding: DecodingSettings) -> list[Decoded]:
    """Answers of different lengths to questions of different lengths, with the likelihood of their tokens."""
    generator = torch.Generator().manual_seed(4)
    questions = [torch.randint(10, 99, (2 + 5 * i,), generator=generator).tolist() for i in range(6)]
    requests = [Request(q, prompt_for(lm), likelihood=True, tag=i) for i, q in enumerate(questions)]
    # End tokens that some answers meet.
    free = Decoder(lm).all(requests, 20)
    lm.model.generation_config.eos_token_id = [free[0].ids[5], free[1].ids[9]]
    decoder = Decoder(lm, decoding)
    decoder.submit(requests)
    return sorted(decoder.drain(20), key=lambda each: each.request.tag)


@pytest.mark.parametrize(
    ("architecture", "slots"),
    [*((name, True) for name in (*ARCHITECTURES, "gpt_oss")), ("llama", False), ("gemma2", False)],
)
def test_decoding_and_teacher_forcing_equal_a_log_softmax_of_the_models_own_logits(
    architecture: str, slots: bool
) -> None:
    lm = tiny_lm(architecture)
    decoded, prompt = decoded_for(lm, DecodingSettings(batch_size=3, slots=slots)), prompt_for(lm)
    questions, answers = [each.request.question for each in decoded], [each.generation for each in decoded]
    assert "eos" in {answer.finish for answer in answers}
    forced = answer_log_probs(lm, prompt.vectors, questions, answers)
    for question, each, other in zip(questions, decoded, forced, strict=True):
        answer, found = each.generation, each.likelihood
        assert found is not None
        tokens = [*answer.ids, *([] if answer.end_id is None else [answer.end_id])]
        expected = by_hand(lm, prompt.vectors, question, tokens)
        assert expected.shape == (len(tokens),)
        torch.testing.assert_close(found.log_probs, expected, rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(other, expected, rtol=1e-4, atol=2e-5)


def test_entropies_and_runners_up_are_those_of_the_models_own_distribution() -> None:
    lm = tiny_lm("qwen3")
    for each in decoded_for(lm, DecodingSettings(batch_size=3)):
        tokens, found = each.generation.ids, each.likelihood
        assert found is not None
        vectors = prompt_for(lm).vectors
        embedded = torch.cat([vectors, lm.embed(torch.tensor([*each.request.question, *tokens]))])
        with torch.no_grad():
            logits = lm.model(inputs_embeds=embedded[None], use_cache=False).logits[0]
        start = len(vectors) + len(each.request.question) - 1
        probabilities = logits[start : start + len(found.log_probs)].double().softmax(-1)
        entropies = torch.special.entr(probabilities).sum(-1)
        torch.testing.assert_close(found.entropies.double(), entropies, rtol=1e-4, atol=1e-5)
        second = probabilities.sort(-1, descending=True)
        assert found.runners_up.tolist() == second.indices[:, 1].tolist()
        torch.testing.assert_close(found.runner_up_log_probs.double(), second.values[:, 1].log(), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_texts_that_the_model_would_not_have_written_have_their_own_probability(architecture: str) -> None:
    lm = tiny_lm(architecture)
    vectors = prompt_for(lm).vectors
    questions, rationales = [[40, 41, 42], [50], list(range(60, 75))], [[90, 2, 90, 2], [33], [12, 13]]
    found = token_log_probs(lm, vectors, questions, rationales)
    for question, rationale, each in zip(questions, rationales, found, strict=True):
        torch.testing.assert_close(each, by_hand(lm, vectors, question, rationale), rtol=1e-4, atol=2e-5)
    assert min(float(each.min()) for each in found) < -4


def test_figures_are_computed_a_few_positions_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(11, 50, generator=torch.Generator().manual_seed(0))
    at_once = token_figures(logits)
    monkeypatch.setattr("dpc.engine.token_figures._ELEMENTS", 3 * 50)
    torch.testing.assert_close(token_figures(logits), at_once, rtol=0, atol=0)


def test_no_answers_have_no_probabilities() -> None:
    lm = tiny_lm("llama")
    assert token_log_probs(lm, prompt_for(lm).vectors, [], []) == []


DOUBT = StatisticTrigger(
    "doubt",
    lambda first: -float(first.log_probs.mean()),
    frozenset({"likelihood"}),
)
BOTH = StatisticTrigger(
    "both",
    lambda first: float(first.influence is not None) + float(first.likelihood is not None),
    frozenset({"likelihood", "influence"}),
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
