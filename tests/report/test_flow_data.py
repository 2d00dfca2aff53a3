"""Maps on a page: what pooling and a byte a cell lose is bounded and said, and curves are those of the paper."""

from __future__ import annotations

import base64
import zlib
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dpc.flow.measures import accumulation_profile, has_accumulated, prompt_to_question, prompt_to_rationale
from dpc.report import flow_data
from dpc.report.flow_data import DEEPEST, Flow, flow_json, quantize
from dpc.settings import MethodSettings
from dpc.types import Saliency, Spans
from tests.report import made_run

LAYERS, P = made_run.LAYERS, made_run.P
SETTINGS = MethodSettings(accumulation_k=2.0)


def flow(question: int = 20, rationale: int = 31, seed: int = 0) -> Flow:
    made = made_run.arrays([f"q{i}" for i in range(question)], [f"r{i}" for i in range(rationale)], seed)
    (p0, p1), (q0, q1), (r0, r1) = made["spans"].tolist()
    spans = ((p0, p1), (q0, q1), (r0, r1))
    return Flow(made["saliency"], made["attention"], tuple(made["tokens"].tolist()), spans, tuple(range(LAYERS)))


def restored(told: dict[str, Any], name: str) -> np.ndarray[Any, Any]:
    """The values of a map as the scripts restore them."""
    kept, columns = told["maps"][name], len(told["bins"])
    codes = np.frombuffer(zlib.decompress(base64.b64decode(kept["data"])), np.uint8)
    codes = codes.reshape(len(told["layers"]), columns - told["groups"][1][1], columns)
    values = kept["low"] * (kept["high"] / kept["low"]) ** ((codes.astype(float) - 1) / 254)
    found: np.ndarray[Any, Any] = np.where(codes == 0, 0.0, values)
    return found


@settings(deadline=None)
@given(arrays(np.float64, (3, 4), elements=st.floats(0, 1e30) | st.just(0.0)))
def test_a_byte_keeps_zero_as_zero_and_the_largest_as_it_is(values: np.ndarray[Any, Any]) -> None:
    codes, low, high = quantize(values)
    assert ((codes == 0) == (values == 0)).all()
    if values.any():
        assert high == values.max()
        assert codes.max() == (255 if high > low else 1) or high == low
        assert low >= high * DEEPEST * (1 - 1e-12)


@pytest.mark.parametrize("name", ["saliency", "attention"])
def test_a_value_between_both_ends_is_kept_to_the_error_that_is_said(name: str) -> None:
    made = flow()
    told, own = flow_json(made, SETTINGS, None), getattr(made, name).astype(float)
    kept = told["maps"][name]
    inside = own >= kept["low"]
    assert inside.mean() > 0.3
    found = restored(told, name)
    error = np.abs(found[inside] / own[inside] - 1).max()
    assert error <= kept["error"] * (1 + 1e-6)
    assert error > kept["error"] / 2
    below = (own > 0) & ~inside
    assert (found[below] == kept["low"]).all()


@pytest.mark.parametrize("question", [1, 20, 41])
def test_a_long_map_is_pooled_to_the_largest_of_each_cell_and_says_so(
    question: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_data, "MOST_CELLS", 4000)
    made = flow(question)
    told = flow_json(made, SETTINGS, None)
    pool, bins = told["pool"], told["bins"]
    assert pool > 1
    assert 2 * LAYERS * (len(bins) - told["groups"][1][1]) * len(bins) <= 4000
    assert all(stop - start <= pool for start, stop in bins)
    assert (bins[0][0], bins[-1][1]) == (0, len(made.tokens))
    assert all(a[1] == b[0] for a, b in pairwise(bins))
    found = restored(told, "saliency")
    first = told["groups"][1][1]
    for (name, start, stop), span in zip(told["groups"], made.spans, strict=True):
        assert (bins[start][0], bins[stop - 1][1]) == span, name
    for row in (0, len(bins) - first - 1):
        rows = slice(*(at - P for at in bins[row + first]))
        for column in (0, first, len(bins) - 1):
            cell = made.saliency[:, rows, slice(*bins[column])].astype(float).max(axis=(1, 2))
            expected = np.where(cell > 0, np.maximum(cell, told["maps"]["saliency"]["low"]), 0)
            assert found[:, row, column] == pytest.approx(expected, rel=told["maps"]["saliency"]["error"] * 1.001)


def test_a_short_map_is_not_pooled() -> None:
    told = flow_json(flow(), SETTINGS, None)
    assert told["pool"] == 1
    assert told["bins"] == [(at, at + 1) for at in range(P + 51)]


def test_layer_curves_and_gathering_columns_are_equations_2_to_7(monkeypatch: pytest.MonkeyPatch) -> None:
    made = flow()
    scores = torch.from_numpy(made.saliency[:, :, :P])
    oracle = Saliency(scores, Spans.of(P, 20, 31), made.layers, 0.0, "abs_of_sum")
    monkeypatch.setattr(flow_data, "MOST_CELLS", 4000)
    told = flow_json(made, SETTINGS, None)
    assert told["pool"] > 1
    assert told["curves"]["saliency"]["question"] == pytest.approx(prompt_to_question(oracle).tolist(), rel=1e-3)
    assert told["curves"]["saliency"]["rationale"] == pytest.approx(prompt_to_rationale(oracle).tolist(), rel=1e-3)
    for layer, columns in enumerate(told["gathering"]["saliency"]):
        profile = accumulation_profile(oracle, [layer])
        assert bool(columns) == has_accumulated(profile, 2.0)
        assert columns == (profile > 2 * profile.mean()).nonzero().flatten().tolist()
    assert told["gathering"]["saliency"][1] == [3]


def test_a_map_opens_on_the_shallow_layer_in_which_the_key_token_gathers_most() -> None:
    made = flow()
    settings = MethodSettings(shallow_start=0.4, shallow_stop=0.8)
    shallow = range(round(0.4 * LAYERS), round(0.8 * LAYERS) + 1)
    means = {layer: made.saliency[layer, :, 7].mean() for layer in shallow}
    assert list(means) == [2, 3, 4]
    assert flow_json(made, settings, 7)["opens"] == max(means, key=lambda layer: means[layer])
    assert flow_json(made, settings, None)["opens"] == 4
    # In layer 1 virtual token 3 gathers far more than in any other.
    assert flow_json(made, MethodSettings(shallow_start=0.0, shallow_stop=0.8), 3)["opens"] == 1
    assert flow_json(made, settings, 3)["opens"] != 1


def test_empty_questions_and_maps_of_zeros_are_shown() -> None:
    told = flow_json(flow(question=0), SETTINGS, None)
    assert told["curves"]["saliency"]["question"] == []
    made = flow()
    zero = Flow(np.zeros_like(made.saliency), made.attention, made.tokens, made.spans, made.layers)
    assert not restored(flow_json(zero, SETTINGS, None), "saliency").any()
