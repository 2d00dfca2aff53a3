"""Flow maps: saliency and attention of every layer, compared with eager attention, and their files."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpc.errors import UserError
from dpc.flow.flow_map import FlowMap, fits_a_map, flow_map, map_arrays, save_arrays
from dpc.flow.saliency import prompt_saliency
from dpc.model.lm import FrozenLM
from dpc.prompt.prefix import compute_prefixes
from dpc.report.flow_data import read_flow
from dpc.types import Spans
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
    register_reference,
)
from tests.tiny_models import ARCHITECTURES, CONTEXT, WINDOW, tiny_lm

shared_lm = functools.cache(tiny_lm)


def eager_attention(lm: FrozenLM, case: Instance, implementation: str = "eager") -> torch.Tensor:
    """Mean over heads of what the model itself reports: layers, rows after the prompt, all columns."""
    with attention(lm, implementation), torch.no_grad():
        _, out = own_loss(lm, case, output_attentions=True)
    return torch.stack([each[0].mean(0) for each in out.attentions])[:, PROMPT:]


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gpt_oss"])
@pytest.mark.parametrize("question", [0, QUESTION])
def test_all_layers_equal_eager_attention_with_retained_gradients(architecture: str, question: int) -> None:
    lm = shared_lm(architecture)
    case = instance(lm, question=question)
    found, product = flow_map(lm, *case), oracle(lm, case)
    assert found.saliency.shape == (3, question + RATIONALE, PROMPT + question + RATIONALE)
    assert layer_errors(found.saliency, product.sum(1).abs()[:, PROMPT:]) < 1e-5
    assert layer_errors(found.attention, eager_attention(lm, case)) < 1e-5
    before = flow_map(lm, *case, head_reduction="sum_of_abs")
    assert layer_errors(before.saliency, product.abs().sum(1)[:, PROMPT:]) < 1e-5


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "mistral"])
def test_both_maps_are_exact_in_float64(architecture: str) -> None:
    lm = float64_lm(architecture)
    case, reference = instance(lm), register_reference()
    found = flow_map(lm, *case)
    assert found.saliency.dtype == found.attention.dtype == torch.float64
    assert layer_errors(found.saliency, oracle(lm, case, reference).sum(1).abs()[:, PROMPT:]) < 1e-9
    assert layer_errors(found.attention, eager_attention(lm, case, reference)) < 1e-9


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
@pytest.mark.parametrize("layers", [None, [2], [2, 0]])
def test_the_first_columns_are_what_the_method_computes(architecture: str, layers: list[int] | None) -> None:
    lm = shared_lm(architecture)
    case = prompt, question, rationale = instance(lm)
    columns = flow_map(lm, *case, layers).prompt_columns()
    [own] = prompt_saliency(lm, prompt, [question], [rationale], layers)
    assert layer_errors(columns.scores, own.scores) < 1e-5
    assert (columns.spans, columns.layers, columns.head_reduction) == (own.spans, own.layers, own.head_reduction)
    assert columns.loss == pytest.approx(own.loss, rel=1e-6)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gpt_oss"])
def test_attention_rows_are_causal_and_sum_to_one(architecture: str) -> None:
    found = flow_map(shared_lm(architecture), *instance(shared_lm(architecture)))
    row = torch.arange(PROMPT, PROMPT + QUESTION + RATIONALE)[:, None]
    after = torch.arange(PROMPT + QUESTION + RATIONALE)[None] > row
    assert found.attention[:, after].count_nonzero() == found.saliency[:, after].count_nonzero() == 0
    given = found.attention.sum(-1)
    if architecture == "gpt_oss":  # its sinks get the rest
        assert (given < 1).all()
    else:
        torch.testing.assert_close(given, torch.ones_like(given), rtol=1e-5, atol=0)
    if architecture == "mistral":
        beyond = row - torch.arange(PROMPT + QUESTION + RATIONALE)[None] >= WINDOW
        assert found.attention[0][beyond].count_nonzero() == 0


def test_all_layers_take_one_pass_after_a_given_prefix() -> None:
    lm = shared_lm("llama")
    case = instance(lm)
    [prefix] = compute_prefixes(lm, case[0][None])
    passes: list[int] = []
    with lm.model.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    ):
        given = flow_map(lm, *case, prefix=prefix)
    # The rows after the prompt, then final norm and head at the positions that predict a token.
    assert passes == [QUESTION + RATIONALE, RATIONALE]
    assert layer_errors(given.saliency, flow_map(lm, *case).saliency) < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rationale": []}, "empty rationale"),
        ({"rationale": [5] * CONTEXT}, "exceed the context of 512"),
        ({"layers": [3]}, "layer 3: model 'tiny-llama' has layers 0 to 2"),
        ({"soft_prompt": torch.full((5, 32), torch.inf)}, "saliency is not finite"),
    ],
)
def test_bad_input_is_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    lm = shared_lm("llama")
    given = dict(zip(("soft_prompt", "question", "rationale"), instance(lm), strict=True)) | change
    with pytest.raises(UserError, match=message) as caught:
        flow_map(lm, **given)
    assert "\n" not in str(caught.value)


def small_map(layers: int = 2, prompt: int = 2, question: int = 1, rationale: int = 3) -> FlowMap:
    shape = (layers, question + rationale, prompt + question + rationale)
    numbers = torch.rand(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    spans = Spans.of(prompt, question, rationale)
    return FlowMap(numbers[0], numbers[1], spans, tuple(range(1, layers + 1)), 0.5, "abs_of_sum")


HOSTILE = ["שלום", "</script>\x00🙂", "\n", ""]


def test_the_report_reads_what_was_written(tmp_path: Path) -> None:
    flow, path = small_map(), tmp_path / "maps" / "0.npz"
    save_arrays(path, map_arrays(flow, HOSTILE) | {"example_id": np.array("zoo/test/7")})
    example_id, found = read_flow(path)
    np.testing.assert_allclose(found.saliency, flow.saliency.numpy(), rtol=1e-6)
    np.testing.assert_allclose(found.attention, flow.attention.numpy(), rtol=1e-6)
    assert found.saliency.dtype == found.attention.dtype == np.float32
    assert found.tokens == ("p0", "p1", *HOSTILE)
    assert (example_id, found.layers, found.spans) == ("zoo/test/7", (1, 2), ((0, 2), (2, 3), (3, 6)))


def test_every_position_has_its_label() -> None:
    with pytest.raises(ValueError, match="5 tokens for 4 positions"):
        map_arrays(small_map(), [*HOSTILE, "more"])


def test_a_map_grows_with_the_square_of_the_sequence() -> None:
    lm = shared_lm("llama")
    assert fits_a_map(lm, 100, 100, 200)
    assert not fits_a_map(lm, 100, 1000, 1500)
