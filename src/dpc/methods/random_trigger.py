"""Random trigger, a control: as many instances are corrupted as DPC's trigger would have, drawn at random."""

from __future__ import annotations

from dpc.methods.base import Setup
from dpc.methods.policy import KEY_TOKEN, RandomTrigger
from dpc.methods.two_passes import TwoPasses


def build(setup: Setup) -> TwoPasses:
    """DPC whose trigger fires by chance, at the rate at which the calibrated one fired on its dev split.

    Does the trigger find the instances that a second answer helps? Nothing is judged, so R is not known.
    Raises ``UserError`` for no soft prompt or no calibrated rate.
    """
    prompt, rate = setup.need_prompt("random_trigger"), setup.need_trigger_rate("random_trigger")
    return TwoPasses(prompt, setup.settings, RandomTrigger(rate, setup.settings.seed), KEY_TOKEN)
