"""Attention calibration against a reference that goes head by head, row by row, in one instance without padding."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.masking_utils import eager_mask

from dpc.engine import Decoder, Request
from dpc.engine.plain import greedy, prefill_inputs
from dpc.errors import UserError
from dpc.methods import build_method, get_method
from dpc.methods.act_attention import ActCache, Head, SinkCalibration, calibrate_attention, calibrated_attention
from dpc.methods.method import Setup
from dpc.model.attention_call import AttentionCall
from dpc.model.attention_switch import AttentionImplementation
from dpc.model.lm import FrozenLM
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.settings import ActSettings, DecodingSettings
from dpc.types import Answer
from tests.tiny_models import tiny_lm

ARCHITECTURES = ("llama", "mistral", "qwen2", "gpt2", "gemma2", "phi3")
HEADS: tuple[Head, ...] = ((1, 0), (1, 3), (2, 1))
CALIBRATION = SinkCalibration(HEADS, alpha=1.5, beta=0.4)
QUESTIONS = [[40, 41, 42], [50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62], [60, 61], [70, 71, 72, 73]]
NEW_TOKENS = 8


def prompt_for(lm: FrozenLM) -> SoftPrompt:
    return SoftPrompt.of(torch.randn(5, lm.hidden_size, generator=torch.Generator().manual_seed(3)), lm.name)


class Reference:
    """What the head by head reference remembers of one instance: the attention of every row, before calibration."""

    def __init__(self, calibration: SinkCalibration) -> None:
        self.calibration = calibration
        self.rows: dict[Head, list[list[float]]] = {}
        self.readable: dict[Head, list[list[bool]]] = {}
        self.sinks_found = 0

    def column_mean(self, head: Head, column: int) -> float:
        seen = [
            row[column]
            for row, readable in zip(self.rows[head], self.readable[head], strict=True)
            if column < len(row) and readable[column]
        ]
        return sum(seen) / len(seen) if seen else 0.0

    def calibrate(self, head: Head, attention: Tensor, readable: Tensor) -> Tensor:
        """Rows of one pass ``[row, column]``: all of them are known before the first of them is calibrated."""
        self.rows.setdefault(head, []).extend(attention.tolist())
        self.readable.setdefault(head, []).extend(readable.tolist())
        tokens, beta = attention.shape[1], self.calibration.beta
        sinks = [j for j in range(1, tokens) if self.column_mean(head, j) > self.calibration.alpha / tokens]
        self.sinks_found += len(sinks)
        calibrated = attention.clone()
        for row in range(len(attention)):
            taken = sum((1 - beta) * float(attention[row, j]) for j in sinks)
            others = sum(float(attention[row, j]) for j in range(tokens) if j not in sinks)
            if others == 0:
                continue
            for j in range(tokens):
                share = float(attention[row, j])
                calibrated[row, j] = beta * share if j in sinks else share + taken * share / others
        return calibrated


@contextmanager
def reference_attention(lm: FrozenLM, reference: Reference) -> Iterator[DynamicCache]:
    def attend(
        module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **keywords: Any
    ) -> tuple[Tensor, None]:
        eager = sys.modules[type(module).__module__].eager_attention_forward
        _, attention = eager(module, query, key, value, mask, **keywords)
        assert len(attention) == 1
        layer: int = getattr(module, "layer_idx", -1)
        readable = mask[0, 0] >= 0
        for head in range(attention.shape[1]):
            if (layer, head) in reference.calibration.heads:
                attention[0, head] = reference.calibrate((layer, head), attention[0, head], readable)
        values = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
        return (attention @ values).transpose(1, 2).contiguous(), None

    AttentionInterface.register("act_reference", attend)
    AttentionMaskInterface.register("act_reference", eager_mask)
    with AttentionImplementation(lm.model).switched("act_reference"):
        yield DynamicCache()


@torch.no_grad()
def logits_along(lm: FrozenLM, request: Request, tokens: Sequence[int], cache: DynamicCache) -> Tensor:
    """Logits after the question, and after each of ``tokens``, fed one by one."""
    embeds, mask, positions = prefill_inputs(lm, [request])
    found = [lm.forward(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, cache=cache)]
    for token in tokens:
        mask, positions = torch.cat([mask, mask.new_ones(1, 1)], 1), positions[:, -1:] + 1
        ids = torch.tensor([[token]])
        found.append(lm.forward(input_ids=ids, attention_mask=mask, position_ids=positions, cache=cache))
    return torch.cat(found)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_and_tokens_are_those_of_the_head_by_head_reference(architecture: str) -> None:
    lm = tiny_lm(architecture)
    prompt = prompt_for(lm)
    for question in QUESTIONS[:2]:
        request, reference = Request(question, prompt), Reference(CALIBRATION)
        with reference_attention(lm, reference) as cache:
            [theirs] = greedy(lm, [request], NEW_TOKENS, cache)
        with calibrated_attention(lm, CALIBRATION) as cache:
            [ours] = greedy(lm, [request], NEW_TOKENS, cache)
        assert ours == theirs
        with reference_attention(lm, Reference(CALIBRATION)) as cache:
            expected = logits_along(lm, request, theirs.ids, cache)
        with calibrated_attention(lm, CALIBRATION) as cache:
            found = logits_along(lm, request, theirs.ids, cache)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert reference.sinks_found > 0
        untouched = logits_along(lm, request, theirs.ids, DynamicCache(config=lm.model.config))
        assert float((found - untouched).abs().max()) > 1e-2


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gpt2"])
def test_neighbours_and_padding_change_nothing(architecture: str) -> None:
    lm = tiny_lm(architecture)
    prompt = prompt_for(lm)
    requests = [Request(question, prompt) for question in QUESTIONS] + [Request(QUESTIONS[1]), Request(QUESTIONS[0])]
    with calibrated_attention(lm, CALIBRATION) as cache:
        together = greedy(lm, requests, NEW_TOKENS, cache)
    for request, generation in zip(requests, together, strict=True):
        with calibrated_attention(lm, CALIBRATION) as cache:
            assert greedy(lm, [request], NEW_TOKENS, cache) == [generation]
    with calibrated_attention(lm, CALIBRATION) as cache, torch.no_grad():
        embeds, mask, positions = prefill_inputs(lm, requests)
        batch = lm.forward(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, cache=cache)
    for request, logits in zip(requests, batch, strict=True):
        with calibrated_attention(lm, CALIBRATION) as cache:
            torch.testing.assert_close(logits[None], logits_along(lm, request, [], cache), rtol=1e-5, atol=1e-5)


def test_instances_that_leave_the_batch_take_their_averages_along() -> None:
    lm = tiny_lm("llama")
    requests = [Request(question, prompt_for(lm)) for question in QUESTIONS]
    with calibrated_attention(lm, CALIBRATION) as cache:
        free = greedy(lm, requests, 12, cache)
    # An end token that some instance writes early, so that instances leave at different times.
    end = free[0].ids[2]
    lm.model.generation_config.eos_token_id = end
    with calibrated_attention(lm, CALIBRATION) as cache:
        together = greedy(lm, requests, 12, cache)
    for request, generation in zip(requests, together, strict=True):
        with calibrated_attention(lm, CALIBRATION) as cache:
            assert greedy(lm, [request], 12, cache) == [generation]
    assert {generation.finish for generation in together} == {"eos", "length"}


def test_a_head_without_sinks_is_the_model_s_own() -> None:
    lm = tiny_lm("mistral")
    requests = [Request(question, prompt_for(lm)) for question in QUESTIONS]
    never = SinkCalibration(HEADS, alpha=1e6, beta=0.4)
    with calibrated_attention(lm, never) as cache:
        assert greedy(lm, requests, NEW_TOKENS, cache) == greedy_plain(lm, requests)


def greedy_plain(lm: FrozenLM, requests: Sequence[Request]) -> list[Any]:
    """With the model's own attention, whatever is switched on around it."""
    with AttentionImplementation(lm.model).switched("eager"):
        return list(greedy(lm, requests, NEW_TOKENS))


def test_the_model_is_left_as_it_was_found() -> None:
    lm = tiny_lm("llama")
    before = AttentionImplementation(lm.model).in_use()
    with calibrated_attention(lm, CALIBRATION):
        assert AttentionImplementation(lm.model).in_use() == {"dpc_act"}
    assert AttentionImplementation(lm.model).in_use() == before
    with pytest.raises(UserError, match="no tokens"), calibrated_attention(lm, CALIBRATION) as cache:
        greedy(lm, [Request([])], NEW_TOKENS, cache)
    assert AttentionImplementation(lm.model).in_use() == before


@given(
    st.integers(1, 5).flatmap(
        lambda columns: st.tuples(
            st.lists(st.lists(st.floats(0, 1), min_size=columns, max_size=columns), min_size=1, max_size=4),
            st.lists(st.booleans(), min_size=columns, max_size=columns),
        )
    ),
    st.floats(0, 0.99),
)
def test_every_row_keeps_its_sum_and_sinks_keep_beta(case: tuple[list[list[float]], list[bool]], beta: float) -> None:
    attention, sinks = torch.tensor(case[0], dtype=torch.float64), torch.tensor(case[1])[None]
    calibrated = calibrate_attention(attention, sinks, beta)
    torch.testing.assert_close(calibrated.sum(-1), attention.sum(-1))
    for before, after in zip(attention, calibrated, strict=True):
        others = ~sinks[0] & (before > 0)
        if not others.any():
            assert torch.equal(before, after)
            continue
        torch.testing.assert_close(after[sinks[0]], beta * before[sinks[0]])
        given, share = after[others] - before[others], before[others] / before[others].sum()
        torch.testing.assert_close(given, given.sum() * share)


def test_first_tokens_that_everything_reads_are_no_sinks() -> None:
    """One head, four rows, one instance padded by a column: its first token is the second column."""
    cache = ActCache(SinkCalibration(((0, 0),), alpha=1.0, beta=0.0))
    visible = torch.ones(4, 4, dtype=torch.bool).tril()
    visible = torch.stack([visible, visible & (torch.arange(4) > 0)])[:, None]
    reads = torch.tensor([8.0, 8.0, 4.0, 0.0])  # the same from every row, before the softmax
    key = reads[None, None, :, None].expand(2, 1, 4, 1)
    call = AttentionCall(torch.ones(2, 1, 4, 1), key, torch.eye(4).expand(2, 1, 4, 4), visible, scale=1.0)
    first, padded = cache.calibrated_output(0, call)[:, 0]
    # The second column is a sink of the first instance, and loses everything; in the other it is the first token.
    assert first[:, 1].tolist() == [0.0, 0.0, 0.0, 0.0]
    assert float(first[3, 0]) > 0.97
    assert padded[1:, 1].tolist() == pytest.approx(torch.softmax(reads[1:], 0)[:1].tolist() * 3, abs=0.02)
    assert padded[0].tolist() == [0.0, 0.0, 0.0, 0.0]


def answers(lm: FrozenLM, setup: Setup, decoding: DecodingSettings | None = None) -> list[Answer]:
    found = dict(build_method(get_method("act"), setup).answer(Decoder(lm, decoding), QUESTIONS, NEW_TOKENS))
    return [found[index] for index in range(len(QUESTIONS))]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_method_answers_as_the_reference_does(batch_size: int) -> None:
    lm = tiny_lm("qwen2")
    setup = Setup(prompt_for(lm), act_heads=HEADS, act=ActSettings(alpha=1.5))
    made = answers(lm, setup, DecodingSettings(batch_size=batch_size))
    for question, answer in zip(QUESTIONS, made, strict=True):
        with reference_attention(lm, Reference(CALIBRATION)) as cache:
            assert [answer.final] == greedy(lm, [Request(question, setup.soft_prompt)], NEW_TOKENS, cache)
        assert (answer.decision, answer.second) == (None, None)
        assert answer.cost.forward_passes == len(answer.first.ids) + (answer.first.finish == "eos")


def test_without_heads_it_is_prompt_tuning() -> None:
    lm = tiny_lm("llama")
    made = answers(lm, Setup(prompt_for(lm), act_heads=()))
    assert [a.final for a in made] == greedy(lm, [Request(q, prompt_for(lm)) for q in QUESTIONS], NEW_TOKENS)


def test_a_model_that_keeps_states_beside_keys_is_refused() -> None:
    refused = pytest.raises(UserError, match=r"^method act: Lfm2ForCausalLM has layers that keep states beside keys")
    with refused, calibrated_attention(tiny_lm("lfm2"), SinkCalibration(((1, 0),), 1.0, 0.4)):
        pass


def test_heads_must_have_been_searched_and_be_there() -> None:
    lm = tiny_lm("llama")
    with pytest.raises(UserError, match="--method act"):
        build_method(get_method("act"), Setup(prompt_for(lm)))
    with pytest.raises(UserError, match="head 4 of layer 1: tiny-llama has 3 layers of 4 heads"):
        answers(lm, Setup(prompt_for(lm), act_heads=((1, 4),)))
