"""Settings that the paper leaves open, each against its definition by hand."""

from __future__ import annotations

import pytest
import torch

from dpc.engine import Decoder
from dpc.flow.measures import accumulation_profile, rationale_influence
from dpc.flow.saliency import prompt_saliency
from dpc.flow.shallow import shallow_layers
from dpc.flow.thresholds import ALWAYS
from dpc.flow.trigger import affected_share
from dpc.methods import build_method, get_method
from dpc.methods.method import Setup
from dpc.model.lm import FrozenLM
from dpc.prompt.corruption import corrupt, prune, pruned_count
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.settings import DecodingSettings, MethodSettings
from dpc.types import Answer, Decision
from tests.tiny_models import tiny_lm

QUESTIONS = [[40 + i, 60 + 2 * i, *range(50, 52 + i % 4)] for i in range(8)]


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return tiny_lm("llama", layers=4)


@pytest.fixture(scope="module")
def prompt(lm: FrozenLM) -> SoftPrompt:
    return SoftPrompt.of(torch.randn(5, lm.hidden_size, generator=torch.Generator().manual_seed(3)), lm.name)


def answers(
    lm: FrozenLM, prompt: SoftPrompt, name: str = "dpc", new_tokens: int = 12, **settings: object
) -> list[Answer]:
    setup = Setup(prompt, ALWAYS, MethodSettings(**settings))
    found = dict(build_method(get_method(name), setup).answer(Decoder(lm), QUESTIONS, new_tokens))
    return [found[index] for index in range(len(QUESTIONS))]


def decision(answer: Answer) -> Decision:
    assert answer.decision is not None
    return answer.decision


@pytest.mark.parametrize("row", ["at", "before"])
@pytest.mark.parametrize("local", [True, False])
def test_either_row_may_carry_the_influence_and_both_are_recorded(
    lm: FrozenLM, prompt: SoftPrompt, row: str, local: bool
) -> None:
    setup = Setup(prompt, 0.3, MethodSettings(row=row))
    decoder = Decoder(lm, DecodingSettings(local_trigger=local))
    for index, answer in build_method(get_method("dpc"), setup).answer(decoder, QUESTIONS, 12):
        [saliency] = prompt_saliency(lm, prompt.vectors, [QUESTIONS[index]], [answer.first.ids])
        last, start = saliency.scores[-1], len(QUESTIONS[index])
        by_hand = {"at": last[start:].mean(1), "before": last[start - 1 : -1].mean(1)}
        ratios = {name: affected_share(values).ratio for name, values in by_hand.items()}
        evidence = decision(answer).evidence
        assert decision(answer).statistic == ratios[row]
        assert (evidence.ratio_at, evidence.ratio_before) == (ratios["at"], ratios["before"])
        assert evidence.influence == pytest.approx(by_hand[row].tolist(), rel=2e-3, abs=1e-7)


def test_without_a_question_there_is_no_row_before(lm: FrozenLM, prompt: SoftPrompt) -> None:
    [saliency] = prompt_saliency(lm, prompt.vectors, [[]], [[7, 8, 9, 10]])
    with pytest.raises(ValueError, match="no row before"):
        rationale_influence(saliency, "before")


def test_the_end_token_may_count_in_the_loss(lm: FrozenLM, prompt: SoftPrompt) -> None:
    question, rationale, end = [40, 41, 42], [50, 51, 52, 53], lm.end_ids[0]
    [without] = prompt_saliency(lm, prompt.vectors, [question], [rationale])
    [with_end] = prompt_saliency(lm, prompt.vectors, [question], [rationale], end_ids=[end])
    # The same as a rationale that ends with the end token, but for the row of that token, which is not there.
    [longer] = prompt_saliency(lm, prompt.vectors, [question], [[*rationale, end]])
    assert torch.allclose(with_end.scores, longer.scores[:, :-1], rtol=1e-4, atol=1e-9)
    assert with_end.loss == pytest.approx(longer.loss)
    assert float(without.scores[-1, -1].abs().max()) == 0 < float(with_end.scores[-1, -1].abs().max())


def test_the_loss_of_the_method_has_the_end_token_where_it_is_asked_for(lm: FrozenLM, prompt: SoftPrompt) -> None:
    for index, answer in enumerate(answers(lm, prompt, loss_end_token=True)):
        ends = [answer.first.end_id]
        assert (answer.first.end_id is None) == (answer.first.finish == "length")
        [saliency] = prompt_saliency(lm, prompt.vectors, [QUESTIONS[index]], [answer.first.ids], end_ids=ends)
        assert decision(answer).statistic == affected_share(rationale_influence(saliency)).ratio
        assert decision(answer).evidence.rationale_loss == pytest.approx(saliency.loss, rel=1e-3)


def test_shallow_layers_are_averaged_or_the_largest_counts(lm: FrozenLM, prompt: SoftPrompt) -> None:
    for index, answer in enumerate(answers(lm, prompt, shallow_aggregation="max", shallow_stop=0.75)):
        layers = shallow_layers(range(lm.layers), stop=0.75)
        [saliency] = prompt_saliency(lm, prompt.vectors, [QUESTIONS[index]], [answer.first.ids])
        largest = torch.stack([saliency.scores[layer].mean(0) for layer in layers]).amax(0)
        assert torch.allclose(accumulation_profile(saliency, layers, "max"), largest)
        assert decision(answer).key_token == int(largest.argmax())


def test_pruning_ranks_magnitudes_or_signed_values() -> None:
    row = torch.tensor([[-4.0, 3.0, -2.0, 1.0]])
    assert prune(row, 50.0).tolist() == [[-4.0, 3.0, 0.0, 0.0]]
    assert prune(row, 50.0, "value").tolist() == [[0.0, 3.0, 0.0, 1.0]]


def test_the_pruned_count_is_rounded_as_asked() -> None:
    counts = {
        rounding: [pruned_count(n, 10.0, rounding) for n in (14, 15, 16, 25)] for rounding in ("floor", "round", "ceil")
    }
    assert counts == {"floor": [1, 1, 1, 2], "round": [1, 2, 2, 2], "ceil": [2, 2, 2, 3]}


def test_a_mask_is_zero_or_the_mean_vector() -> None:
    vectors = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    assert corrupt(vectors, 0, 0.0).tolist() == [[0.0, 0.0], [3.0, 6.0]]
    assert corrupt(vectors, 0, 0.0, mask_value="mean").tolist() == [[2.0, 4.0], [3.0, 6.0]]


def test_all_corruption_corrupts_short_answers_where_asked(lm: FrozenLM, prompt: SoftPrompt) -> None:
    assert all(a.second is None for a in answers(lm, prompt, "all_corruption", 3))
    made = answers(lm, prompt, "all_corruption", 3, corrupt_short=True)
    assert all((a.second is not None) == bool(a.first.ids) for a in made)
    assert all(a.second is None for a in answers(lm, prompt, "dpc", 3, corrupt_short=True))


def test_random_corruption_may_leave_the_key_token_out(lm: FrozenLM, prompt: SoftPrompt) -> None:
    keys = [decision(a).key_token for a in answers(lm, prompt)]
    drawn = answers(lm, prompt, "random_corruption", random_may_draw_key=False)
    assert all(key != decision(a).key_token for key, a in zip(keys, drawn, strict=True))
    assert len({decision(a).key_token for a in drawn}) > 1


def test_cost_counts_tokens_through_blocks(lm: FrozenLM, prompt: SoftPrompt) -> None:
    decoding = DecodingSettings(drafts=False, draft_tokens=0)
    setup = Setup(prompt, ALWAYS, MethodSettings())
    found = dict(build_method(get_method("dpc"), setup).answer(Decoder(lm, decoding), QUESTIONS[:1], 12))
    answer, question, blocks = found[0], len(QUESTIONS[0]), lm.layers
    assert answer.second is not None
    read = sum(question + len(g.ids) - 1 + (g.finish == "eos") for g in (answer.first, answer.second))
    written, traced = len(answer.first.ids), question + len(answer.first.ids)
    shallow = shallow_layers(range(blocks))[0]
    assert answer.cost.forward_tokens == pytest.approx(read + written / blocks + traced)
    assert answer.cost.backward_tokens == pytest.approx(written / blocks + traced * (blocks - shallow) / blocks)
