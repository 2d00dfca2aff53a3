"""Beam search and sampling in slots, against plain versions that compute every hypothesis from its first token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from dpc.engine import Beam, Candidates, Decoder, Request, Samples
from dpc.errors import UserError
from dpc.methods.draw import draw
from dpc.model.lm import FrozenLM
from dpc.settings import DecodingSettings
from tests.engine.test_slots import lm_with_many_ends, requests_for, soft_prompt

NEW_TOKENS = 12


def log_probs_after(lm: FrozenLM, request: Request, ids: Sequence[int]) -> Tensor:
    """Of the next token, from one pass over the whole sequence."""
    embedded = lm.embed(torch.tensor([*request.question, *ids]))
    if request.soft_prompt is not None:
        embedded = torch.cat([request.soft_prompt.vectors, embedded])
    logits: Tensor = lm.model(inputs_embeds=embedded[None], use_cache=False).logits
    return logits[0, -1].double().log_softmax(-1)


@dataclass(frozen=True)
class Plain:
    """A hypothesis of the plain version. done: it ended, by an end token or by its length."""

    score: float
    ids: tuple[int, ...]
    done: bool = False


def continued(lm: FrozenLM, request: Request, plain: Plain) -> list[Plain]:
    if plain.done:
        return [plain]
    scores = log_probs_after(lm, request, plain.ids) + plain.score
    made = []
    for token, score in enumerate(scores.tolist()):
        if token in lm.end_ids:
            made.append(Plain(score, plain.ids, done=True))
        else:
            ids = (*plain.ids, token)
            made.append(Plain(score, ids, done=len(ids) == NEW_TOKENS))
    return made


def plain_greedy(lm: FrozenLM, request: Request) -> Plain:
    best = Plain(0.0, ())
    while not best.done:
        best = max(continued(lm, request, best), key=lambda each: each.score)
    return best


def plain_beam(lm: FrozenLM, request: Request, beams: int) -> Plain:
    kept = [Plain(0.0, ())]
    while not all(each.done for each in kept):
        made = [each for plain in kept for each in continued(lm, request, plain)]
        kept = sorted(made, key=lambda each: -each.score)[:beams]
    return max([*kept, plain_greedy(lm, request)], key=lambda each: each.score)


def answered(lm: FrozenLM, requests: list[Request], chooser: Beam | Samples, slots: int = 7) -> list[Candidates]:
    decoder = Decoder(lm, DecodingSettings(batch_size=slots))
    done = {each.request.tag: each for each in decoder.candidates(requests, NEW_TOKENS, chooser)}
    return [done[request.tag] for request in requests]


def some_requests(lm: FrozenLM, count: int = 6) -> list[Request]:
    return requests_for(lm, count, [soft_prompt(lm), None, soft_prompt(lm, 3, seed=1)], longest=20)


@pytest.mark.parametrize(
    ("architecture", "beams"),
    [
        ("llama", 2),
        ("gemma2", 3),
        *(pytest.param(a, b, marks=pytest.mark.slow) for a in ("llama", "gemma2", "gpt2") for b in (1, 2, 3)),
    ],
)
def test_beam_search_finds_what_the_plain_version_finds(architecture: str, beams: int) -> None:
    lm = lm_with_many_ends(architecture)
    requests = some_requests(lm)
    for request, found in zip(requests, answered(lm, requests, Beam(beams)), strict=True):
        expected = plain_beam(lm, request, beams)
        assert found.scores[0] == pytest.approx(expected.score, abs=1e-3)
        assert found.generations[0].ids == expected.ids


@pytest.mark.parametrize("beams", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_beam_search_is_never_less_likely_than_greedy_decoding(beams: int) -> None:
    lm = lm_with_many_ends("qwen3")
    requests = some_requests(lm, 20)
    for request, found in zip(requests, answered(lm, requests, Beam(beams)), strict=True):
        assert found.scores[0] >= plain_greedy(lm, request).score - 1e-4
        assert list(found.scores) == sorted(found.scores, reverse=True)


def test_one_beam_is_greedy_decoding() -> None:
    lm = lm_with_many_ends("llama")
    requests = some_requests(lm)
    greedy = Decoder(lm).all(requests, NEW_TOKENS)
    assert [each.generations[0] for each in answered(lm, requests, Beam(1))] == greedy


@pytest.mark.parametrize("slots", [4, 9])
def test_a_sample_depends_on_its_own_draws_alone(slots: int) -> None:
    lm, temperature = lm_with_many_ends("llama"), 0.8
    requests = some_requests(lm)

    def chance(question: Sequence[int], number: int, position: int) -> float:
        return draw(0, f"sample {number} token {position}", question)

    for request, found in zip(requests, answered(lm, requests, Samples(4, temperature, chance), slots), strict=True):
        expected = []
        for number in range(4):
            ids: list[int] = []
            while len(ids) < NEW_TOKENS:
                probabilities = (log_probs_after(lm, request, ids) / temperature).softmax(-1)
                point = chance(request.question, number, len(ids))
                token = next(i for i, reached in enumerate(probabilities.cumsum(-1).tolist()) if reached >= point)
                if token in lm.end_ids:
                    break
                ids.append(token)
            expected.append(tuple(ids))
        drawn = [g.ids for g, count in zip(found.generations, found.counts, strict=True) for _ in range(count)]
        assert sorted(drawn) == sorted(expected)


def test_too_few_slots_for_one_question_are_refused() -> None:
    lm = lm_with_many_ends("llama")
    with pytest.raises(UserError, match="batch_size=2: one question takes 3 slots"):
        answered(lm, some_requests(lm), Beam(2), slots=2)
