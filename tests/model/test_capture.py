"""Attention is captured exactly as the model computes it, or refused. The model does not change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)
from transformers.models.llama import modeling_llama

from dpc.errors import UserError
from dpc.flow.saliency import prompt_saliency
from dpc.model import capture
from dpc.model.attention_call import AttentionCall
from dpc.model.capture import capture_attention
from dpc.model.eager_check import check_reproduces
from dpc.model.lm import FrozenLM
from tests.eager_oracle import instance, own_loss
from tests.tiny_models import HIDDEN, byte_tokenizer, tiny_config, tiny_lm


def unchanged(layer: int, call: AttentionCall, output: Tensor) -> Tensor:
    return output


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_model_and_prompt_do_not_change(architecture: str) -> None:
    lm = tiny_lm(architecture)
    lm.model.requires_grad_(True)
    prompt, question, rationale = case = instance(lm)
    tuned = prompt.clone().requires_grad_()
    before = lm.model.config._attn_implementation

    def logits() -> Tensor:
        with torch.no_grad():
            return own_loss(lm, case)[1].logits

    def fail(layer: int, call: AttentionCall, output: Tensor) -> Tensor:
        raise ArithmeticError

    expected = logits()
    prompt_saliency(lm, tuned, [question], [rationale])
    with pytest.raises(ArithmeticError), capture_attention(lm.model, [1], fail):
        logits()
    assert lm.model.config._attn_implementation == before
    assert tuned.grad is None
    assert all(weight.grad is None and weight.requires_grad for weight in lm.model.parameters())
    assert torch.equal(logits(), expected)


def test_nested_models_get_their_own_implementation_back() -> None:
    text = tiny_config("llama", 258)
    sight = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
    )
    config = LlavaConfig(text_config=text, vision_config=sight, image_token_index=3)
    model = LlavaForConditionalGeneration(config).eval().requires_grad_(False)
    chosen = {"": "sdpa", "text_config": "eager", "vision_config": "sdpa"}
    model.set_attn_implementation(chosen)
    parts = (model.config, model.config.text_config, model.config.vision_config)
    with capture_attention(model, [0, 1, 2], unchanged):
        assert {part._attn_implementation for part in parts} == {capture.IMPLEMENTATION}
        model(inputs_embeds=torch.zeros(1, 4, HIDDEN), use_cache=False)
    assert [part._attn_implementation for part in parts] == list(chosen.values())


def test_a_model_without_exchangeable_attention_is_refused() -> None:
    config = BloomConfig(vocab_size=258, hidden_size=HIDDEN, n_layer=2, n_head=4)
    lm = FrozenLM(BloomForCausalLM(config).eval(), byte_tokenizer(), name="tiny-bloom", revision="")
    with pytest.raises(UserError, match=r"^BloomForCausalLM has no exchangeable attention .*choose a model"):
        prompt_saliency(lm, torch.zeros(5, HIDDEN), [[5]], [[6]])


@pytest.mark.parametrize(
    ("keywords", "reason"),
    [
        ({"position_bias": torch.zeros(1)}, "uses position_bias, which cannot be reproduced"),
        ({"cu_seq_lens_q": torch.zeros(1)}, "uses cu_seq_lens_q, which cannot be reproduced"),
        ({"is_causal": False}, "gave no mask although its attention is not plainly causal"),
    ],
)
def test_attention_with_an_unknown_keyword_is_refused(keywords: dict[str, Any], reason: str) -> None:
    lm = tiny_lm("gpt_neox")
    case = instance(lm)
    with pytest.raises(UserError, match=reason), capture_attention(lm.model, [0], unchanged):
        own_loss(lm, case, **keywords)


def test_attention_that_differs_from_the_models_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm("llama", torch.bfloat16)
    eager = modeling_llama.eager_attention_forward

    def sharper(*args: Any, scaling: float, **kwargs: Any) -> Any:
        return eager(*args, scaling=scaling * 1.001, **kwargs)

    monkeypatch.setattr(modeling_llama, "eager_attention_forward", sharper)
    with pytest.raises(UserError, match=r"^model 'tiny-llama': attention of layer 0 differs from the model's own"):
        check_reproduces(lm)
    monkeypatch.undo()
    check_reproduces(lm)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_that_differs_from_the_models_own_is_refused(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def everything(batch_size: int, q_length: int, kv_length: int, **_: Any) -> Tensor:
        return torch.ones(batch_size, 1, q_length, kv_length, dtype=torch.bool)

    lm = tiny_lm("qwen3", dtype)
    monkeypatch.setattr(capture, "sdpa_mask", everything)
    with pytest.raises(UserError, match=r"attention of layer 0 differs from the model's own"):
        check_reproduces(lm)
    monkeypatch.setattr(capture, "sdpa_mask", lambda **_: None)
    with pytest.raises(UserError, match=r"MistralAttention gave no mask"):
        check_reproduces(tiny_lm("mistral", dtype))


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_a_mask_that_differs_after_a_prefix_is_refused(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = capture._mask

    def late(*, q_length: int, kv_length: int, **keywords: Any) -> Tensor | None:
        if q_length == kv_length:
            return mask(q_length=q_length, kv_length=kv_length, **keywords)
        # The last rows are masked like the first.
        return torch.ones(q_length, kv_length, dtype=torch.bool).tril()[None, None]

    lm = tiny_lm(architecture)
    monkeypatch.setattr(capture, "_mask", late)
    with pytest.raises(UserError, match=rf"^model 'tiny-{architecture}': logits after a prefix differ"):
        check_reproduces(lm)
    monkeypatch.undo()
    check_reproduces(lm)


def test_rounded_logits_of_eager_attention_are_no_reason_to_refuse_a_model() -> None:
    """A few large biases, as in some Qwen2 models: eager attention in bfloat16 rounds probabilities by up to a half."""
    lm, generator = tiny_lm("qwen2", torch.bfloat16, layers=6), torch.Generator().manual_seed(1)
    for name, bias in lm.model.named_parameters():
        if name.endswith(("q_proj.bias", "k_proj.bias")):
            bias[torch.randperm(len(bias), generator=generator)[: len(bias) // 8]] = 60.0
    check_reproduces(lm)


def test_a_model_is_compared_with_its_own_attention_once() -> None:
    lm = tiny_lm("llama")
    passes: list[None] = []
    lm.model.register_forward_pre_hook(lambda module, args: passes.append(None))
    prompt, question, rationale = instance(lm)
    for expected in (9, 10, 11):
        prompt_saliency(lm, prompt, [question], [rationale], way="whole")
        assert len(passes) == expected


def test_every_layer_must_be_seen_exactly_once() -> None:
    lm = tiny_lm("llama")
    case = instance(lm)
    with (
        pytest.raises(UserError, match=r"ran attention layer 1 more than once"),
        capture_attention(lm.model, [1], unchanged),
    ):
        own_loss(lm, case), own_loss(lm, case)
    with (
        pytest.raises(UserError, match=r"no softmax attention in layers \[7\]"),
        capture_attention(lm.model, [7], unchanged),
    ):
        own_loss(lm, case)
    with (
        capture_attention(lm.model, [], unchanged),
        pytest.raises(RuntimeError, match="already being captured"),
        capture_attention(lm.model, [], unchanged),
    ):
        pass


def test_training_mode_is_refused() -> None:
    lm = tiny_lm("gpt2")
    lm.model.train()
    with pytest.raises(UserError, match=r"training mode .*call model.eval\(\)"):
        check_reproduces(lm)
