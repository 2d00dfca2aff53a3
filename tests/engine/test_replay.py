"""CUDA graph capture and replay, with a stand-in for CUDA: new shapes, a reallocated cache, a capture that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dpc.engine import Decoder
from dpc.engine.pace import ON_GPU
from dpc.engine.replay import Replay
from dpc.engine.slot_model import SlotModel
from dpc.settings import DecodingSettings
from tests.engine.test_slots import alone, lm_with_many_ends, requests_for, soft_prompt


class StandIn:
    """Runs a pass again where CUDA would replay its graph: from the graph's own inputs, into its own output.

    where: the address of other memory that a pass uses. A replay after it has changed would use freed memory.
    """

    def __init__(self) -> None:
        self.recorded = self.replayed = 0
        self.capturing: Graph | None = None
        self.where: Callable[[], int] = lambda: 0

    def passes(self, make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(*arguments: Any) -> Tensor:
            output = make(*arguments)
            if self.capturing is not None:
                self.capturing.again = lambda: output.copy_(make(*arguments))
            return output

        return made

    @contextmanager
    def graph(self, graph: Graph, **_: Any) -> Iterator[None]:
        self.capturing = graph
        try:
            yield
        finally:
            self.capturing = None
        graph.where = self.where()
        self.recorded += 1


class Graph:
    """A captured graph."""

    again: Callable[[], Tensor]
    where: int

    def __init__(self, cuda: StandIn) -> None:
        self._cuda = cuda

    def replay(self) -> None:
        assert self.where == self._cuda.where()
        self._cuda.replayed += 1
        self.again()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in, stream = StandIn(), SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {
        "current_stream": lambda device: stream,
        "Stream": lambda device: stream,
        "stream": lambda chosen: nullcontext(),
        "device": lambda chosen: nullcontext(),
        "graph_pool_handle": lambda: (0, 1),
        "CUDAGraph": lambda: Graph(stand_in),
        "graph": stand_in.graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return stand_in


def doubled(cuda: StandIn, calls: list[tuple[int, ...]] | None = None) -> Replay:
    """``2 * ids + positions``."""

    def make(ids: Tensor, positions: Tensor, length: int, trail: bool, likelihood: bool) -> Tensor:
        if calls is not None:
            calls.append((*ids.shape, length, int(trail), int(likelihood)))
        return 2 * ids + positions

    return Replay(cuda.passes(make))


def test_a_shape_is_captured_once_and_replayed_with_new_values(cuda: StandIn) -> None:
    replay = doubled(cuda)
    for number in range(5):
        ids = torch.full((2, 1), number)
        assert replay(ids, ids + 1, 128, False).tolist() == [[3 * number + 1]] * 2
    assert (cuda.recorded, cuda.replayed) == (1, 5)
    for length, trail in ((256, False), (128, True)):
        replay(torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, 1, dtype=torch.long), length, trail)
    replay(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3, dtype=torch.long), 128, False)
    assert cuda.recorded == 4


def test_a_forgotten_shape_is_captured_again(cuda: StandIn) -> None:
    replay, ids = doubled(cuda), torch.ones(2, 1, dtype=torch.long)
    replay(ids, ids, 128, False)
    replay.forget()
    assert replay(ids, ids, 128, False).tolist() == [[3], [3]]
    assert cuda.recorded == 2


def test_a_pass_that_cannot_be_captured_runs_with_one_warning(cuda: StandIn) -> None:
    def read(ids: Tensor, positions: Tensor, length: int, trail: bool, likelihood: bool) -> Tensor:
        if cuda.capturing is not None:
            raise RuntimeError("operation not permitted when stream is capturing")
        return ids + positions

    replay, ids = Replay(read), torch.ones(2, 1, dtype=torch.long)
    with pytest.warns(UserWarning, match=r"not captured as CUDA graphs.*not permitted"):
        assert replay(ids, ids, 128, False).tolist() == [[2], [2]]
    assert replay(ids, ids, 256, False).tolist() == [[2], [2]]
    assert cuda.recorded == 0


def test_running_out_of_memory_is_not_taken_for_a_failed_capture(cuda: StandIn) -> None:
    def full(ids: Tensor, positions: Tensor, length: int, trail: bool, likelihood: bool) -> Tensor:
        if cuda.capturing is not None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return ids

    ids = torch.ones(2, 1, dtype=torch.long)
    with pytest.raises(torch.OutOfMemoryError):
        Replay(full)(ids, ids, 128, False)


@pytest.mark.parametrize("draft_tokens", [0, 3])
def test_a_decoder_with_replay_writes_what_each_instance_writes_alone(
    draft_tokens: int, cuda: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache grows while graphs exist: they are dropped in time, and few are captured."""
    monkeypatch.setattr("dpc.engine.slot_model.pace_on", lambda device: ON_GPU)
    lm = lm_with_many_ends("llama")
    decoder = Decoder(lm, DecodingSettings(batch_size=8, draft_tokens=draft_tokens))
    model = decoder._model
    assert isinstance(model, SlotModel)
    model._replay = Replay(cuda.passes(model._pass))
    cuda.where = lambda: model._cache.layers[0].keys.data_ptr()
    capacities = []
    for longest, new_tokens in ((30, 20), (150, 60), (30, 20)):
        requests = requests_for(lm, 30, [soft_prompt(lm), None], longest)
        assert decoder.all(requests, new_tokens) == alone(lm, requests, new_tokens)
        capacities.append(model.capacity)
    assert capacities[0] < capacities[1]
    assert cuda.replayed > 3 * cuda.recorded > 0
