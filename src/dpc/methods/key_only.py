"""Key only, a control: the key token is masked, the other vectors keep every value."""

from __future__ import annotations

from dpc.methods.base import Setup
from dpc.methods.policy import KEY_TOKEN, FlowTrigger
from dpc.methods.two_passes import TwoPasses


def build(setup: Setup) -> TwoPasses:
    """DPC without pruning: how much of the effect is the mask? With ``gamma_only`` it splits the corruption in two.

    Raises ``UserError`` for no soft prompt or no threshold.
    """
    prompt, trigger = setup.need_prompt("key_only"), FlowTrigger(setup.need_tau("key_only"))
    return TwoPasses(prompt, setup.settings.model_copy(update={"gamma": 0.0, "mask_key": True}), trigger, KEY_TOKEN)
