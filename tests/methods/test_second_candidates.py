"""Methods that keep the likelier of several answers, against plain versions of a few lines."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from dpc.engine import Decoder
from dpc.errors import UserError
from dpc.methods import build_method, get_method
from dpc.methods.method import Setup
from dpc.model.lm import FrozenLM
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.settings import DecodingSettings, MethodSettings
from dpc.types import Answer
from tests.engine.test_slots import lm_with_many_ends, soft_prompt

NEW_TOKENS = 14
QUESTIONS = [list(range(20 + 7 * i, 24 + 9 * i)) for i in range(8)]
WAYS = {"slots": DecodingSettings(batch_size=3), "plain": DecodingSettings(slots=False)}


def answered(name: str, lm: FrozenLM, setup: Setup, decoding: DecodingSettings) -> list[Answer]:
    found = dict(build_method(get_method(name), setup).answer(Decoder(lm, decoding), QUESTIONS, NEW_TOKENS))
    return [found[place] for place in range(len(QUESTIONS))]


def next_log_probs(lm: FrozenLM, prompt: SoftPrompt, question: Sequence[int], ids: Sequence[int]) -> Tensor:
    embedded = torch.cat([prompt.vectors, lm.embed(torch.tensor([*question, *ids]))])
    logits: Tensor = lm.model(inputs_embeds=embedded[None], use_cache=False).logits
    return logits[0, -1].double().log_softmax(-1)


def written(
    lm: FrozenLM, prompt: SoftPrompt, question: Sequence[int], begin: Sequence[int] = ()
) -> tuple[tuple[int, ...], list[Tensor]]:
    """Greedy tokens after ``begin``, with the log-probabilities that each was chosen from; the end token's, too."""
    ids, rows = list(begin), []
    while len(ids) < NEW_TOKENS:
        rows.append(next_log_probs(lm, prompt, question, ids))
        token = int(rows[-1].argmax())
        if token in lm.end_ids:
            break
        ids.append(token)
    return tuple(ids), rows


def plain_branch(lm: FrozenLM, prompt: SoftPrompt, question: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The branched answer, and the likelier of both."""
    first, rows = written(lm, prompt, question)
    best = [row.topk(2) for row in rows]
    position = min(range(len(rows)), key=lambda at: float(best[at].values[0] - best[at].values[1]))
    token = int(best[position].indices[1])
    score = sum(float(each.values[0]) for each in best[:position]) + float(best[position].values[1])
    second, more = first[:position], list[Tensor]()
    if token not in lm.end_ids:
        second, more = written(lm, prompt, question, (*first[:position], token))
    score += sum(float(row.max()) for row in more)
    return second, second if score > sum(float(each.values[0]) for each in best) else first


@pytest.mark.parametrize("way", WAYS)
def test_branch_keeps_the_likelier_of_two_answers(way: str) -> None:
    lm = lm_with_many_ends("llama")
    prompt = soft_prompt(lm)
    kept = []
    for question, answer in zip(QUESTIONS, answered("branch", lm, Setup(prompt, tau=0.0), WAYS[way]), strict=True):
        assert answer.decision is not None
        assert answer.first.ids == written(lm, prompt, question)[0]
        if not answer.decision.judged:
            assert answer.second is None
            continue
        second, final = plain_branch(lm, prompt, question)
        assert answer.second is not None
        assert answer.second.ids == second
        assert answer.final.ids == final
        kept.append(answer.kept_first)
    assert len(set(kept)) == 2


def test_branch_answers_once_where_the_mean_entropy_is_below_the_threshold() -> None:
    lm = lm_with_many_ends("llama")
    prompt = soft_prompt(lm)
    entropies = []
    for question in QUESTIONS:
        ids, rows = written(lm, prompt, question)
        if len(ids) >= 4:
            entropies.append(float(torch.stack([-(r.exp() * r).sum() for r in rows[: len(ids)]]).mean()))
    tau = sorted(entropies)[len(entropies) // 2] - 1e-6
    answers = answered("branch", lm, Setup(prompt, tau=tau), WAYS["slots"])
    judged = [a for a in answers if a.decision is not None and a.decision.judged]
    assert [a.decision.statistic for a in judged if a.decision] == pytest.approx(entropies, rel=1e-4)
    assert [a.second is not None for a in judged] == [entropy > tau for entropy in entropies]


def test_the_branch_goes_on_from_the_cache_of_the_first_answer() -> None:
    lm = lm_with_many_ends("llama")
    setup = Setup(soft_prompt(lm), tau=0.0)
    slots = answered("branch", lm, setup, DecodingSettings(batch_size=3, draft_tokens=0))
    for question, answer in zip(QUESTIONS, slots, strict=True):
        tokens = len(question) + len(answer.first.ids) - (answer.first.finish == "length")
        if answer.second is not None and answer.decision is not None:
            new = len(answer.second.ids) - int(answer.decision.evidence.more["branched_at"])
            tokens += new - (answer.second.finish == "length") if new else 0
        assert answer.cost.forward_tokens == tokens


def test_beam_is_the_likeliest_answer_of_the_beam() -> None:
    lm = lm_with_many_ends("gemma2")
    prompt = soft_prompt(lm)
    one = answered("beam", lm, Setup(prompt, settings=MethodSettings(beams=1)), WAYS["slots"])
    two = answered("beam", lm, Setup(prompt, settings=MethodSettings(beams=2)), DecodingSettings(batch_size=7))
    scores = []
    for question, greedy, likelier in zip(QUESTIONS, one, two, strict=True):
        assert greedy.final.ids == written(lm, prompt, question)[0]
        own = []
        for answer in (greedy, likelier):
            ids = [*answer.final.ids, *([] if answer.final.end_id is None else [answer.final.end_id])]
            own.append(sum(float(next_log_probs(lm, prompt, question, ids[:at])[ids[at]]) for at in range(len(ids))))
        scores.append(own)
    assert all(second >= first - 1e-4 for first, second in scores)
    assert any(second > first + 1e-3 for first, second in scores)


def test_dpc_select_keeps_the_likelier_answer_under_the_tuned_prompt() -> None:
    lm = lm_with_many_ends("llama")
    prompt = soft_prompt(lm)
    both = answered("dpc", lm, Setup(prompt, tau=-1.0), WAYS["slots"])
    chosen = answered("dpc_select", lm, Setup(prompt, tau=-1.0), WAYS["slots"])
    kept = set()
    for question, plain, answer in zip(QUESTIONS, both, chosen, strict=True):
        assert (answer.first, answer.second) == (plain.first, plain.second)
        if answer.second is None or answer.second.ids == answer.first.ids:
            continue
        scores = []
        for each in (answer.first, answer.second):
            ids = [*each.ids, *([] if each.end_id is None else [each.end_id])]
            scores.append(sum(float(next_log_probs(lm, prompt, question, ids[:i])[ids[i]]) for i in range(len(ids))))
        assert answer.kept_first == (scores[1] <= scores[0])
        assert answer.final is (answer.first if answer.kept_first else answer.second)
        kept.add(answer.kept_first)
    assert kept


@pytest.mark.parametrize("way", WAYS)
def test_prompt_choice_keeps_the_answer_that_is_likeliest_under_all_prompts(way: str) -> None:
    lm = lm_with_many_ends("llama")
    prompts = [soft_prompt(lm), soft_prompt(lm, 3, seed=1), soft_prompt(lm, 4, seed=2)]
    setup = Setup(prompts[0], tau=0.0, others=tuple(prompts[1:]))
    kept = set()
    for question, answer in zip(QUESTIONS, answered("prompt_choice", lm, setup, WAYS[way]), strict=True):
        assert answer.decision is not None
        if not answer.decision.judged:
            continue
        sums = {}
        for prompt in prompts:
            ids, rows = written(lm, prompt, question)
            ended = (*ids, int(rows[-1].argmax())) if len(rows) > len(ids) else ids
            if ended not in sums:
                scores = [
                    next_log_probs(lm, p, question, ended[:i])[ended[i]] for p in prompts for i in range(len(ended))
                ]
                sums[ended] = sum(map(float, scores))
        best = max(sums, key=lambda each: sums[each])
        final = answer.final
        assert (*final.ids, *([] if final.end_id is None else [final.end_id])) == best
        kept.add(answer.kept_first)
    assert len(kept) == 2


def test_prompt_choice_without_a_second_prompt_says_how_to_give_one() -> None:
    lm = lm_with_many_ends("llama")
    with pytest.raises(UserError, match="pass --other-prompt DIR"):
        answered("prompt_choice", lm, Setup(soft_prompt(lm), tau=0.0), WAYS["slots"])
