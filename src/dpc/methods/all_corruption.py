"""All corruption (paper, section 4.3, setting 1): every instance is corrupted, without a trigger."""

from __future__ import annotations

from dpc.methods.base import Setup
from dpc.methods.policy import KEY_TOKEN, AlwaysTrigger
from dpc.methods.two_passes import TwoPasses


def build(setup: Setup) -> TwoPasses:
    """DPC whose trigger always fires: what is the trigger worth? Nothing is judged, so R is not known.

    A rationale too short to be judged keeps its first answer here as well. Raises ``UserError`` for no soft prompt.
    """
    return TwoPasses(setup.need_prompt("all_corruption"), setup.settings, AlwaysTrigger(), KEY_TOKEN)
