"""In bfloat16 the order of a sum changes its rounding, so answers may differ, but only where two tokens tie."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dpc.engine import Decoder, Request
from dpc.engine.plain import greedy
from dpc.model.lm import FrozenLM
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.settings import DecodingSettings
from tests.tiny_models import ARCHITECTURES, few_by_default, tiny_lm

# Tokens that end an answer count as one: which of them was written is not kept.
ENDS, NEW_TOKENS = [7, 9], 40
# A logit in bfloat16 is known to one part in 256; a tie is a difference of a few such parts.
TIE = 8 * 2**-8


def sixteen_bit_lm(architecture: str) -> FrozenLM:
    lm = tiny_lm(architecture, torch.bfloat16)
    lm.model.generation_config.eos_token_id = ENDS
    return lm


def requests_for(lm: FrozenLM, count: int) -> list[Request]:
    generator = torch.Generator().manual_seed(1)
    prompt = SoftPrompt.of(torch.randn(5, lm.hidden_size, generator=generator) * 0.3, lm.name)
    lengths = torch.randint(1, 40, (count,), generator=generator).tolist()
    return [Request(torch.randint(10, 100, (n,), generator=generator).tolist(), prompt) for n in lengths]


def first_difference(lm: FrozenLM, request: Request, one: tuple[int, ...], other: tuple[int, ...]) -> float | None:
    """How far apart, as a share of the largest logit, the two tokens are where the answers part; None: nowhere."""
    ended = (ENDS[0],)
    at = next((i for i, (a, b) in enumerate(zip(one + ended, other + ended, strict=False)) if a != b), None)
    if at is None:
        return None
    assert request.soft_prompt is not None
    ids = torch.tensor([*request.question, *one[:at]], device=lm.device)
    embedded = torch.cat([request.soft_prompt.vectors.to(lm.device, lm.dtype), lm.embed(ids)])[None]
    with torch.no_grad():
        logits = lm.last_logits(embedded, 1)[0, -1]
    a, b = (logits[ENDS].max() if at == len(ids) else logits[ids[at]] for ids in (one, other))
    return float((a - b).abs() / logits.abs().max())


@pytest.mark.parametrize("architecture", few_by_default(*ARCHITECTURES))
def test_answers_with_drafts_part_from_plain_ones_only_where_two_tokens_tie(architecture: str) -> None:
    lm = sixteen_bit_lm(architecture)
    requests = requests_for(lm, 24)
    plain = [greedy(lm, [request], NEW_TOKENS)[0] for request in requests]
    drafted = [replace(request, draft=answer.ids) for request, answer in zip(requests, plain, strict=True)]
    made = Decoder(lm, DecodingSettings(batch_size=8)).all(drafted, NEW_TOKENS)
    gaps = [
        first_difference(lm, request, one.ids, other.ids)
        for request, one, other in zip(requests, plain, made, strict=True)
    ]
    assert max((gap for gap in gaps if gap is not None), default=0.0) < TIE


def test_the_measure_of_a_tie_tells_a_wrong_token() -> None:
    lm = sixteen_bit_lm("llama")
    gaps = []
    for request in requests_for(lm, 8):
        [answer] = greedy(lm, [request], NEW_TOKENS)
        wrong = (*answer.ids[:3], (answer.ids[3] + 1) % 250, *answer.ids[4:])
        gaps.append(first_difference(lm, request, answer.ids, wrong))
    assert all(gap is not None and gap > TIE for gap in gaps)
