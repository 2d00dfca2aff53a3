"""``benchmarks/naive.py`` of the checkout: what everything is measured against. It stands outside of the package."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from dpc.bench.measure import Unavailable

FOLDER = Path(__file__).resolve().parents[3] / "benchmarks"


@cache
def naive() -> Any:
    """The module. Raises ``Unavailable`` where the package is installed without its checkout."""
    path = FOLDER / "naive.py"
    if not path.is_file():
        raise Unavailable("no benchmarks/naive.py beside this package; run in a checkout, installed with pip -e")
    # PEFT 0.21 asks transformers 5.23 by an old name.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
    spec = importlib.util.spec_from_file_location("naive", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules["naive"] = module
    spec.loader.exec_module(module)
    return module
