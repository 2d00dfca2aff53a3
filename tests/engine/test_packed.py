"""Packed passes: the position of each token, and the grid in which its attention is computed."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from dpc.engine.packed import Reading, pack


@given(st.data())
def test_a_pack_has_every_token_once_and_grids_refer_to_it(data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=8, unique=True))
    readings = []
    for row in rows:
        tokens = data.draw(st.lists(st.integers(1, 99), min_size=1, max_size=data.draw(st.sampled_from([3, 40]))))
        kept = data.draw(st.integers(1, len(tokens)))
        readings.append(Reading(row, data.draw(st.integers(0, 20)), tokens, kept))
    packed = pack(readings, torch.device("cpu"))
    assert len(packed.ids) == sum(len(reading.tokens) for reading in readings)
    seen = {
        (int(row), int(at)): int(token)
        for row, at, token in zip(packed.rows, packed.positions, packed.ids, strict=True)
    }
    assert seen == {(r.row, r.start + i): token for r in readings for i, token in enumerate(r.tokens)}
    for reading, share in zip(readings, packed.shares, strict=True):
        assert packed.ids[packed.kept[share]].tolist() == list(reading.tokens)[-reading.kept :]
    attended = []
    for grid in packed.grids:
        cached = torch.arange(10)[grid.rows]
        tokens = grid.tokens.flatten()[grid.unpadded]
        # A token attends to its own row.
        assert torch.equal(cached.repeat_interleave(grid.tokens.shape[1])[grid.unpadded], packed.rows[tokens])
        assert grid.length > int(packed.positions[tokens].max())
        attended += tokens.tolist()
    # The outputs of attention, grid after grid, are in the order of the pack.
    assert attended == list(range(len(packed.ids)))
