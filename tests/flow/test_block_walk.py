"""Selective activation checkpointing after a prefix gives the same saliency as one graph of the whole sequence."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dpc.errors import UserError
from dpc.flow.saliency import SaliencyWay, prompt_saliency
from dpc.model.eager_check import check_reproduces
from dpc.model.lm import FrozenLM
from dpc.prompt.prefix import compute_prefixes
from dpc.types import Saliency
from tests.eager_oracle import (
    PROMPT,
    QUESTION,
    RATIONALE,
    Instance,
    float64_lm,
    instance,
    layer_errors,
    oracle,
    prompt_columns,
    register_reference,
)
from tests.tiny_models import ARCHITECTURES, HEADS, tiny_lm

COMPUTES_IN_FLOAT64 = ("gpt2", "gpt_neox")

shared_lm = functools.cache(tiny_lm)


def saliency(lm: FrozenLM, case: Instance, **options: Any) -> Saliency:
    prompt, question, rationale = case
    [result] = prompt_saliency(lm, prompt, [question], [rationale], **{"way": "by block", **options})
    return result


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gpt_oss"])
@pytest.mark.parametrize("layers", [None, [1], [0, 2]])
@pytest.mark.parametrize("way", ["by block", "one graph"])
def test_rows_after_a_prefix_equal_the_whole_sequence(
    architecture: str, layers: list[int] | None, way: SaliencyWay
) -> None:
    lm = shared_lm(architecture)
    cases = [instance(lm, seed, 5 - 5 * seed, 11 + 3 * seed) for seed in range(2)]
    arguments = (lm, cases[0][0], [case[1] for case in cases], [case[2] for case in cases], layers)
    made, expected = (prompt_saliency(*arguments, way=each) for each in (way, "whole"))
    for ours, whole in zip(made, expected, strict=True):
        assert layer_errors(ours.scores, whole.scores) < 1e-5
        assert (ours.spans, ours.layers) == (whole.spans, whole.layers)
        assert ours.loss == pytest.approx(whole.loss, rel=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_whole_sequence_in_one_graph_is_exact_in_float64(architecture: str) -> None:
    lm = shared_lm(architecture, torch.float64) if architecture in COMPUTES_IN_FLOAT64 else float64_lm(architecture)
    case = instance(lm)
    truth = prompt_columns(oracle(lm, case, register_reference()))
    assert layer_errors(saliency(lm, case, way="whole").scores, truth) < 1e-9


@pytest.mark.parametrize("architecture", ["olmo", "llama4_text"])
def test_stored_products_that_a_model_changes_in_place_keep_their_values(architecture: str) -> None:
    """OLMo clips queries, keys and values; Llama 4 adds the experts to the output of the shared one."""
    lm = shared_lm(architecture)
    case = instance(lm)
    assert layer_errors(saliency(lm, case).scores, saliency(lm, case, way="whole").scores) < 1e-5


def test_embeddings_may_be_narrower_than_hidden_states() -> None:
    lm = shared_lm("opt_350m")
    case = instance(lm)
    assert layer_errors(saliency(lm, case).scores, prompt_columns(oracle(lm, case))) < 1e-5


def test_a_given_prefix_is_used() -> None:
    lm = shared_lm("llama")
    case = instance(lm)
    [prefix] = compute_prefixes(lm, case[0][None])
    passes: list[int] = []
    with lm.model.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    ):
        given = saliency(lm, case, prefix=prefix)
    # The rows after the prompt, then final norm and head at the positions that predict a token.
    assert passes == [QUESTION + RATIONALE, RATIONALE]
    assert layer_errors(given.scores, saliency(lm, case).scores) < 1e-5
    [short] = compute_prefixes(lm, case[0][None, 1:])
    with pytest.raises(UserError, match="prefix of 4 positions, soft prompt of 5 vectors"):
        saliency(lm, case, prefix=short)


@pytest.mark.parametrize("vectors", [1, PROMPT])
def test_the_loss_of_the_first_token_after_an_empty_question_counts(vectors: int) -> None:
    lm = shared_lm("gpt2")
    prompt, _, rationale = instance(lm)
    case = (prompt[:vectors], [], rationale)
    ours, plain = saliency(lm, case), saliency(lm, case, way="whole")
    assert ours.loss == pytest.approx(plain.loss, rel=1e-6)
    assert layer_errors(ours.scores, plain.scores) < 1e-5


def test_logits_are_computed_a_few_positions_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = shared_lm("gemma2")
    case = instance(lm)
    expected = saliency(lm, case)
    monkeypatch.setattr("dpc.flow.saliency._LOGITS_ON_CPU", 3 * lm.vocab_size)
    passes: list[int] = []
    head = lm.model.get_output_embeddings()
    assert head is not None
    with head.register_forward_hook(lambda module, args, out: passes.append(out.shape[1])):
        parts = saliency(lm, case)
    assert passes[-4:] == [3, 3, 3, 2]
    assert parts.loss == pytest.approx(expected.loss, rel=1e-6)
    assert layer_errors(parts.scores, expected.scores) < 1e-5


class Counted(TorchDispatchMode):
    """Counts multiplications in matrix products; fused attention is not counted."""

    flops = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default):
            self.flops += args[-2].numel() * args[-1].shape[-1]
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_products_are_not_recomputed_in_the_backward_pass(architecture: str) -> None:
    lm = shared_lm(architecture)
    check_reproduces(lm)
    case = instance(lm)

    def products(**options: Any) -> int:
        with Counted() as counted:
            saliency(lm, case, layers=[1, 2], **options)
        return counted.flops

    # Blocks 1 and 2 store all products, so the only difference is the positions of the prompt.
    assert products() < products(way="whole")


def test_a_model_that_changes_hidden_states_between_its_blocks_is_refused() -> None:
    lm = tiny_lm("llama")
    check_reproduces(lm)
    case = instance(lm)
    lm.model.model.layers[1].register_forward_hook(lambda module, args, out: out * 2)
    with pytest.raises(UserError, match="LlamaForCausalLM changes hidden states between its blocks"):
        saliency(lm, case)
    assert saliency(lm, case, way="whole").scores.isfinite().all()


class Largest(TorchDispatchMode):
    """The size of the largest floating-point tensor that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, list | tuple) else [out]:
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma2"])
def test_no_attention_matrix_is_computed(architecture: str) -> None:
    lm = shared_lm(architecture)
    check_reproduces(lm)
    case = instance(lm, question=100, rationale=256 - PROMPT - 100)
    with Largest() as largest:
        saliency(lm, case)
    assert 0 < largest.elements < HEADS * 256 * 256 / 2
    with Largest() as eager:
        oracle(lm, case)
    assert eager.elements >= HEADS * 256 * 256


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma2"])
def test_memory_for_the_backward_pass_is_linear_in_length(architecture: str) -> None:
    lm = shared_lm(architecture)
    check_reproduces(lm)

    def kept(length: int) -> int:
        elements = []

        def pack(tensor: Tensor) -> Tensor:
            elements.append(tensor.numel() * tensor.is_floating_point())
            return tensor

        half = length // 2
        case = instance(lm, question=half - PROMPT, rationale=half)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            saliency(lm, case)
        return sum(elements)

    assert 1.5 < kept(256) / kept(128) < 2.05


def test_backward_pass_stops_at_the_shallowest_layer() -> None:
    lm = tiny_lm("llama")
    recorded = {}
    for index, layer in enumerate(lm.model.model.layers):
        layer.mlp.register_forward_hook(lambda _, args, out, index=index: recorded.update({index: out.requires_grad}))
    saliency(lm, instance(lm), layers=[1, 2])
    assert recorded == {0: False, 1: True, 2: True}
