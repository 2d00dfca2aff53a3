"""CUDA graph capture and replay of passes with fixed shapes: one launch for a whole pass.

https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

Pass = Callable[[Tensor, Tensor, int, bool, bool], Tensor]
"""``(ids [row time], positions [row time], length, trail, likelihood) -> greedy successors [row time]``."""


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A captured graph with its input and output tensors."""

    replay: Callable[[], None]
    ids: Int[Tensor, "row time"]
    positions: Int[Tensor, "row time"]
    predicted: Int[Tensor, "row time"]


class Replay:
    """A pass that is captured for each new shape, and replayed for shapes that were seen before.

    A graph contains the addresses of the tensors that it reads and writes: call ``forget`` when a cache is reallocated.
    """

    def __init__(self, make: Pass) -> None:
        self._make, self._possible = make, True
        self._recorded: dict[tuple[int, ...], _Recorded] = {}
        self._pool: Any = None
        self._side: torch.cuda.Stream | None = None

    def __call__(
        self,
        ids: Int[Tensor, "row time"],
        positions: Int[Tensor, "row time"],
        length: int,
        trail: bool,
        likelihood: bool = False,
    ) -> Int[Tensor, "row time"]:
        """The result of ``make``. Graphs share memory, so the tensor is valid only until the next pass."""
        if not self._possible:
            return self._make(ids, positions, length, trail, likelihood)
        key = (*ids.shape, length, int(trail), int(likelihood))
        recorded = self._recorded.get(key)
        if recorded is None:
            recorded = self._record(ids, positions, length, trail, likelihood)
            if recorded is None:
                return self._make(ids, positions, length, trail, likelihood)
            self._recorded[key] = recorded
        recorded.ids.copy_(ids, non_blocking=True)
        recorded.positions.copy_(positions, non_blocking=True)
        recorded.replay()
        return recorded.predicted

    def forget(self) -> None:
        """Drop all graphs and their memory."""
        self._recorded.clear()
        self._pool = None

    def _record(self, ids: Tensor, positions: Tensor, length: int, trail: bool, likelihood: bool) -> _Recorded | None:
        ids, positions = ids.clone(), positions.clone()
        current = torch.cuda.current_stream(ids.device)
        self._side = self._side or torch.cuda.Stream(ids.device)
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        self._side.wait_stream(current)
        graph, predicted = torch.cuda.CUDAGraph(), None
        # The stream context restores the current stream, which a capture that fails does not.
        with torch.cuda.device(ids.device), torch.cuda.stream(self._side):
            # A warm-up pass: libraries initialize, and torch.compile compiles.
            self._make(ids, positions, length, trail, likelihood)
            try:
                with torch.cuda.graph(graph, pool=self._pool, stream=self._side, capture_error_mode="thread_local"):
                    predicted = self._make(ids, positions, length, trail, likelihood)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                # Some models read a value on the host during a pass, which cannot be captured.
                self._possible = False
                self.forget()
                reason = str(error.__context__ or error).partition("\n")[0]
                warnings.warn(f"passes are not captured as CUDA graphs, so decoding is slower: {reason}", stacklevel=2)
        current.wait_stream(self._side)
        return None if predicted is None else _Recorded(graph.replay, ids, positions, predicted)
