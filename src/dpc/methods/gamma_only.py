"""Gamma only, a control: the other vectors are pruned, the key token stays as it is."""

from __future__ import annotations

from dpc.methods.base import Setup
from dpc.methods.policy import KEY_TOKEN, FlowTrigger
from dpc.methods.two_passes import TwoPasses


def build(setup: Setup) -> TwoPasses:
    """DPC without its mask: how much of the effect is pruning? With ``key_only`` it splits the corruption in two.

    Raises ``UserError`` for no soft prompt or no threshold.
    """
    prompt, trigger = setup.need_prompt("gamma_only"), FlowTrigger(setup.need_tau("gamma_only"))
    return TwoPasses(prompt, setup.settings.model_copy(update={"mask_key": False}), trigger, KEY_TOKEN)
