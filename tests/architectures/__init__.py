"""Tiny configurations of every architecture that is compared with its own code."""

from __future__ import annotations

from tests.architectures.dense import DENSE
from tests.architectures.entry import Architecture
from tests.architectures.experts import EXPERTS
from tests.architectures.hybrids import HYBRIDS
from tests.architectures.multimodal import MULTIMODAL
from tests.architectures.older import OLDER

TABLE: dict[str, Architecture] = {**DENSE, **EXPERTS, **HYBRIDS, **MULTIMODAL, **OLDER}
