"""A device that cannot be used is refused with the reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import ModernBertDecoderConfig, ModernBertDecoderForCausalLM

from dpc.errors import UserError
from dpc.model.blocks import decoder_blocks
from dpc.model.device import device_of
from tests.tiny_models import tiny_lm


@pytest.mark.parametrize(
    ("name", "reason"),
    [("meta", "meta tensors"), ("hpu", "No module named"), ("nonsense", "Expected one of")],
)
def test_a_device_that_cannot_be_used_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(UserError, match=rf"--device {name}: can't be used here \(.*{reason}.*\); expected auto, cpu"):
        device_of(name)


def test_a_device_without_free_memory_is_not_called_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "ones", full)
    with pytest.raises(torch.OutOfMemoryError):
        device_of("cpu")


def test_an_end_token_that_is_the_question_s_own_stays() -> None:
    lm = tiny_lm("llama")
    [colon] = lm.encode_continuation(":")
    lm.model.generation_config.eos_token_id = [0, colon]
    assert lm.encode_text("Answer:") == lm.encode_continuation("Answer:")
    assert lm.encode_text("Answer:")[-1] == colon


def test_an_end_token_that_the_tokenizer_appends_is_left_out() -> None:
    lm = tiny_lm("llama")
    lm.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<pad> $A <eos>", special_tokens=[("<pad>", 1), ("<eos>", 0)]
    )
    assert lm.tokenizer("Answer:")["input_ids"][-1] == 0
    assert lm.encode_text("Answer:") == [1, *lm.encode_continuation("Answer:")]


def test_blocks_are_found_where_a_class_calls_its_head_the_decoder() -> None:
    config = ModernBertDecoderConfig(
        vocab_size=258, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, pad_token_id=1
    )
    model = ModernBertDecoderForCausalLM(config)
    assert [id(block) for block in decoder_blocks(model)] == [id(block) for block in model.model.layers]
