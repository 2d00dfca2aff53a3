"""Scheduling policies: a pass costs a CPU time for every token, and a GPU for every launch and every read result."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Pace:
    """What the scheduler decides by on one kind of device. None of these numbers changes an answer.

    prefill_tokens: new questions and their drafts bring at most this many tokens into one pass.
    free_share: new requests are admitted when this share of the slots is free.
    steps_per_read: decode steps between two reads of the result on the host.
    confidence: a draft is cut off where its confidence, from 0 to 1, would fall below this.
    drafts_per_row: drafts are verified if running rows have on average more draft tokens than this.
    growth: how much the cache grows when it is full, as a share of its positions.
    position_multiple: the number of cache positions is rounded up to a multiple of this.
    fixed_shapes: passes with few tokens a row are padded to one of a few shapes, so that CUDA graphs can be reused.
    """

    prefill_tokens: int
    free_share: float
    steps_per_read: int
    confidence: float
    drafts_per_row: float
    growth: float
    position_multiple: int
    fixed_shapes: bool


# The activations of 1,024 tokens fit into a CPU's cache.
ON_CPU = Pace(
    prefill_tokens=2**10,
    free_share=0.0,
    steps_per_read=1,
    confidence=0.2,
    drafts_per_row=0.0,
    growth=0.0,
    position_multiple=64,
    fixed_shapes=False,
)
# Measured with 8 billion parameters and 32 rows on an H200: reading a result costs about an eighth of a decode step, a
# pass over five tokens a row a fifth more than a step, and prefill several steps however short the question is.
ON_GPU = Pace(
    prefill_tokens=2**14,
    free_share=1 / 8,
    steps_per_read=8,
    confidence=0.1,
    drafts_per_row=1 / 2,
    growth=1 / 2,
    position_multiple=128,
    fixed_shapes=True,
)


def pace_on(device: torch.device) -> Pace:
    """The policy for ``device``."""
    return ON_CPU if device.type == "cpu" else ON_GPU
