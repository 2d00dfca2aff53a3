"""Evidence of a decision as what another computation of it must equal, up to rounding."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from dpc.types import Evidence


class About:
    """Equal to evidence whose figures differ by at most ``rel``.

    Figures in tuples are kept to four digits, and small ones are rounding noise beside the largest.
    """

    def __init__(self, evidence: Evidence, rel: float = 1e-3) -> None:
        self._rel = rel
        self._fields = {name: self._expected(value) for name, value in asdict(evidence).items()}

    def _expected(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return pytest.approx(value, rel=2e-3, abs=1e-3 * max(value))
        return pytest.approx(value, rel=self._rel) if isinstance(value, float) else value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Evidence) and asdict(other) == self._fields

    def __hash__(self) -> int:
        return hash(tuple(self._fields))

    def __repr__(self) -> str:
        return f"About({self._fields})"
