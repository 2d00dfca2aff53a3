"""Information flow: what Eqs 2 to 9 make of one instance's saliency. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from dpc.types import Saliency, middle


def shallow_layers(layers: int, start: float = 2 / 32, stop: float = 10 / 32) -> tuple[int, ...]:
    """Where the paper sees prompt information gather: layers ``round(start * n)`` to ``round(stop * n)``, inclusive.

    ``start`` and ``stop`` are fractions of the depth (section 2.1: layers 2 to 10 of 32).
    """
    return tuple(range(round(start * layers), min(round(stop * layers), layers - 1) + 1))


def prompt_to_question(saliency: Saliency) -> Float[Tensor, " layer"]:
    """``S_pq(l)``, Eqs 2 and 3: mean saliency over question rows and prompt columns, a value a layer."""
    return saliency.scores[:, saliency.question_rows].mean(dim=(1, 2))


def prompt_to_rationale(saliency: Saliency) -> Float[Tensor, " layer"]:
    """``S_pr(l)``, Eqs 4 and 5: mean saliency over rationale rows and prompt columns, a value a layer."""
    return saliency.scores[:, saliency.rationale_rows].mean(dim=(1, 2))


def accumulation_profile(saliency: Saliency, layers: Sequence[int]) -> Float[Tensor, " prompt"]:
    """``S_acc(j)``, Eq 6: mean over question and rationale rows, averaged over the (shallow) model layers ``layers``.

    Raises ``ValueError`` where one of ``layers`` was not computed.
    """
    chosen = [saliency.layers.index(layer) for layer in layers]
    return saliency.scores[chosen].mean(dim=(0, 1))


def key_token(profile: Float[Tensor, " prompt"]) -> int:
    """The soft token that gathers the information: ``argmax_j S_acc(j)``, the first where several are largest."""
    return int(profile.argmax())


def concentration(profile: Float[Tensor, " prompt"]) -> float:
    """What the most gathering soft token gathers over the mean (Eq 7): at least 1, and 1 where nothing is gathered."""
    mean = float(profile.mean())
    return float(profile.max()) / mean if mean > 0 else 1.0


def has_accumulated(profile: Float[Tensor, " prompt"], k: float) -> bool:
    """Eq 7: whether one soft token gathers more than ``k`` times the mean."""
    return concentration(profile) > k


def rationale_influence(saliency: Saliency) -> Float[Tensor, " rationale"]:
    """``s_i``, Eqs 12 and 13: mean over prompt columns of the last computed layer, a value a rationale position."""
    return saliency.scores[-1, saliency.rationale_rows].mean(dim=-1)


def late_flow(influence: Float[Tensor, " rationale"]) -> float:
    """``S_late``, Eqs 8 and 9: mean of ``s_i`` over the late rationale."""
    return float(influence[middle(len(influence)) :].mean())
