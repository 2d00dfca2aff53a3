"""Passes on embeddings, rows side by side and windows of any length are compared with the model's own forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.models.llama import modeling_llama

from dpc.engine import Decoder
from dpc.errors import UserError
from dpc.flow.saliency import prompt_saliency
from dpc.model import context
from dpc.model.eager_check import check_reproduces
from dpc.model.lm import FrozenLM
from dpc.model.own_check import check_own_passes
from dpc.model.short_windows import short_windows
from dpc.prompt.tuning import tune
from dpc.settings import TuningSettings
from tests.model.test_context import LONGROPE, rope_lm
from tests.model.test_features import NOT_PER_LAYER, PER_LAYER, SMALL
from tests.tiny_models import ARCHITECTURES, byte_tokenizer, tiny_lm


def small_lm(kind: str, changes: dict[str, Any]) -> FrozenLM:
    config = CONFIG_MAPPING[kind](**(SMALL | changes | {"initializer_range": 0.25}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
        for parameter in model.parameters():
            # Some begin as zeros, and would hide what they scale.
            parameter.data += 0.1 * torch.randn(parameter.shape)
    return FrozenLM(model.eval().requires_grad_(False), byte_tokenizer(), kind, "")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_supported_architecture_passes(architecture: str, dtype: torch.dtype) -> None:
    check_own_passes(tiny_lm(architecture, dtype))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        # Without token ids, Gemma 3n leaves out what its layers look up, and Gemma 4 finds no token for a vector.
        ("gemma3n_text", "a pass on embeddings differs from the model's own"),
        ("gemma4_text", r"a pass on embeddings fails \(RuntimeError: "),
    ],
)
def test_per_layer_embeddings_are_found_out_without_their_name(kind: str, reason: str) -> None:
    with pytest.raises(UserError, match=rf"^model '{kind}': {reason}"):
        check_own_passes(small_lm(kind, PER_LAYER | {"num_kv_shared_layers": 0}))


def every_use(lm: FrozenLM, tmp_path: Any) -> list[Callable[[], object]]:
    return [
        lambda: Decoder(lm),
        lambda: prompt_saliency(lm, torch.zeros(4, lm.hidden_size), [[5, 6]], [[7, 8]]),
        lambda: tune(lm, [("a", "b")], [], TuningSettings(length=2, steps=1), tmp_path / "out"),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frequencies_that_depend_on_the_longest_row_are_found_out_whatever_names_them(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(context, "_rope_parameters", lambda given: ())
    lm = rope_lm("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 48})
    lm.model.to(dtype)
    assert lm.context == 512
    for use in every_use(lm, tmp_path):
        with pytest.raises(UserError, match="a row beside another at position 511 differs from the model's own"):
            use()


def test_errors_of_a_models_own_code_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm("llama")

    def broken(*_: Any, **__: Any) -> Tensor:
        raise IndexError("list index\nout of range")

    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", broken)
    with pytest.raises(
        UserError, match=r"^model 'tiny-llama': a pass on embeddings fails \(IndexError: list index\); "
    ):
        Decoder(lm)


@pytest.mark.parametrize(
    ("kind", "field", "changes"),
    [("mistral", "sliding_window", {}), ("llama4_text", "attention_chunk_size", {"num_local_experts": 2})],
)
def test_long_windows_are_short_for_a_while(kind: str, field: str, changes: dict[str, Any]) -> None:
    lm = small_lm(kind, changes | {field: 300})
    ids = torch.randint(2, 258, (1, 40), generator=torch.Generator().manual_seed(0))
    whole = lm.model(input_ids=ids, use_cache=False).logits
    with short_windows(lm.model):
        assert getattr(lm.config, field) == 12
        short = lm.model(input_ids=ids, use_cache=False).logits
    assert getattr(lm.config, field) == 300
    assert torch.equal(lm.model(input_ids=ids, use_cache=False).logits, whole)
    torch.testing.assert_close(short[:, :12], whole[:, :12])
    assert (short[:, 12:] - whole[:, 12:]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gemma4_text", NOT_PER_LAYER | {"sliding_window": 300, "global_head_dim": 8}),
        ("llama4_text", {"attention_chunk_size": 300, "num_local_experts": 2}),
    ],
)
def test_models_with_long_windows_and_chunks_pass(kind: str, changes: dict[str, Any]) -> None:
    lm = small_lm(kind, changes)
    check_reproduces(lm)
    Decoder(lm)
