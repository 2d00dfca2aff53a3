"""Least-token corruption, a control: the soft token that gathers the least information is masked."""

from __future__ import annotations

from dpc.methods.base import Setup
from dpc.methods.policy import LEAST_TOKEN, FlowTrigger
from dpc.methods.two_passes import TwoPasses


def build(setup: Setup) -> TwoPasses:
    """DPC with ``argmin_j S_acc(j)`` in place of the argmax: does accumulation point at the token to mask?

    Raises ``UserError`` for no soft prompt or no threshold.
    """
    name = "least_token_corruption"
    return TwoPasses(setup.need_prompt(name), setup.settings, FlowTrigger(setup.need_tau(name)), LEAST_TOKEN)
