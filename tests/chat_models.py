"""A tiny random model with a chat template: one token a byte, a start token in front of texts, turns that end."""

from __future__ import annotations

from dataclasses import replace

import torch
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from dpc.model.lm import FrozenLM
from tests.tiny_models import byte_tokenizer, tiny_config, tiny_lm

START, TURN, TURN_END = "<s>", "<|turn|>", "<|end|>"
TEMPLATE = (
    "{{ bos_token }}{% if messages[0]['role'] != 'system' %}<|turn|>system\nBe brief.<|end|>\n{% endif %}"
    "{% for message in messages %}<|turn|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


def chat_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """The byte tokenizer with three more special tokens, of which ``<s>`` starts every text."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"bos_token": START, "additional_special_tokens": [TURN, TURN_END]})
    start = tokenizer.convert_tokens_to_ids(START)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, start)]
    )
    tokenizer.chat_template = template
    return tokenizer


def chat_lm(template: str | None = TEMPLATE, stops_at_turn_end: bool = True) -> FrozenLM:
    """A frozen random Llama. stops_at_turn_end: as instruct models do; else only at ``<eos>``, as base models."""
    tokenizer = chat_tokenizer(template)
    config = tiny_config("llama", len(tokenizer), 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    ends = [0, tokenizer.convert_tokens_to_ids(TURN_END)] if stops_at_turn_end else 0
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=1)
    model.eval().requires_grad_(False)
    return replace(tiny_lm("llama", layers=1), model=model, tokenizer=tokenizer, name="tiny-chat", revision="seed-0")


def by_hand(tokenizer: PreTrainedTokenizerFast, *parts: str) -> list[int]:
    """Token ids of parts: a special token each, or bytes."""
    alphabet = byte_tokenizer()
    ids = []
    for part in parts:
        special = part in (START, TURN, TURN_END)
        ids += [tokenizer.convert_tokens_to_ids(part)] if special else alphabet(part)["input_ids"]
    return ids
