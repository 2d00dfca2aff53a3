"""A decoder with slots compares its passes with the model's own attention first, and refuses a model that differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from dpc.engine import Decoder, Request, packed, slot_attention
from dpc.engine.pace import ON_GPU
from dpc.engine.slot_cache import SlotCache, SlotLayer
from dpc.engine.slot_check import check_slots_reproduce
from dpc.engine.slot_model import SlotModel
from dpc.errors import UserError
from dpc.model.eager_check import check_reproduces
from dpc.model.position_mask import position_mask
from dpc.prompt.prefix import PromptPrefix
from dpc.settings import DecodingSettings
from tests.tiny_models import ARCHITECTURES, tiny_lm

Break = Callable[[pytest.MonkeyPatch], None]
EVERY = [*ARCHITECTURES, "gpt_oss"]


@pytest.mark.parametrize("pace", ["cpu", "gpu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", EVERY)
def test_every_supported_architecture_passes(
    architecture: str, dtype: torch.dtype, pace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if architecture == "gpt_oss" and dtype == torch.float64:
        pytest.skip("the experts of gpt-oss do not compute in float64")
    if pace == "gpu":
        monkeypatch.setattr("dpc.engine.slot_model.pace_on", lambda device: ON_GPU)
    check_slots_reproduce(tiny_lm(architecture, dtype))


def changed_call(**changes: Any) -> Break:
    """Attention of slots that leaves out what the model passes."""
    read_call = slot_attention.read_call

    def broken(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(slot_attention, "read_call", lambda *given: replace(read_call(*given), **changes))

    return broken


def wrong_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    attend = slot_attention._attend
    monkeypatch.setattr(slot_attention, "_attend", lambda module, query, *rest: attend(module, query * 1.3, *rest))


def heads_out_of_order(monkeypatch: pytest.MonkeyPatch) -> None:
    attend = slot_attention._attend
    monkeypatch.setattr(slot_attention, "_attend", lambda module, query, *rest: attend(module, query.flip(1), *rest))


def masked_by(change: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Break:
    """A mask with ``change(readable, row position, column)`` in place of the model's own rule."""

    def broken(monkeypatch: pytest.MonkeyPatch) -> None:
        def mask(*, mask_function: Callable[..., Tensor], **given: Any) -> Tensor:
            def rule(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
                return change(mask_function(batch, head, row, column), row, column)

            return position_mask(mask_function=rule, **given)

        monkeypatch.setattr(slot_attention, "position_mask", mask)

    return broken


def scattered_to(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Break:
    """Keys and values are written to ``change(rows, positions)``."""

    def broken(monkeypatch: pytest.MonkeyPatch) -> None:
        update = SlotLayer.update

        def moved(self: SlotLayer, *states: Tensor) -> tuple[Tensor, Tensor]:
            assert self.layout is not None
            rows, positions = change(self.layout.rows, self.layout.positions)
            self.layout = replace(self.layout, rows=rows, positions=positions)
            return update(self, *states)

        monkeypatch.setattr(SlotLayer, "update", moved)

    return broken


def prefix_one_position_late(monkeypatch: pytest.MonkeyPatch) -> None:
    insert = SlotCache.insert

    def late(self: SlotCache, row: int, prefix: PromptPrefix) -> None:
        # The question is written over what is pushed out at the end.
        parts = (tuple(pad(part, (0, 0, 1, 0)) for part in parts) for parts in (prefix.keys, prefix.values))
        insert(self, row, PromptPrefix(*parts))

    monkeypatch.setattr(SlotCache, "insert", late)


def padding_over_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    padded = SlotModel.padded

    def broken(self: SlotModel, readings: Any) -> tuple[Tensor, Tensor, int]:
        ids, positions, length = padded(self, readings)
        return ids, positions.masked_fill(positions >= self.capacity, 0), length

    monkeypatch.setattr(SlotModel, "padded", broken)


def grids_out_of_order(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = packed._grid

    def broken(*given: Any) -> packed.Grid:
        made = grid(*given)
        return replace(made, tokens=made.tokens.flip(1))

    monkeypatch.setattr(packed, "_grid", broken)


def packed_one_position_late(monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = packed._ranges
    monkeypatch.setattr(packed, "_ranges", lambda starts, counts: ranges(starts + (starts > 0), counts))


def changeable(lm: FrozenLM) -> list[Any]:
    """What the check changes about a model while it runs."""
    hooks = [(len(module._forward_hooks), "forward" in module.__dict__) for module in lm.model.modules()]
    return [lm.model.config._attn_implementation, *hooks]


BREAKS: list[tuple[str, Break, str]] = [
    ("llama", wrong_scale, "attention of layer 0"),
    ("gemma2", changed_call(softcap=None), "attention of layer 0"),
    ("gpt_oss", changed_call(sinks=None), "attention of layer 0"),
    ("llama", heads_out_of_order, "attention of layer 0"),
    # Rows attend to the position after their own: the next token of a draft, or what the slot held before.
    ("llama", masked_by(lambda readable, row, column: column <= row + 1), "attention of layer 0"),
    ("llama", masked_by(lambda readable, row, column: (column <= row) & (column > 0)), "attention of layer 0"),
    # The model's sliding window is ignored, or one position too long.
    ("mistral", masked_by(lambda readable, row, column: column <= row), "attention of layer 0"),
    ("gemma2", masked_by(lambda readable, row, column: column <= row), "attention of layer 0"),
    ("mistral", masked_by(lambda readable, row, column: (column <= row) & (column > row - 11)), "attention of layer 0"),
    ("llama", scattered_to(lambda rows, positions: (rows, positions.flip(0))), "attention of layer 0"),
    ("llama", scattered_to(lambda rows, positions: (rows.flip(0), positions)), "attention of layer 0"),
    ("llama", prefix_one_position_late, "attention of layer 0"),
    ("llama", padding_over_the_prompt, "padded pass"),
    ("llama", grids_out_of_order, "packed pass"),
    ("gpt2", packed_one_position_late, "the input of block 0 in a packed pass"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("architecture", "broken", "reason"), BREAKS)
def test_a_decoder_that_would_write_something_else_is_refused(
    architecture: str, broken: Break, reason: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = tiny_lm(architecture, dtype)
    broken(monkeypatch)
    # None of these breaks the attention that is captured for saliency.
    check_reproduces(lm)
    before = changeable(lm)
    with pytest.raises(UserError, match=rf"^model 'tiny-{architecture}': .*{reason}.*decoding\.slots=false$"):
        Decoder(lm)
    assert changeable(lm) == before
    monkeypatch.undo()
    Decoder(lm)


@pytest.mark.parametrize("window", [100, 400, 4096])
def test_windows_of_any_length_are_checked(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm("mistral")
    lm.model.config.sliding_window = window
    masked_by(lambda readable, row, column: column <= row)(monkeypatch)
    with pytest.raises(UserError, match="attention of layer 0"):
        check_slots_reproduce(lm)
    assert lm.model.config.sliding_window == window


def test_a_model_object_is_checked_once_for_each_way_of_decoding() -> None:
    lm, other = tiny_lm("llama"), tiny_lm("llama")
    passes: list[None] = []
    for each in (lm, other):
        each.model.register_forward_pre_hook(lambda module, args: passes.append(None))
    Decoder(lm, DecodingSettings(slots=False))
    plain = len(passes)
    Decoder(lm, DecodingSettings(slots=False))
    assert len(passes) == plain > 0
    Decoder(other, DecodingSettings(slots=False))
    passes.clear()
    Decoder(lm)
    checked = len(passes)
    assert checked > 5
    Decoder(lm, DecodingSettings(batch_size=2))
    assert len(passes) == checked
    Decoder(other)
    assert len(passes) == 2 * checked


def test_a_context_too_short_to_be_checked_is_refused() -> None:
    lm = tiny_lm("llama")
    lm.model.config.max_position_embeddings = 12
    with pytest.raises(UserError, match=r"^model 'tiny-llama': a context of 12 tokens, expected at least 17"):
        Decoder(lm)
    lm.model.config.max_position_embeddings = 17
    assert Decoder(lm).all([Request([20, 21])], 4)
