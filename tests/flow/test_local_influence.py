"""The last block alone tells what a whole backward pass tells about the trigger."""

from __future__ import annotations

import pytest
import torch

from dpc.engine import Decoded, Decoder, Request
from dpc.errors import UserError
from dpc.flow.local_check import local_is_exact
from dpc.flow.local_influence import local_influence
from dpc.flow.measures import rationale_influence
from dpc.flow.saliency import prompt_saliency
from dpc.model.capture import read_call
from dpc.model.lm import FrozenLM
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.settings import DecodingSettings
from dpc.types import HeadReduction
from tests.tiny_models import ARCHITECTURES, few_by_default, tiny_lm


def decoded_for(lm: FrozenLM, trail: bool = True) -> list[Decoded]:
    """Answers of many lengths under two prompts, one that ended at once left out."""
    lm.model.generation_config.eos_token_id = [7, 9, *range(100, 105)]
    generator = torch.Generator().manual_seed(4)
    prompts = [SoftPrompt.of(torch.randn(length, lm.hidden_size, generator=generator), lm.name) for length in (6, 3)]
    questions = [torch.randint(10, 99, (2 + 5 * i,), generator=generator).tolist() for i in range(8)]
    requests = [Request(q, prompts[i % 2], trail=trail, tag=i) for i, q in enumerate(questions)]
    decoder = Decoder(lm, DecodingSettings(batch_size=3))
    decoder.submit(requests)
    return sorted((each for each in decoder.drain(30) if each.generation.ids), key=lambda each: each.request.tag)


@pytest.mark.parametrize("head_reduction", ["abs_of_sum", "sum_of_abs"])
@pytest.mark.parametrize("architecture", few_by_default(*ARCHITECTURES, "gpt_oss"))
def test_equals_the_last_layer_of_the_whole_saliency(architecture: str, head_reduction: HeadReduction) -> None:
    lm = tiny_lm(architecture)
    decoded = decoded_for(lm)
    assert len({len(each.generation.ids) for each in decoded}) > 1
    for each, local in zip(decoded, local_influence(lm, decoded, head_reduction), strict=True):
        assert each.request.soft_prompt is not None
        vectors, written = each.request.soft_prompt.vectors, each.generation.ids
        [whole] = prompt_saliency(
            lm, vectors, [each.request.question], [written], [lm.layers - 1], head_reduction, way="whole"
        )
        expected = rationale_influence(whole)
        assert local.at.shape == expected.shape
        assert float((local.at - expected).norm()) <= 1e-5 * float(expected.norm())
        assert local.loss == pytest.approx(whole.loss, rel=1e-5)
        assert local.at[-1] == 0


def test_float64_agrees_to_its_own_precision() -> None:
    lm = tiny_lm("gpt2", torch.float64)
    decoded = decoded_for(lm)
    for each, local in zip(decoded, local_influence(lm, decoded), strict=True):
        assert each.request.soft_prompt is not None
        [whole] = prompt_saliency(
            lm, each.request.soft_prompt.vectors, [each.request.question], [each.generation.ids], [lm.layers - 1]
        )
        torch.testing.assert_close(local.at, rationale_influence(whole), rtol=1e-9, atol=1e-14)


def test_an_instance_does_not_depend_on_its_neighbours() -> None:
    lm = tiny_lm("llama")
    decoded = decoded_for(lm)
    together = local_influence(lm, decoded)
    for each, local in zip(decoded, together, strict=True):
        [alone] = local_influence(lm, [each])
        torch.testing.assert_close(alone.at, local.at, rtol=1e-4, atol=1e-9)
    assert local_influence(lm, []) == []


def test_an_answer_without_a_trail_is_a_mistake_of_the_caller() -> None:
    lm = tiny_lm("llama")
    with pytest.raises(ValueError, match="trail=True"):
        local_influence(lm, decoded_for(lm, trail=False))


def test_the_last_block_alone_is_enough_where_a_model_repeats_heads_before_its_attention() -> None:
    lm = tiny_lm("jetmoe")
    assert local_is_exact(lm)


def test_heads_that_are_no_multiple_of_those_of_keys_are_refused_before_a_kernel_divides_by_zero() -> None:
    module = tiny_lm("llama").model.model.layers[0].self_attn
    query, key = torch.randn(1, 2, 3, 8), torch.randn(1, 4, 3, 8)
    with pytest.raises(UserError, match="has 2 heads and 4 of keys"):
        read_call(module, query, key, key, None, {"scaling": 1.0})
