"""Saliency (Eq 1) against eager attention with retained gradients and against finite differences."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from dpc.errors import UserError
from dpc.flow.saliency import prompt_saliency, saliency_block
from dpc.model.attention_call import AttentionCall
from dpc.model.capture import capture_attention
from dpc.model.lm import FrozenLM
from dpc.types import Saliency
from tests.eager_oracle import (
    PROMPT,
    QUESTION,
    RATIONALE,
    Instance,
    attention,
    float64_lm,
    instance,
    layer_errors,
    oracle,
    own_loss,
    prompt_columns,
    register_reference,
    relative_error,
)
from tests.tiny_models import ARCHITECTURES, CONTEXT, HEADS, HIDDEN, WINDOW, tiny_lm

COMPUTES_IN_FLOAT64 = ("gpt2", "gpt_neox")

shared_lm = functools.cache(tiny_lm)


def saliency(lm: FrozenLM, case: Instance, **options: Any) -> Saliency:
    prompt, question, rationale = case
    [result] = prompt_saliency(lm, prompt, [question], [rationale], **options)
    return result


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gpt_oss"])
def test_scores_equal_eager_attention_with_retained_gradients(architecture: str) -> None:
    lm = shared_lm(architecture)
    case = instance(lm)
    result = saliency(lm, case)
    assert result.scores.shape == (3, QUESTION + RATIONALE, PROMPT)
    assert layer_errors(result.scores, prompt_columns(oracle(lm, case))) < 1e-5
    assert result.loss == pytest.approx(own_loss(lm, case)[0].item(), rel=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_are_exact_in_float64_where_the_model_computes_in_float64(architecture: str) -> None:
    lm = shared_lm(architecture, torch.float64) if architecture in COMPUTES_IN_FLOAT64 else float64_lm(architecture)
    case = instance(lm)
    result = saliency(lm, case)
    assert result.scores.dtype == torch.float64
    assert layer_errors(result.scores, prompt_columns(oracle(lm, case, register_reference()))) < 1e-9


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float64_models_as_shipped_agree_as_far_as_their_own_rounding_goes(architecture: str) -> None:
    # The library rounds to float32 inside a float64 model: the softmax of eager attention everywhere but in GPT-2, and
    # the norms everywhere but in GPT-2 and GPT-NeoX.
    lm = shared_lm(architecture, torch.float64)
    case = instance(lm)
    error = layer_errors(saliency(lm, case).scores, prompt_columns(oracle(lm, case)))
    assert error < (1e-9 if architecture == "gpt2" else 1e-5)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2"])
def test_scores_equal_finite_differences_of_the_loss(architecture: str) -> None:
    lm = float64_lm(architecture)
    case = instance(lm)
    scores = saliency(lm, case).scores
    step, probability = 1e-5, {}

    def loss(layer: int, head: int, row: int, column: int, change: float) -> float:
        def nudge(index: int, probabilities: Tensor) -> Tensor:
            if index != layer:
                return probabilities
            probability[head] = probabilities[0, head, row, column].item()
            changed = probabilities.clone()
            changed[0, head, row, column] += change
            return changed

        with attention(lm, register_reference(nudge)), torch.no_grad():
            return own_loss(lm, case)[0].item()

    for layer, row, column in [(0, 6, 0), (0, 13, 4), (1, 11, 2), (1, 19, 3), (2, 12, 4), (2, 11, 3)]:
        total = 0.0
        for head in range(HEADS):
            slope = loss(layer, head, row, column, step) - loss(layer, head, row, column, -step)
            total += probability[head] * slope / (2 * step)
        assert scores[layer, row - PROMPT, column].item() == pytest.approx(abs(total), rel=1e-5)
        assert total


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_last_layer_is_local(architecture: str) -> None:
    # With the loss of one rationale token alone, its own row is the same up to the mean, and all others are zero.
    lm = shared_lm(architecture)
    prompt, question, rationale = case = instance(lm)
    whole = saliency(lm, case, layers=[2]).scores[0] * len(rationale)
    for position in (0, 2, 4):
        alone = saliency(lm, (prompt, question + rationale[:position], [rationale[position]]), layers=[2]).scores[0]
        row = len(question) + position - 1
        assert relative_error(alone[row], whole[row]) < 1e-5
        assert alone.count_nonzero() == alone[row].count_nonzero() > 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_prompt_is_a_prefix(architecture: str) -> None:
    lm = shared_lm(architecture)

    def prompt_keys_and_values(case: Instance) -> list[Tensor]:
        kept: list[Tensor] = []

        def keep(layer: int, call: AttentionCall, output: Tensor) -> Tensor:
            kept.extend((call.key[:, :, :PROMPT], call.value[:, :, :PROMPT], output[:, :, :PROMPT]))
            return output

        with torch.no_grad(), capture_attention(lm.model, None, keep):
            own_loss(lm, case)
        return kept

    prompt, question, rationale = instance(lm)
    kept = prompt_keys_and_values((prompt, question, rationale))
    other = prompt_keys_and_values((prompt, question[::-1], rationale[::-1]))
    assert len(kept) == 3 * lm.layers
    for ours, theirs in zip(kept, other, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_instance_does_not_depend_on_the_others(architecture: str) -> None:
    lm = shared_lm(architecture)
    prompt = instance(lm)[0]
    cases = [instance(lm, seed, 3 + 4 * seed, 12 - 5 * seed) for seed in range(3)]
    batch = prompt_saliency(lm, prompt, [case[1] for case in cases], [case[2] for case in cases])
    for together, (_, question, rationale) in zip(batch, cases, strict=True):
        alone = saliency(lm, (prompt, question, rationale))
        assert together.spans == alone.spans
        assert together.scores.shape == (3, len(question) + len(rationale), PROMPT)
        assert layer_errors(together.scores, alone.scores) < 1e-5
        assert together.loss == pytest.approx(alone.loss, rel=1e-6)


def test_rows_are_the_question_then_the_rationale() -> None:
    lm = shared_lm("llama")
    result = saliency(lm, instance(lm))
    assert (result.spans.prompt, result.spans.question) == (slice(0, PROMPT), slice(PROMPT, PROMPT + QUESTION))
    assert result.question_rows == slice(0, QUESTION)
    assert result.rationale_rows == slice(QUESTION, QUESTION + RATIONALE)
    # The last token predicts nothing, so its row in the last layer has no gradient.
    assert result.scores[-1, -1].count_nonzero() == 0
    assert result.scores[-1, :-1][QUESTION - 1 :].count_nonzero() == RATIONALE * PROMPT


def test_question_may_be_empty() -> None:
    lm = shared_lm("llama")
    prompt, _, rationale = instance(lm)
    case = (prompt, [], rationale)
    assert layer_errors(saliency(lm, case).scores, prompt_columns(oracle(lm, case))) < 1e-5


def test_absolute_values_may_be_taken_before_the_sum_over_heads() -> None:
    lm = shared_lm("qwen2")
    case = instance(lm)
    product = oracle(lm, case)
    before, after = saliency(lm, case, head_reduction="sum_of_abs"), saliency(lm, case)
    assert layer_errors(before.scores, product.abs().sum(1)[:, PROMPT:, :PROMPT]) < 1e-5
    assert (before.scores >= after.scores * (1 - 1e-6)).all()
    assert not torch.allclose(before.scores, after.scores, rtol=1e-2)
    assert (before.head_reduction, after.head_reduction) == ("sum_of_abs", "abs_of_sum")


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
@pytest.mark.parametrize("layers", [[0], [2], [2, 1], [0, 2]])
def test_chosen_layers_equal_the_same_layers_of_all(architecture: str, layers: list[int]) -> None:
    lm = shared_lm(architecture)
    case = instance(lm)
    some = saliency(lm, case, layers=layers)
    assert some.layers == tuple(sorted(layers))
    torch.testing.assert_close(some.scores, saliency(lm, case).scores[sorted(layers)], rtol=1e-5, atol=1e-8)


def test_a_block_may_be_any_part_of_the_whole_matrix() -> None:
    lm = shared_lm("mistral")
    case = instance(lm)
    kept: list[tuple[AttentionCall, Tensor]] = []

    def keep(layer: int, call: AttentionCall, output: Tensor) -> Tensor:
        output = output.detach().requires_grad_()
        kept.append((call.detach(), output))
        return output

    with capture_attention(lm.model, [1], keep):
        loss, _ = own_loss(lm, case)
    [(call, output)] = kept
    [gradient] = torch.autograd.grad(loss, output)
    whole = oracle(lm, case)[1].sum(0).abs()
    for rows, columns in [(slice(0, 23), slice(0, 23)), (slice(3, 9), slice(6, 20)), (slice(22, 23), slice(0, 1))]:
        [block] = saliency_block(call, gradient, rows, columns)
        torch.testing.assert_close(block, whole[rows, columns], rtol=1e-4, atol=1e-8)


def test_a_sliding_window_hides_the_prompt_from_rows_beyond_it() -> None:
    lm = shared_lm("mistral")
    scores = saliency(lm, instance(lm)).scores[0]
    row = torch.arange(PROMPT, PROMPT + len(scores))[:, None]
    beyond = row - torch.arange(PROMPT)[None] >= WINDOW
    assert scores[beyond].count_nonzero() == 0
    assert scores[~beyond].count_nonzero() == (~beyond).sum() > 0


def test_sixteen_bit_models_are_reduced_in_float32() -> None:
    lm, exact = shared_lm("llama", torch.bfloat16), tiny_lm("llama")
    exact.model.load_state_dict({name: weight.float() for name, weight in lm.model.state_dict().items()})
    prompt, question, rationale = instance(lm)
    case = (prompt.bfloat16(), question, rationale)
    result = saliency(lm, case)
    assert result.scores.dtype == torch.float32
    # What remains is the rounding of the model's own activations.
    assert relative_error(result.scores, saliency(exact, case).scores) < 0.1


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_if_the_caller_has_disabled_gradients(context: Callable[[], Any]) -> None:
    lm = shared_lm("llama")
    case = instance(lm)
    with context():
        off = saliency(lm, case)
    torch.testing.assert_close(off.scores, saliency(lm, case).scores, rtol=0, atol=0)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"rationale": []}, "instance 0: empty rationale"),
    ({"rationale": [5] * CONTEXT}, r"instance 0: 522 positions .* exceed the context of 512"),
    ({"question": [258]}, "instance 0: token 258 is not among the 258"),
    ({"question": [-1]}, "instance 0: token -1 is not among the 258"),
    ({"prompt": torch.zeros(5, HIDDEN + 1)}, "soft prompt of 5 vectors of width 33: .* width 32"),
    ({"prompt": torch.zeros(0, HIDDEN)}, "soft prompt of 0 vectors"),
    ({"prompt": torch.full((5, HIDDEN), torch.inf)}, "saliency is not finite"),
    ({"layers": [3]}, "layer 3: model 'tiny-llama' has layers 0 to 2"),
    ({"layers": [-1]}, "layer -1: "),
    ({"layers": []}, "layers: expected at least one"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_bad_input_is_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    lm = shared_lm("llama")
    prompt, question, rationale = instance(lm)
    given = {"prompt": prompt, "question": question, "rationale": rationale} | change
    with pytest.raises(UserError, match=message) as caught:
        saliency(lm, (given["prompt"], given["question"], given["rationale"]), layers=given.get("layers"))
    assert "\n" not in str(caught.value)


def test_as_many_rationales_as_questions() -> None:
    lm = shared_lm("llama")
    prompt, question, rationale = instance(lm)
    with pytest.raises(UserError, match="2 questions and 1 rationales"):
        prompt_saliency(lm, prompt, [question, question], [rationale])
    none: Sequence[Sequence[int]] = []
    assert prompt_saliency(lm, prompt, none, none) == []


@pytest.mark.parametrize("way", ["by block", "one graph", "whole"])
def test_loss_scaling_changes_no_digit(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = shared_lm("llama")
    scaled = saliency(lm, instance(lm), way=way)
    assert lm.gradient_scale > 1
    monkeypatch.setattr(FrozenLM, "gradient_scale", 1.0)
    assert torch.equal(scaled.scores, saliency(lm, instance(lm), way=way).scores)


def test_half_precision_has_no_loss_scale() -> None:
    assert tiny_lm("llama", torch.float16).gradient_scale == 1
