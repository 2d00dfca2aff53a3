"""First-token corruption, a control: position 0 is masked, where models keep an attention sink anyway."""

from __future__ import annotations

from dpc.methods.base import Setup
from dpc.methods.policy import FIRST_TOKEN, FlowTrigger
from dpc.methods.two_passes import TwoPasses


def build(setup: Setup) -> TwoPasses:
    """DPC that always masks the first soft token: is the key token more than an attention sink?

    Raises ``UserError`` for no soft prompt or no threshold.
    """
    name = "first_token_corruption"
    return TwoPasses(setup.need_prompt(name), setup.settings, FlowTrigger(setup.need_tau(name)), FIRST_TOKEN)
