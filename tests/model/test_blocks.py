"""The decoder blocks of a model are found, and their forward functions replaced and restored."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dpc.errors import UserError
from dpc.model.blocks import decoder_blocks, replaced_forward, softmax_blocks
from tests.eager_oracle import instance, own_loss
from tests.tiny_models import ARCHITECTURES, tiny_lm


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gpt_oss"])
def test_blocks_are_those_that_hold_the_attention_of_each_layer(architecture: str) -> None:
    lm = tiny_lm(architecture)
    indices = [
        {module.layer_idx for module in block.modules() if hasattr(module, "layer_idx")}
        for block in decoder_blocks(lm.model)
    ]
    assert indices == [{0}, {1}, {2}]


def test_a_model_without_one_list_of_blocks_is_refused() -> None:
    lm = tiny_lm("llama")
    lm.model.model.more = nn.ModuleList(nn.Identity() for _ in range(3))
    with pytest.raises(UserError, match=r"^LlamaForCausalLM: 2 lists of 3 modules, expected one list"):
        decoder_blocks(lm.model)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_blocks_compute_something_else_only_inside(architecture: str) -> None:
    lm = tiny_lm(architecture)
    case = instance(lm)
    before = own_loss(lm, case)[1].logits
    seen: list[int] = []

    def around(layer: int, forward: Any) -> Any:
        def run(*arguments: Any, **keywords: Any) -> Any:
            seen.append(layer)
            return forward(*arguments, **keywords)

        return run

    with replaced_forward(lm.model, around):
        assert torch.equal(own_loss(lm, case)[1].logits, before)
    assert seen == [0, 1, 2]
    with replaced_forward(lm.model, lambda layer, forward: lambda states, *_, **__: states):
        assert not torch.equal(own_loss(lm, case)[1].logits, before)
    assert torch.equal(own_loss(lm, case)[1].logits, before)


def test_blocks_are_put_back_after_an_error() -> None:
    lm = tiny_lm("llama")

    def fail(*_: Any, **__: Any) -> Any:
        raise ArithmeticError

    with pytest.raises(ArithmeticError), replaced_forward(lm.model, lambda layer, forward: fail):
        own_loss(lm, instance(lm))
    assert not any("forward" in block.__dict__ for block in decoder_blocks(lm.model))


@pytest.mark.parametrize(
    ("name", "layers"), [("lfm2", (1, 3)), ("falcon_h1", (0, 1, 2)), ("zamba2", (1, 3)), ("mamba", ())]
)
def test_blocks_with_softmax_attention_are_known_without_a_pass(name: str, layers: tuple[int, ...]) -> None:
    assert softmax_blocks(tiny_lm(name).model) == layers
