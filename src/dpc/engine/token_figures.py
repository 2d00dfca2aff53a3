"""How likely the greedy successor of each token is: figures that are kept per position, as the trail is."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dpc.engine.request import Likelihood

# Log-probability of the successor, entropy, id and log-probability of the runner-up. Ids are exact in float32 below
# 2**24, and no vocabulary is that large.
FIGURES = 4
# Logits that are held in float32 at a time.
_ELEMENTS = 2**24


def token_figures(logits: Float[Tensor, "token vocab"]) -> Float[Tensor, "token 4"]:
    """Figures of the greedy successor of each token, in float32 or float64: see ``likelihood_of``."""
    rows = max(1, _ELEMENTS // logits.shape[-1])
    return torch.cat([_figures(part) for part in logits.split(rows)])


def _figures(logits: Float[Tensor, "token vocab"]) -> Float[Tensor, "token 4"]:
    log_probs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    best = log_probs.topk(2)
    # The product of a probability of zero and its infinite logarithm is NaN, where the limit is zero.
    entropy = -(log_probs.exp() * log_probs.clamp(min=torch.finfo(log_probs.dtype).min)).sum(-1)
    columns = best.values[:, 0], entropy, best.indices[:, 1].to(log_probs.dtype), best.values[:, 1]
    return torch.stack(columns, dim=-1)


def likelihood_of(figures: Float[Tensor, "token 4"]) -> Likelihood:
    """The figures of an answer's tokens, by name."""
    return Likelihood(figures[:, 0], figures[:, 1], figures[:, 2].long(), figures[:, 3])
