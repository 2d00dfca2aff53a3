"""Dynamic Prompt Corruption: answer, look at the flow of information, and where it went astray answer again."""

from __future__ import annotations

from dpc.methods.base import Setup
from dpc.methods.policy import KEY_TOKEN, FlowTrigger
from dpc.methods.two_passes import TwoPasses


def build(setup: Setup) -> TwoPasses:
    """The paper's method (section 3): dynamic trigger, then dynamic corruption; the loop is ``TwoPasses.answer``.

    Raises ``UserError`` for no soft prompt or no threshold.
    """
    prompt, trigger = setup.need_prompt("dpc"), FlowTrigger(setup.need_tau("dpc"))
    return TwoPasses(prompt, setup.settings, trigger, KEY_TOKEN)
