"""The dynamic trigger (Eqs 11 to 13): whether the prompt influences the late rationale more than the early one."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from dpc.types import Decision, Evidence, middle

SHORTEST_RATIONALE = 4


@dataclass(frozen=True, slots=True)
class Affected:
    """R of Eq 11 (``ratio``) and beta of Eq 12, the mean influence over the early rationale."""

    ratio: float
    beta: float


def affected_share(influence: Float[Tensor, " rationale"]) -> Affected:
    """Share of late rationale positions that the prompt influences more than it does the early ones on average."""
    half = middle(len(influence))
    beta = influence[:half].mean()
    late = influence[half:]
    # A quotient of integers: a float32 mean makes 6/20 larger than 0.3.
    return Affected(ratio=int((late > beta).sum()) / len(late), beta=float(beta))


def too_short(rationale_tokens: int, tau: float) -> Decision:
    """The decision about a rationale in which early and late can't be told apart."""
    reason = f"rationale of {rationale_tokens} tokens, shorter than {SHORTEST_RATIONALE}"
    return Decision(False, None, tau, judged=False, evidence=Evidence(reason=reason))
