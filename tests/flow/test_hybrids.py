"""Models that mix softmax attention with convolutions, linear attention or state spaces: flow in the softmax layers.

The truth is the model's own eager attention, with the gradient of each of its matrices kept by autograd.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from dpc.errors import UserError
from dpc.flow import local_check
from dpc.flow.flow_map import flow_map
from dpc.flow.local_check import local_is_exact
from dpc.flow.local_influence import Influence, local_influence
from dpc.flow.saliency import SaliencyWay, prompt_saliency
from dpc.flow.shallow import name_layers, shallow_layers
from dpc.model.eager_check import keeps_only_keys, softmax_layers
from dpc.model.lm import FrozenLM
from tests.eager_oracle import Instance, attention, instance, layer_errors, own_loss, prompt_columns
from tests.tiny_models import tiny_lm

# The layers with softmax attention of each.
SOFTMAX_LAYERS = {
    "bailing_hybrid": (1, 3),
    "bamba": (1, 3),
    "doge": (0, 1, 2),
    "falcon_h1": (0, 1, 2),
    "granitemoehybrid": (1, 3),
    "granitemoehybrid_dense": (1,),
    "jamba": (1, 3),
    "kimi_linear": (1, 3),
    "lfm2": (1, 3),
    "lfm2_conv_last": (1,),
    "lfm2_moe": (1, 3),
    "lfm3": (1, 3),
    "llama4_text": (0, 1, 2, 3),
    "minimax": (1, 3),
    "nemotron_h": (2,),
    "nemotron_h_moe": (2,),
    "olmo_hybrid": (1, 3),
    "qwen3_5_moe_text": (1, 3),
    "qwen3_5_text": (1, 3),
    "qwen3_next": (1, 3),
    "recurrent_gemma": (2,),
    "zamba": (1, 3),
    "zamba2": (1, 3),
    "zaya": (0, 1, 2),
}
WITHOUT_SOFTMAX = ("mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm")
FAST = ("lfm2", "qwen3_next", "falcon_h1")
WAYS: tuple[SaliencyWay, ...] = ("auto", "by block", "one graph", "whole")
# The last block has softmax attention, and nothing beside it that looks at other positions.
LOCAL = {
    *("bamba", "doge", "granitemoehybrid", "jamba", "lfm2", "lfm2_moe", "lfm3", "olmo_hybrid", "recurrent_gemma"),
    *("qwen3_5_moe_text", "qwen3_5_text", "qwen3_next"),
}


def fast_and_slow(names: Iterable[str], fast: Iterable[str] = FAST) -> list[Any]:
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


def eager_truth(lm: FrozenLM, case: Instance) -> tuple[Tensor, float]:
    """``A * dL/dA`` of each softmax layer ``[layer head row column]``, and the loss."""
    length = sum(map(len, case))
    with attention(lm, "eager"):
        loss, out = own_loss(lm, case, output_attentions=True)
    # MiniMax reports the states of its linear attention as well.
    matrices = [part for part in out.attentions if part is not None and part.shape[2:] == (length, length)]
    for part in matrices:
        part.retain_grad()
    loss.backward()
    return torch.stack([(part.detach() * part.grad)[0] for part in matrices]), float(loss.detach())


def two_cases(lm: FrozenLM) -> list[Instance]:
    """Two instances of one prompt, the second shorter: in a batch it is padded by more than a chunk of eight."""
    longer, (_, question, rationale) = instance(lm, 0, 5, 21), instance(lm, 1, 6, 9)
    return [longer, (longer[0], question, rationale)]


@pytest.mark.parametrize("name", fast_and_slow(SOFTMAX_LAYERS))
def test_saliency_is_that_of_the_model_s_own_softmax_layers(name: str) -> None:
    lm = tiny_lm(name)
    cases = two_cases(lm)
    truths = [eager_truth(lm, case) for case in cases]
    assert softmax_layers(lm) == SOFTMAX_LAYERS[name]
    for way in WAYS:
        found = prompt_saliency(lm, cases[0][0], [c[1] for c in cases], [c[2] for c in cases], way=way)
        for ours, (product, loss) in zip(found, truths, strict=True):
            assert ours.layers == SOFTMAX_LAYERS[name]
            assert layer_errors(ours.scores, prompt_columns(product)) < 5e-5
            assert ours.loss == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("name", fast_and_slow(SOFTMAX_LAYERS))
def test_a_map_has_every_column_of_each_softmax_layer(name: str) -> None:
    lm = tiny_lm(name)
    case = two_cases(lm)[0]
    product, _ = eager_truth(lm, case)
    found = flow_map(lm, *case)
    assert found.layers == SOFTMAX_LAYERS[name]
    assert layer_errors(found.saliency, product.sum(1).abs()[:, len(case[0]) :]) < 5e-5


def test_a_layer_without_softmax_attention_is_refused() -> None:
    lm = tiny_lm("lfm2")
    prompt, question, rationale = instance(lm)
    with pytest.raises(UserError, match=r"^layer 2: .*'tiny-lfm2' has no softmax attention there.*layers 1 and 3$"):
        prompt_saliency(lm, prompt, [question], [rationale], [1, 2])
    with pytest.raises(UserError, match=r"^layer 4: model 'tiny-lfm2' has layers 0 to 3"):
        prompt_saliency(lm, prompt, [question], [rationale], [4])


@pytest.mark.parametrize("name", fast_and_slow(WITHOUT_SOFTMAX, ("mamba", "rwkv")))
def test_a_model_without_softmax_attention_can_not_be_traced(name: str) -> None:
    lm = tiny_lm(name)
    with pytest.raises(UserError, match=r"nothing can be traced, since \w+ForCausalLM has no softmax attention"):
        softmax_layers(lm)


@pytest.mark.parametrize("name", fast_and_slow(SOFTMAX_LAYERS))
def test_the_trigger_reads_the_last_block_alone_only_where_that_is_exact(name: str) -> None:
    assert local_is_exact(tiny_lm(name)) == (name in LOCAL)


def test_a_last_block_that_gives_another_result_is_not_read_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: Any) -> list[Influence]:
        return [Influence(1.01 * each.at, each.before, each.loss) for each in local_influence(*arguments)]

    assert local_is_exact(tiny_lm("gemma2"))
    monkeypatch.setattr(local_check, "local_influence", wrong)
    assert not local_is_exact(tiny_lm("gemma2"))


def test_states_beside_keys_and_values_are_known() -> None:
    assert keeps_only_keys(tiny_lm("doge"))
    assert not keeps_only_keys(tiny_lm("lfm2"))
    # Each of its layers has softmax attention, and a state space beside it.
    assert not keeps_only_keys(tiny_lm("falcon_h1"))


def test_shallow_layers_are_counted_among_those_with_softmax_attention() -> None:
    every_fourth = range(3, 48, 4)
    assert shallow_layers(every_fourth) == (7, 11, 15, 19)
    assert shallow_layers(range(32)) == tuple(range(2, 11))
    assert shallow_layers((5,)) == (5,)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ((3,), "layer 3"),
        ((0, 1), "layers 0 to 1"),
        (range(2, 11), "layers 2 to 10"),
        ((3, 7, 11), "layers 3, 7 and 11"),
    ],
)
def test_layers_are_named(layers: Any, words: str) -> None:
    assert name_layers(layers) == words
