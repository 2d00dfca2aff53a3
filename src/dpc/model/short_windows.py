"""Shorten the windows of attention for a while, so that a short sequence goes past them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel

from dpc.model.attention_switch import AttentionImplementation

# transformers' mask functions read these fields of the configuration in every pass.
WINDOWS = ("sliding_window", "attention_chunk_size")
# Windows up to this length stay as they are: a sequence of their length is short enough.
LONGEST_WINDOW = 128
_SHORT = 12


@contextmanager
def short_windows(model: PreTrainedModel) -> Iterator[None]:
    """Inside, masks have sliding windows and chunks of few positions where the model's are long.

    The code that makes the masks is the same for every length. Restored on exit, also on an error.
    """
    before = [
        (config, name, window)
        for config in AttentionImplementation(model).configs
        for name in WINDOWS
        if isinstance(window := getattr(config, name, None), int) and window > LONGEST_WINDOW
    ]
    try:
        for config, name, _ in before:
            setattr(config, name, _SHORT)
        yield
    finally:
        for config, name, window in before:
            setattr(config, name, window)
