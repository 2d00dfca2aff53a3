"""Evidence of a decision as what another computation of it must equal, up to rounding."""

from __future__ import annotations

from typing import Any

import pytest


def about(evidence: dict[str, Any], rel: float = 1e-3) -> dict[str, Any]:
    """Figures equal up to ``rel``; those in lists are kept to four digits, and small ones are noise beside the rest."""

    def expected(value: Any) -> Any:
        if isinstance(value, list):
            return pytest.approx(value, rel=2e-3, abs=1e-3 * max(value))
        return pytest.approx(value, rel=rel) if isinstance(value, float) else value

    return {name: expected(value) for name, value in evidence.items()}
