"""Tiny random models of every architecture of ``tests/architectures``, with a byte tokenizer built in memory."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from dpc.model.lm import FrozenLM
from tests.architectures import TABLE
from tests.architectures.entry import CONTEXT, HEADS, HIDDEN, KV_HEADS, WEIGHT_STD, WINDOW

__all__ = ["ARCHITECTURES", "CONTEXT", "EOS", "HEADS", "HIDDEN", "KV_HEADS", "PAD", "WINDOW"]
__all__ += ["byte_tokenizer", "tiny_config", "tiny_lm"]

# Those that the tests of single parts run on; tests/architectures compares every other one as a whole.
# Of several tests for every architecture, the default run keeps these.
_BY_DEFAULT = ("llama", "gemma2", "gpt2", "gpt_oss")
ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gpt2", "gpt_neox", "phi3", "olmo2")
EOS, PAD = "<eos>", "<pad>"


def few_by_default(*names: str) -> list[Any]:
    """Parameters of a test: all architectures are slow but a few."""
    return [name if name in _BY_DEFAULT else pytest.param(name, marks=pytest.mark.slow) for name in names]


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte: ``<eos>`` is 0, ``<pad>`` is 1, then the 256 bytes; no special tokens are added to a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([EOS, PAD, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD)


def tiny_config(architecture: str, vocab: int, layers: int | None = None) -> PreTrainedConfig:
    """Configuration of a tiny model: grouped heads where they exist, windows and soft caps small enough to bite."""
    return TABLE[architecture].config(vocab, layers)


def tiny_lm(
    architecture: str, dtype: torch.dtype = torch.float32, seed: int = 0, layers: int | None = None
) -> FrozenLM:
    """A frozen random model (width 32, 258 tokens, context 512): same seed, same weights in every ``dtype``."""
    tokenizer = byte_tokenizer()
    config = tiny_config(architecture, len(tokenizer), layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
        if TABLE[architecture].small_weights:
            _redraw(model)
        for key, parameter in model.named_parameters():
            # Doge: at zero or below, many keys have the same bias, and chance decides which are kept.
            if key.endswith("self_attn.A"):
                nn.init.uniform_(parameter, 0.5, 1.5)
    model = model.to(dtype).eval().requires_grad_(False)
    return FrozenLM(model=model, tokenizer=tokenizer, name=f"tiny-{architecture}", revision=f"seed-{seed}")


def _redraw(model: PreTrainedModel) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=WEIGHT_STD)
