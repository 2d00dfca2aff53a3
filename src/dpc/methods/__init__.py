"""One file a method, one protocol, one registry."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING

from dpc.errors import UserError

if TYPE_CHECKING:
    from dpc.methods.base import Method, Setup

METHODS = {
    "pretrained": "dpc.methods.pretrained:build",
    "prompt_tuning": "dpc.methods.prompt_tuning:build",
    "act": "dpc.methods.act:build",
    "dpc": "dpc.methods.dpc:build",
    "random_corruption": "dpc.methods.random_corruption:build",
    "all_corruption": "dpc.methods.all_corruption:build",
    "first_token_corruption": "dpc.methods.first_token_corruption:build",
    "least_token_corruption": "dpc.methods.least_token_corruption:build",
    "gamma_only": "dpc.methods.gamma_only:build",
    "key_only": "dpc.methods.key_only:build",
    "random_trigger": "dpc.methods.random_trigger:build",
}
BASELINE = "prompt_tuning"
# Methods that look neither at the calibrated threshold nor at how often it fired.
_UNCALIBRATED = ("pretrained", "prompt_tuning", "all_corruption", "act")


def check_methods(names: Sequence[str]) -> None:
    """Raise ``UserError`` unless every name is a method and none is there twice."""
    for name in names:
        if name not in METHODS:
            near = get_close_matches(name, METHODS, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"--methods {name}: no such method; expected some of {', '.join(METHODS)}{hint}")
    if not names or len(set(names)) < len(names):
        raise UserError(f"--methods {','.join(names)}: expected one or more names, each once")


def use_calibration(names: Sequence[str]) -> bool:
    """Whether one of the methods uses what ``dpc calibrate`` chose: the threshold, or how often it fires."""
    return any(name not in _UNCALIBRATED for name in names)


def build_method(name: str, setup: Setup) -> Method:
    """The method ``name``. Raises ``UserError`` for an unknown name, or where the setup lacks what it needs."""
    check_methods([name])
    module, attribute = METHODS[name].split(":")
    method: Method = getattr(import_module(module), attribute)(setup)
    return method
