"""The scheduling policy for a GPU, tested on a CPU: fixed shapes, several steps between reads, grouped prefill."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dpc.engine import Decoder, Request
from dpc.engine.pace import ON_CPU, ON_GPU, pace_on
from dpc.engine.packed import Reading
from dpc.engine.slot_model import SlotModel
from dpc.engine.slots import SlotDecoder
from dpc.settings import DecodingSettings
from tests.engine.test_slots import alone, lm_with_many_ends, requests_for, soft_prompt
from tests.tiny_models import ARCHITECTURES, few_by_default

Shapes = list[tuple[int, int, int]]


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> Shapes:
    """Decoders use the policy for a GPU. The fixture holds rows, tokens a row and positions of every padded pass."""
    taken: Shapes = []
    make = SlotModel._pass

    def noted(self: SlotModel, ids: Tensor, positions: Tensor, length: int, trail: bool, likelihood: bool) -> Tensor:
        taken.append((*ids.shape, length))
        return make(self, ids, positions, length, trail, likelihood)

    monkeypatch.setattr("dpc.engine.slot_model.pace_on", lambda device: ON_GPU)
    monkeypatch.setattr(SlotModel, "_pass", noted)
    return taken


@pytest.mark.parametrize("architecture", few_by_default(*ARCHITECTURES, "gpt_oss"))
def test_answers_are_the_same_under_both_policies(architecture: str, shapes: Shapes) -> None:
    lm = lm_with_many_ends(architecture)
    requests = requests_for(lm, 12, [soft_prompt(lm), None, soft_prompt(lm, 3, seed=1)])
    expected = alone(lm, requests, 24)
    for draft_tokens in (0, 3):
        decoder = Decoder(lm, DecodingSettings(batch_size=4, draft_tokens=draft_tokens))
        assert decoder.all(requests, 24) == expected
        drafted = [replace(request, draft=answer.ids) for request, answer in zip(requests, expected, strict=True)]
        assert decoder.all(drafted, 24) == expected
    assert shapes


def test_padded_passes_have_few_shapes(shapes: Shapes) -> None:
    lm = lm_with_many_ends("llama")
    requests = requests_for(lm, 200, [soft_prompt(lm), soft_prompt(lm, 9, seed=1)], longest=150)
    answers = Decoder(lm, DecodingSettings(batch_size=16)).all(requests, 60)
    assert answers == Decoder(lm, DecodingSettings(batch_size=16, slots=False)).all(requests, 60)
    rows, widths, lengths = (set(each) for each in zip(*shapes, strict=True))
    assert rows <= {2, 4, 8, 16}
    assert widths <= {1, 2, 3, 5, 9, 17}
    assert lengths <= {128, 256}
    assert len(shapes) > 5 * len(set(shapes))


def test_requests_are_admitted_together(shapes: Shapes, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = lm_with_many_ends("llama")
    decoder = Decoder(lm, DecodingSettings(batch_size=16))
    admitted: list[int] = []
    insert = SlotModel.insert
    monkeypatch.setattr(
        SlotModel, "insert", lambda self, rows, prefixes: (admitted.append(len(rows)), insert(self, rows, prefixes))[1]
    )
    decoder.all(requests_for(lm, 60, [soft_prompt(lm)]), 40)
    assert sum(admitted) == 60
    # The last ones may be fewer.
    assert all(number >= 2 for number in admitted[:-1])


@pytest.mark.parametrize(("drafting", "verified"), [(3, False), (6, True)])
def test_drafts_are_verified_if_many_rows_have_one(
    drafting: int, verified: bool, shapes: Shapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = lm_with_many_ends("llama", [257])
    requests = [Request([20 + i] * 20, soft_prompt(lm), tag=i) for i in range(8)]
    monkeypatch.setattr(
        SlotDecoder, "_draft", lambda self, slot: () if slot.prefilling or slot.request.tag >= drafting else (30,)
    )
    answers = Decoder(lm, DecodingSettings(batch_size=8)).all(requests, 40)
    assert answers == alone(lm, requests, 40)
    assert {width for _, width, _ in shapes} == ({2} if verified else {1})


def test_padding_does_not_change_other_rows(shapes: Shapes) -> None:
    lm = lm_with_many_ends("llama")
    model = SlotModel(lm, 3)
    texts = [[20 + i for i in range(30)], [40 + i for i in range(25)]]
    model.read([Reading(row, 0, text) for row, text in enumerate(texts)], trail=True)
    before = model.trail(0, 0, 30)
    [[_, *_]] = model.read([Reading(1, 25, [50, 51, 52], kept=3)], trail=True)
    after = model.trail(0, 0, 30)
    assert shapes == [(2, 3, 128)]
    assert all(torch.equal(getattr(before, part), getattr(after, part)) for part in ("hidden", "keys", "values"))


def test_a_cpu_and_a_gpu_have_different_policies() -> None:
    assert pace_on(torch.device("cpu")) is ON_CPU
    assert pace_on(torch.device("cuda", 1)) is pace_on(torch.device("mps")) is ON_GPU
