"""Triggers: which first answers are replaced by a second one. A trigger sees the whole first answer."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from dpc.engine import Likelihood
from dpc.errors import UserError
from dpc.flow.local_influence import Influence
from dpc.flow.measures import late_flow
from dpc.flow.thresholds import ALWAYS, NEVER, Rule
from dpc.flow.trigger import affected_share
from dpc.methods.draw import draw
from dpc.types import Decision, Evidence, Generation

Ask = Literal["influence", "likelihood"]
"""What costs an extra computation: ``s_i`` (a backward pass of the last block), the likelihood of the tokens."""
Threshold = Literal["tau", "trigger_rate", "none"]
"""What a threshold comes from: ``dpc calibrate`` or --tau; how often the calibrated DPC triggers; nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class FirstAnswer:
    """One first answer, as triggers and corruptions see it.

    question: token ids. generation: token ids, text, and why decoding stopped. likelihood: how likely each token was,
    given the soft prompt and all tokens before it, the end token included. influence: ``s_i`` of each rationale token
    (Eq 13), by ``method.row``; both_rows: by either reading. All are None unless the trigger asks for them. loss: mean
    cross-entropy of the rationale, nats per token, where one of them was computed. seed: ``method.seed``.
    """

    question: Sequence[int]
    generation: Generation
    seed: int = 0
    likelihood: Likelihood | None = None
    influence: Float[Tensor, " rationale"] | None = None
    both_rows: Influence | None = None
    loss: float | None = None

    @property
    def log_probs(self) -> Float[Tensor, " rationale"]:
        """Log-probability of each rationale token, in nats. Raises ``ValueError`` where the trigger did not ask."""
        return self._known.log_probs[: len(self.generation.ids)]

    @property
    def entropies(self) -> Float[Tensor, " rationale"]:
        """Entropy of the distribution of each rationale token, in nats. Raises ``ValueError`` as ``log_probs`` does."""
        return self._known.entropies[: len(self.generation.ids)]

    @property
    def _known(self) -> Likelihood:
        if self.likelihood is None:
            raise ValueError("the likelihood was not computed: set asks={'likelihood'} in the trigger")
        return self.likelihood

    def draw(self, purpose: str) -> float:
        """A random number in ``(0, 1]`` that depends on ``method.seed``, ``purpose`` and the question alone."""
        return draw(self.seed, purpose, self.question)

    def evidence(self) -> Evidence:
        """What was computed of this answer, as records keep it."""
        if self.influence is None:
            return Evidence(rationale_loss=self.loss)
        both = self.both_rows
        return Evidence(
            beta=affected_share(self.influence).beta,
            ratio_at=None if both is None else affected_share(both.at).ratio,
            ratio_before=None if both is None else affected_share(both.before).ratio,
            late_flow=late_flow(self.influence),
            influence=four_digits(self.influence),
            rationale_loss=self.loss,
        )


@runtime_checkable
class Trigger(Protocol):
    """Decides about first answers that are long enough to be judged."""

    @property
    def name(self) -> str:
        """Lower-case letters, digits and underscores. Its calibration is stored under this name."""
        ...

    @property
    def asks(self) -> Collection[Ask]:
        """What must be computed before ``decide``."""
        ...

    @property
    def threshold_from(self) -> Threshold:
        """Where the threshold comes from."""
        ...

    def decide(self, first: FirstAnswer, threshold: float) -> Decision:
        """The decision about ``first``."""
        ...


@dataclass(frozen=True, slots=True)
class StatisticTrigger:
    """Triggers where a statistic of the first answer exceeds the threshold that ``dpc calibrate`` chose for it.

    statistic: a number for an answer; larger means that the answer is less to be trusted. bounds: an answer's
    statistic exceeds the first and never the second, so they are the thresholds "always" and "never".
    symbol: what tables and pages call the statistic. rule: the threshold is that of highest accuracy on the dev split,
    or the statistic's median there, which does not depend on what the second pass does.
    """

    name: str
    statistic: Callable[[FirstAnswer], float]
    asks: Collection[Ask] = ()
    bounds: tuple[float, float] = (-sys.float_info.max, sys.float_info.max)
    symbol: str = "statistic"
    threshold_from: Threshold = "tau"
    rule: Rule = "accuracy"

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.asks) - set(get_args(Ask))):
            raise UserError(f"trigger {self.name}: asks for {unknown[0]!r}; expected {' or '.join(get_args(Ask))}")

    def decide(self, first: FirstAnswer, threshold: float) -> Decision:
        """Triggered where ``statistic(first) > threshold``."""
        value = self._value(first)
        return Decision(value > threshold, value, threshold, trigger=self.name, evidence=first.evidence())

    def _value(self, first: FirstAnswer) -> float:
        if self.name == "flow":
            return self.statistic(first)
        try:
            value = float(self.statistic(first))
        # Whatever a user's function raises is a mistake in that function.
        except Exception as error:
            missing = sorted(set(get_args(Ask)) - set(self.asks))
            hint = f"; it did not ask for {' or '.join(missing)}" if missing else ""
            raise UserError(f"trigger {self.name}: does not run ({type(error).__name__}: {error}){hint}") from error
        if not math.isfinite(value):
            raise UserError(f"trigger {self.name}: its statistic is {value}, expected a finite number")
        return value


@dataclass(frozen=True, slots=True)
class AlwaysTrigger:
    """Triggers on every answer and computes nothing."""

    name: str = "always"
    asks: Collection[Ask] = ()
    threshold_from: Threshold = "none"

    def decide(self, first: FirstAnswer, threshold: float) -> Decision:
        """Triggered."""
        return Decision(True, None, threshold, trigger=self.name)


@dataclass(frozen=True, slots=True)
class RandomTrigger:
    """Triggers on a random share of the questions: as large a share as the calibrated DPC has."""

    name: str = "random"
    asks: Collection[Ask] = ()
    threshold_from: Threshold = "trigger_rate"

    def decide(self, first: FirstAnswer, threshold: float) -> Decision:
        """Triggered where the question's random number exceeds ``threshold``, which is 1 minus the share."""
        drawn = first.draw("trigger")
        return Decision(drawn > threshold, None, threshold, trigger=self.name, evidence=Evidence(draw=drawn))


def _ratio(first: FirstAnswer) -> float:
    assert first.influence is not None
    return affected_share(first.influence).ratio


def _mean_entropy(first: FirstAnswer) -> float:
    return float(first.entropies.mean())


def _mean_surprise(first: FirstAnswer) -> float:
    return -float(first.log_probs.mean())


FLOW = StatisticTrigger("flow", _ratio, {"influence"}, (ALWAYS, NEVER), "R")
"""The paper's trigger (Eqs 11 to 13): R, the share of late rationale tokens with ``s_i`` above beta."""
ENTROPY = StatisticTrigger("entropy", _mean_entropy, {"likelihood"}, symbol="mean entropy")
"""The mean entropy of the model's predictions over the rationale, in nats: high where it was unsure."""
LIKELIHOOD = StatisticTrigger("likelihood", _mean_surprise, {"likelihood"}, symbol="nats per token")
"""The mean negative log-likelihood of the rationale's tokens."""
UNSURE = StatisticTrigger("unsure", _mean_entropy, {"likelihood"}, symbol="mean entropy", rule="median")
"""The mean entropy again, with its median on the dev split as the threshold: half of the answers trigger."""
CALIBRATED = {trigger.name: trigger for trigger in (FLOW, ENTROPY, LIKELIHOOD, UNSURE)}
"""Triggers that ship with dpc and are calibrated, by name."""
ALWAYS_TRIGGER = AlwaysTrigger()
RANDOM_TRIGGER = RandomTrigger()


def with_evidence(decision: Decision, **more: Any) -> Decision:
    """``decision`` with further fields of its evidence filled in."""
    return replace(decision, evidence=replace(decision.evidence, **more))


def four_digits(values: Float[Tensor, " any"]) -> tuple[float, ...]:
    """Figures for a record, which is a text: four significant digits."""
    return tuple(float(f"{value:.4g}") for value in values.tolist())
