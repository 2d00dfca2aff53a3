"""Who is answered again, and which soft token is corrupted: what the method, its ablations and its controls vary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from dpc.flow.measures import key_token, late_flow
from dpc.flow.trigger import ALWAYS, decide
from dpc.methods.draw import draw, draw_position
from dpc.prompt.corruption import corrupt
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.settings import MethodSettings
from dpc.types import Decision


@runtime_checkable
class Trigger(Protocol):
    """Decides who is answered again."""

    @property
    def threshold(self) -> float:
        """What R, or a draw, must exceed."""
        ...

    @property
    def judges(self) -> bool:
        """Whether ``decide`` looks at ``s_i``, which takes a pass of the last block."""
        ...

    def decide(self, question: Sequence[int], influence: Float[Tensor, " rationale"] | None) -> Decision:
        """The decision about an instance with a rationale long enough to be judged."""
        ...


@dataclass(frozen=True, slots=True)
class FlowTrigger:
    """The paper's: fires where the prompt influences too large a share of the late rationale (Eqs 11 to 13)."""

    threshold: float
    judges: bool = True

    def decide(self, question: Sequence[int], influence: Float[Tensor, " rationale"] | None) -> Decision:
        """R > tau."""
        assert influence is not None
        more = {"late_flow": late_flow(influence), "influence": four_digits(influence)}
        decision = decide(influence, self.threshold)
        return replace(decision, evidence=decision.evidence | more)


@dataclass(frozen=True, slots=True)
class AlwaysTrigger:
    """Fires on everything, and looks at nothing."""

    threshold: float = ALWAYS
    judges: bool = False

    def decide(self, question: Sequence[int], influence: Float[Tensor, " rationale"] | None) -> Decision:
        """Triggered; R is not known."""
        return Decision(True, None, self.threshold, evidence={"trigger_rule": "every instance"})


@dataclass(frozen=True, slots=True)
class RandomTrigger:
    """Fires on a share ``rate`` of all questions, drawn by chance."""

    rate: float
    seed: int
    judges: bool = False

    @property
    def threshold(self) -> float:
        """``1 - rate``, which as large a share of all draws exceeds as ``rate`` says."""
        return 1 - self.rate

    def decide(self, question: Sequence[int], influence: Float[Tensor, " rationale"] | None) -> Decision:
        """Triggered where the draw, in ``(0, 1]``, exceeds the threshold; R is not known."""
        drawn = draw(self.seed, "trigger", question)
        evidence = {"trigger_rule": f"drawn at random, seed {self.seed}", "draw": drawn}
        return Decision(drawn > self.threshold, None, self.threshold, evidence=evidence)


@dataclass(frozen=True, slots=True)
class TracedToken:
    """A soft token chosen by its ``S_acc`` (Eq 6), which takes a pass forward and backward through the network."""

    rule: str
    pick: Callable[[Float[Tensor, " prompt"]], int]


@dataclass(frozen=True, slots=True)
class UntracedToken:
    """A soft token chosen without a look at the network, from the question and the number of soft tokens."""

    rule: str
    pick: Callable[[Sequence[int], int], int]


def least_token(profile: Float[Tensor, " prompt"]) -> int:
    """The soft token that gathers the least: ``argmin_j S_acc(j)``, the first where several are smallest."""
    return int(profile.argmin())


def random_token(seed: int) -> UntracedToken:
    """A position drawn for each question."""
    return UntracedToken(
        f"drawn at random, seed {seed}", lambda question, length: draw_position(seed, question, length)
    )


@dataclass(frozen=True, slots=True)
class Policy:
    """One of the methods with two passes, as a value.

    settings: how saliency is computed and the prompt corrupted (``gamma``, ``prune_scope``, ``mask_key``).
    """

    soft_prompt: SoftPrompt
    settings: MethodSettings
    trigger: Trigger
    token: TracedToken | UntracedToken

    def corrupted(self, token: int) -> SoftPrompt:
        """The soft prompt with ``token`` masked and the rest pruned, as far as the settings say."""
        s = self.settings
        vectors = corrupt(self.soft_prompt.vectors, token, s.gamma, s.prune_scope, s.mask_key)
        return SoftPrompt.of(vectors, self.soft_prompt.base_model)


def four_digits(values: Float[Tensor, " any"]) -> list[float]:
    """Figures for a record, which is a text: four significant digits."""
    return [float(f"{value:.4g}") for value in values.tolist()]


KEY_TOKEN = TracedToken("largest S_acc", key_token)
LEAST_TOKEN = TracedToken("smallest S_acc", least_token)
FIRST_TOKEN = UntracedToken("first position", lambda question, length: 0)
