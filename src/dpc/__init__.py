"""Dynamic Prompt Corruption (ICLR 2025): answer again with a corrupted soft prompt where the prompt misleads.

In Python: ``load_model`` and ``load_prompt``; ``tune``, ``calibrate`` and ``evaluate``; ``generate``, ``trace`` and
``saliency`` for single questions.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpc.api import calibrate, evaluate, generate, load_model, load_prompt, saliency, trace, tune
    from dpc.methods.method import Method
    from dpc.tasks.base import Task

_HOMES = {
    "load_model": "dpc.api",
    "load_prompt": "dpc.api",
    "tune": "dpc.api",
    "calibrate": "dpc.api",
    "evaluate": "dpc.api",
    "generate": "dpc.api",
    "trace": "dpc.api",
    "saliency": "dpc.api",
    "Method": "dpc.methods.method",
    "Task": "dpc.tasks.base",
}

__all__ = [
    "Method",
    "Task",
    "calibrate",
    "evaluate",
    "generate",
    "load_model",
    "load_prompt",
    "saliency",
    "trace",
    "tune",
]


def __getattr__(name: str) -> Any:
    # Loaded when it is first used: the command line imports this package and starts without torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'dpc' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
