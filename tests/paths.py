"""Where things lie: the checkout, and the real data that may lie beside it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "dpc"
SHARED_DATA = ROOT.parent / "shared" / "data"
