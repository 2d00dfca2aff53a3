"""What pays on a device. A CPU pays for every token of a pass, a GPU for every pass and every look at its result."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Pace:
    """What the scheduler decides by; none of it changes an answer.

    tokens: questions that enter bring at most this many into one pass. free_share: of the slots that must be free
    before questions enter. steps: between two looks at what was written. sure: how sure a draft must be, from 0 to 1.
    drafted: draft tokens a running row, on average, that it takes to read them rather than write on.
    grown: positions that the cache grows by, as a share of those it has. granule: positions are rounded up to these.
    fixed_shapes: passes of few tokens are rounded up to a few shapes, so that they can be recorded and replayed.
    """

    tokens: int
    free_share: float
    steps: int
    sure: float
    drafted: float
    grown: float
    granule: int
    fixed_shapes: bool


# Activations of 1,024 tokens stay in a CPU's cache.
ON_CPU = Pace(2**10, free_share=0.0, steps=1, sure=0.2, drafted=0.0, grown=0.0, granule=64, fixed_shapes=False)
# A look costs about an eighth of a step, a pass over five tokens a row a fifth more than a step (8 billion weights, 32
# rows, H200), and a question's pass as much as several steps, however short the question.
ON_GPU = Pace(2**14, free_share=1 / 8, steps=8, sure=0.1, drafted=1 / 2, grown=1 / 2, granule=128, fixed_shapes=True)


def pace_on(device: torch.device) -> Pace:
    """What pays on ``device``."""
    return ON_CPU if device.type == "cpu" else ON_GPU
