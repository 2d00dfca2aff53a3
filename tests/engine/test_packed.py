"""A pass without padding: where each token stands, and in which grid it attends."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from dpc.engine.packed import Reading, pack


@given(st.data())
def test_a_pack_holds_every_token_once_and_its_grids_know_where(data: st.DataObject) -> None:
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
        tokens = grid.tokens.flatten()[grid.places]
        # A token reads the row that it belongs to.
        assert torch.equal(cached.repeat_interleave(grid.tokens.shape[1])[grid.places], packed.rows[tokens])
        assert grid.length > int(packed.positions[tokens].max())
        attended += tokens.tolist()
    # What attention gives back, grid after grid, stands in the pack's order.
    assert attended == list(range(len(packed.ids)))
