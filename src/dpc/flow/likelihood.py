"""Log-probabilities of an answer's tokens under any soft prompt, by teacher forcing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dpc.model.lm import FrozenLM
from dpc.types import Generation


@torch.no_grad()
def answer_log_probs(
    lm: FrozenLM,
    soft_prompt: Float[Tensor, "prompt d"],
    questions: Sequence[Sequence[int]],
    answers: Sequence[Generation],
) -> list[Float[Tensor, " token"]]:
    """Log-probability (nats) of each token of an answer given prompt, question and the tokens before it.

    The end token is included where there is one. One forward pass over ``[p | q | r]``, padded on the right.
    """
    ended = [(*answer.ids, *([] if answer.end_id is None else [answer.end_id])) for answer in answers]
    return token_log_probs(lm, soft_prompt, questions, ended)


@torch.no_grad()
def token_log_probs(
    lm: FrozenLM,
    soft_prompt: Float[Tensor, "prompt d"],
    questions: Sequence[Sequence[int]],
    rationales: Sequence[Sequence[int]],
) -> list[Float[Tensor, " rationale"]]:
    """Log-probability (nats) of each rationale token given prompt, question and the tokens before it (teacher forcing).

    One forward pass over ``[p | q | r]``, padded on the right. Each rationale has at least one token.
    """
    if not questions:
        return []
    prompt = soft_prompt.to(device=lm.device, dtype=lm.dtype)
    ids = [torch.tensor([*q, *r], device=lm.device) for q, r in zip(questions, rationales, strict=True)]
    embedded = lm.embed(pad_sequence(ids, batch_first=True)).to(lm.dtype)
    embedded = torch.cat([prompt.expand(len(ids), -1, -1), embedded], dim=1)
    # The token at position i is predicted at position i - 1.
    first = min(len(prompt) + len(q) - 1 for q in questions)
    logits = lm.last_logits(embedded, embedded.shape[1] - first)
    found = []
    for row, (question, rationale) in enumerate(zip(questions, rationales, strict=True)):
        start = len(prompt) + len(question) - 1 - first
        labels = torch.tensor(list(rationale), device=logits.device)
        found.append(_chosen(logits[row : row + 1, start : start + len(rationale)], labels[None])[0])
    return found


def _chosen(logits: Float[Tensor, "batch row vocab"], labels: Int[Tensor, "batch row"]) -> Float[Tensor, "batch row"]:
    log_probs = logits.float().log_softmax(-1)
    return log_probs.gather(-1, labels.to(logits.device).clamp(min=0)[..., None])[..., 0]
