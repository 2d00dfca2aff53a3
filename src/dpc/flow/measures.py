"""Measures of information flow (Eqs 2 to 9), computed from the saliency of one instance."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from dpc.types import Aggregation, InfluenceRow, Saliency, middle


def prompt_to_question(saliency: Saliency) -> Float[Tensor, " layer"]:
    """``S_pq(l)``, Eqs 2 and 3: mean saliency over question rows and prompt columns of each layer."""
    return saliency.scores[:, saliency.question_rows].mean(dim=(1, 2))


def prompt_to_rationale(saliency: Saliency) -> Float[Tensor, " layer"]:
    """``S_pr(l)``, Eqs 4 and 5: mean saliency over rationale rows and prompt columns of each layer."""
    return saliency.scores[:, saliency.rationale_rows].mean(dim=(1, 2))


def accumulation_profile(
    saliency: Saliency, layers: Sequence[int], aggregation: Aggregation = "mean"
) -> Float[Tensor, " prompt"]:
    """``S_acc(j)``, Eq 6: mean over question and rationale rows, averaged over the (shallow) model layers ``layers``.

    aggregation: ``max`` takes the largest of the layers instead of their mean.

    Raises ``ValueError`` if one of ``layers`` was not computed.
    """
    chosen = saliency.scores[[saliency.layers.index(layer) for layer in layers]]
    return chosen.mean(dim=(0, 1)) if aggregation == "mean" else chosen.mean(dim=1).amax(dim=0)


def key_token(profile: Float[Tensor, " prompt"]) -> int:
    """The virtual token with the highest profile, ``argmax_j S_acc(j)``; the first of several equal ones."""
    return int(profile.argmax())


def concentration(profile: Float[Tensor, " prompt"]) -> float:
    """Maximum over mean of the profile (Eq 7): at least 1, and 1 for a profile of zeros."""
    mean = float(profile.mean())
    return float(profile.max()) / mean if mean > 0 else 1.0


def has_accumulated(profile: Float[Tensor, " prompt"], k: float) -> bool:
    """Eq 7: whether the maximum of the profile is more than ``k`` times its mean."""
    return concentration(profile) > k


def rationale_influence(saliency: Saliency, row: InfluenceRow = "at") -> Float[Tensor, " rationale"]:
    """``s_i``, Eqs 12 and 13: mean over prompt columns of the last computed layer, for each rationale position.

    row: ``at`` takes the row at token i's position, ``before`` the row before it, which predicts token i.

    Raises ``ValueError`` for ``before`` if the question has no token.
    """
    rows = saliency.rationale_rows
    if row == "before":
        if rows.start == 0:
            raise ValueError("no row before the rationale: the question has no token")
        rows = slice(rows.start - 1, rows.stop - 1)
    return saliency.scores[-1, rows].mean(dim=-1)


def late_flow(influence: Float[Tensor, " rationale"]) -> float:
    """``S_late``, Eqs 8 and 9: mean of ``s_i`` over the late rationale."""
    return float(influence[middle(len(influence)) :].mean())
