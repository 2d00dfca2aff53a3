"""The loss over target tokens equals that of PEFT, whatever the padding, and every epoch has its own order."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import Cache

from dpc.errors import UserError
from dpc.model.lm import FrozenLM
from dpc.prompt.soft_prompt import init_prompt
from dpc.prompt.target_loss import TokenRow, encode_rows, epoch_updates, target_loss
from tests.tiny_models import ARCHITECTURES, tiny_lm

LENGTH = 3
TRAIN = [(f"{'ab' * (n % 4)}{n} =", f" {'x' * (n % 3)}{n}") for n in range(11)]


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return tiny_lm("llama", layers=2)


def rows_of(lm: FrozenLM, rows: list[tuple[str, str]]) -> list[TokenRow]:
    return encode_rows(lm, rows, LENGTH, None, "training")


def loss_and_gradient(
    lm: FrozenLM, vectors: Tensor, rows: list[TokenRow], shared_prompt: bool = True
) -> tuple[Tensor, Tensor]:
    leaf = vectors.clone().requires_grad_(True)
    loss = target_loss(lm, leaf, rows, shared_prompt)
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_and_gradient_are_those_of_peft(architecture: str) -> None:
    lm = tiny_lm(architecture, layers=2)
    rows = rows_of(lm, [("a12 =", " 345"), ("bcd =", " 678")])
    prompt = init_prompt(lm, LENGTH, "random", seed=0).vectors
    loss, gradient = loss_and_gradient(lm, prompt, rows)

    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=LENGTH)
    reference = peft.get_peft_model(tiny_lm(architecture, layers=2).model, config)
    parameter = reference.prompt_encoder["default"].embedding.weight
    parameter.data = prompt.clone()
    ids = torch.tensor([question + target for question, target in rows])
    labels = torch.tensor([[-100] * len(question) + target for question, target in rows])
    expected = reference(input_ids=ids, labels=labels).loss
    expected.backward()
    targets = sum(len(target) for _, target in rows)
    torch.testing.assert_close(loss / targets, expected.detach(), rtol=1e-5, atol=1e-6)
    assert (gradient / targets - parameter.grad).norm() < 1e-5 * parameter.grad.norm()


@pytest.mark.parametrize("shortest", ["", "a"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_prompt_that_is_shared_is_one_in_front_of_each_row(architecture: str, shortest: str) -> None:
    lm = tiny_lm(architecture, layers=2)
    rows = rows_of(lm, [("a far longer question =", " 2"), ("c =", " a far longer answer"), (shortest, " 4")])
    prompt = init_prompt(lm, LENGTH, "random", seed=0).vectors
    shared, plain = (loss_and_gradient(lm, prompt, rows, shared_prompt) for shared_prompt in (True, False))
    for ours, theirs in zip(shared, plain, strict=True):
        assert (ours - theirs).norm() < 1e-5 * theirs.norm()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "mistral"])
def test_padding_changes_neither_loss_nor_gradient(architecture: str) -> None:
    lm = tiny_lm(architecture, layers=2)
    rows = rows_of(lm, [("a", " 1"), ("a far longer question =", " 2"), ("c =", " a far longer answer"), ("", " 4")])
    prompt = init_prompt(lm, LENGTH, "random", seed=0).vectors
    together = loss_and_gradient(lm, prompt, rows)
    alone = [loss_and_gradient(lm, prompt, [row]) for row in rows]
    for batched, single in zip(together, map(sum, zip(*alone, strict=True)), strict=True):
        assert (batched - single).norm() < 1e-5 * single.norm()


@pytest.mark.parametrize("architecture", ["lfm2", "falcon_h1", "mamba", "qwen3_next"])
def test_the_gradient_of_a_hybrid_is_the_model_s_own_on_one_row_at_a_time(architecture: str) -> None:
    lm = tiny_lm(architecture)
    rows = rows_of(lm, [("a", " 1"), ("a far longer question =", " 2"), ("c =", " a far longer answer")])
    prompt = init_prompt(lm, LENGTH, "random", seed=0).vectors
    leaf, expected = prompt.clone().requires_grad_(True), torch.zeros(())
    for question, target in rows:
        embedded = torch.cat([leaf, lm.embed(torch.tensor(question + target))])[None]
        logits = lm.model(inputs_embeds=embedded, use_cache=False).logits[0, LENGTH + len(question) - 1 : -1]
        expected = expected + cross_entropy(logits, torch.tensor(target), reduction="sum")
    loss, gradient = loss_and_gradient(lm, prompt, rows)
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-5)
    own = torch.autograd.grad(expected, leaf)[0]
    assert (gradient - own).norm() < 1e-5 * own.norm()


def test_the_prompt_runs_through_the_model_once_for_all_rows(lm: FrozenLM, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, forward = [], lm.model.forward

    def counting(inputs_embeds: Tensor, **keywords: Any) -> object:
        seen.append(tuple(inputs_embeds.shape[:2]))
        return forward(inputs_embeds=inputs_embeds, **keywords)

    monkeypatch.setattr(lm.model, "forward", counting)
    rows = rows_of(lm, TRAIN)
    target_loss(lm, init_prompt(lm, LENGTH, "random", seed=0).vectors, rows)
    assert seen == [(1, LENGTH), (len(rows), max(len(question) + len(target) for question, target in rows) - 1)]


def test_a_model_that_cannot_leave_out_logits_gives_the_same_loss(
    lm: FrozenLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, prompt = rows_of(lm, TRAIN), init_prompt(lm, LENGTH, "random", seed=0).vectors
    expected, forward = target_loss(lm, prompt, rows), lm.model.forward

    def without(inputs_embeds: Tensor, past_key_values: Cache, use_cache: bool) -> object:
        return forward(inputs_embeds=inputs_embeds, past_key_values=past_key_values, use_cache=use_cache)

    monkeypatch.setattr(lm.model, "forward", without)
    torch.testing.assert_close(target_loss(lm, prompt, rows), expected)


def test_the_end_token_closes_every_target_and_is_learned(lm: FrozenLM) -> None:
    ((question, target),) = rows_of(lm, [("q", " a")])
    assert (lm.decode(question), lm.decode(target), target[-1]) == ("q", " a", lm.end_ids[0])
    prompt = init_prompt(lm, LENGTH, "random", seed=0).vectors
    embedded = torch.cat((prompt, lm.embed(torch.tensor(question + target))))[None]
    logs = lm.model(inputs_embeds=embedded).logits[0].log_softmax(dim=1)
    expected = -sum(logs[LENGTH + at, token] for at, token in enumerate(target))
    torch.testing.assert_close(target_loss(lm, prompt, [(question, target)]), expected)


def test_an_epoch_sees_every_row_once_in_an_order_of_its_own() -> None:
    lengths = [n * 37 % 101 for n in range(250)]
    first = epoch_updates(lengths, 8, seed=0, epoch=0)
    assert sorted(index for update in first for index in update) == list(range(250))
    assert sorted(map(len, first)) == [2, *[8] * 31]
    assert epoch_updates(lengths, 8, seed=0, epoch=0) == first
    assert first != epoch_updates(lengths, 8, seed=0, epoch=1) != epoch_updates(lengths, 8, seed=1, epoch=0)


def test_updates_hold_rows_of_like_length_in_no_order_of_length() -> None:
    lengths = [n * 37 % 101 for n in range(512)]
    updates = epoch_updates(lengths, 8, seed=0, epoch=0)
    longest = [max(lengths[index] for index in update) for update in updates]
    padding = sum(top * len(update) for top, update in zip(longest, updates, strict=True)) / sum(lengths)
    assert padding < 1.15
    assert longest[:16] != sorted(longest[:16])
    at_random = epoch_updates(lengths, 8, seed=0, epoch=0, by_length=False)
    assert sorted(index for update in at_random for index in update) == list(range(512))
    spread = [max(lengths[index] for index in update) - min(lengths[index] for index in update) for update in at_random]
    assert sum(spread) / len(spread) > 60


def test_a_row_may_fill_the_limit_and_not_exceed_it(lm: FrozenLM) -> None:
    row = ("12345", " 7")
    assert len(encode_rows(lm, [row], 2, 10, "training")) == 1
    with pytest.raises(UserError, match=r"training row 1: 10 tokens, .* where 9 fit"):
        encode_rows(lm, [row], 2, 9, "training")
