"""Multimodal classes, of which the text part is used."""

from __future__ import annotations

from typing import Any

from tests.architectures.dense import DENSE
from tests.architectures.entry import Architecture

_SIGHT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
MULTIMODAL = {
    "gemma3": Architecture(
        "gemma3",
        "Gemma 3 4B, 12B, 27B (text)",
        {"text_config": DENSE["gemma3_text"], "vision_config": _SIGHT, "mm_tokens_per_image": 4},
    ),
}
