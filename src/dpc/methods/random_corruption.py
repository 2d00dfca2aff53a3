"""Random corruption (paper, section 4.3, setting 2): the trigger as it is, the position drawn at random."""

from __future__ import annotations

from dpc.methods.base import Setup
from dpc.methods.policy import FlowTrigger, random_token
from dpc.methods.two_passes import TwoPasses


def build(setup: Setup) -> TwoPasses:
    """DPC with a soft token drawn for each question from ``method.seed``: does it matter which token is masked?

    Raises ``UserError`` for no soft prompt or no threshold.
    """
    prompt, trigger = setup.need_prompt("random_corruption"), FlowTrigger(setup.need_tau("random_corruption"))
    return TwoPasses(prompt, setup.settings, trigger, random_token(setup.settings.seed))
