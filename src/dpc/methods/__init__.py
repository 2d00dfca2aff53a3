"""Methods as values: two passes with a trigger and a corruption between them, or one pass. Their registry."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from dpc.errors import UserError
from dpc.files import load_from_file

if TYPE_CHECKING:
    from dpc.methods.method import Method, Runner, Setup

METHODS = {
    "pretrained": "dpc.methods.one_pass:PRETRAINED",
    "prompt_tuning": "dpc.methods.one_pass:PROMPT_TUNING",
    "act": "dpc.methods.act:ACT",
    "dpc": "dpc.methods.shipped:DPC",
    "random_corruption": "dpc.methods.shipped:RANDOM_CORRUPTION",
    "all_corruption": "dpc.methods.shipped:ALL_CORRUPTION",
    "first_token_corruption": "dpc.methods.shipped:FIRST_TOKEN_CORRUPTION",
    "least_token_corruption": "dpc.methods.shipped:LEAST_TOKEN_CORRUPTION",
    "gamma_only": "dpc.methods.shipped:GAMMA_ONLY",
    "key_only": "dpc.methods.shipped:KEY_ONLY",
    "random_trigger": "dpc.methods.shipped:RANDOM_TRIGGERED",
    "dpc_entropy": "dpc.methods.shipped:DPC_BY_ENTROPY",
    "dpc_likelihood": "dpc.methods.shipped:DPC_BY_LIKELIHOOD",
    "dpc_select": "dpc.methods.likelier:DPC_SELECT",
    "branch": "dpc.methods.branch:BRANCH",
    "prompt_choice": "dpc.methods.prompt_choice:PROMPT_CHOICE",
    "beam": "dpc.methods.several:BEAM",
}
BASELINE = "prompt_tuning"


def get_method(name: str) -> Method:
    """The method called ``name``, or the value in a Python file: ``mine.py:METHOD``; ``mine.py`` means the same.

    Raises ``UserError`` for an unknown name, a file that does not run, or a value that is no method.
    """
    path, colon, attribute = name.rpartition(":")
    if not colon or not path.endswith(".py"):
        path, attribute = name, "METHOD"
    if path.endswith(".py"):
        return _method_of_file(Path(path).expanduser(), attribute)
    if name not in METHODS:
        near = get_close_matches(name, METHODS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(
            f"--methods {name}: no such method; expected some of {', '.join(METHODS)}, or FILE.py:METHOD{hint}"
        )
    module, attribute = METHODS[name].split(":")
    method: Method = getattr(import_module(module), attribute)
    return method


def check_methods(names: Sequence[str]) -> None:
    """Raise ``UserError`` as ``get_methods`` does. Methods that ship with dpc are not loaded, so that this is quick."""
    known = [name if name in METHODS else get_method(name).name for name in names]
    if not known or len(set(known)) < len(known):
        raise UserError(f"--methods {','.join(names)}: expected one or more methods, each once")


def get_methods(names: Sequence[str]) -> list[Method]:
    """The methods called ``names``. Raises ``UserError`` as ``get_method`` does, for none, and for two of one name."""
    check_methods(names)
    return [get_method(name) for name in names]


def build_method(method: Method, setup: Setup) -> Runner:
    """``method`` ready to answer. Raises ``UserError`` where the setup lacks what it needs."""
    if method.build is not None:
        return method.build(setup)
    from dpc.methods.two_passes import TwoPasses

    return TwoPasses.of(method, setup)


def _method_of_file(path: Path, attribute: str) -> Method:
    method = load_from_file(path, attribute, "--methods", "docs/new-method.md")
    # Imports torch, which a file that is not there need not wait for.
    from dpc.methods.method import Method

    if not isinstance(method, Method):
        raise UserError(
            f"{path}: {attribute} is no Method; write {attribute} = Method(...); docs/new-method.md shows it"
        )
    if method.name in METHODS:
        raise UserError(f"{path}: its method is called {method.name}, as one that ships with dpc; choose another name")
    return replace(method, source=hashlib.sha256(path.read_bytes()).hexdigest())
