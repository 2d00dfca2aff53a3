"""Reproducible random numbers per question, independent of batch, order and machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence


def draw(seed: int, purpose: str, question: Sequence[int]) -> float:
    """A number in ``(0, 1]``, uniform over questions (token ids), the same wherever its three causes are the same."""
    cause = json.dumps([seed, purpose, list(question)]).encode()
    return (int.from_bytes(hashlib.sha256(cause).digest()[:6]) + 1) / 2**48


def draw_position(seed: int, question: Sequence[int], positions: int) -> int:
    """A position in ``[0, positions)``, each as likely as the others."""
    return min(int(draw(seed, "position", question) * positions), positions - 1)
