"""Attention calibration (ACT, Yu et al. 2024): the soft prompt as it was tuned, attention sinks calibrated."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dpc.engine import Decoder, Request, by_length
from dpc.engine.plain import greedy
from dpc.methods.act_attention import SinkCalibration, calibrated_attention
from dpc.methods.method import Method, Setup
from dpc.methods.one_pass import OnePass
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.types import Answer, Cost


@dataclass(frozen=True, slots=True)
class AttentionCalibration:
    """Answers with the soft prompt before the question, as the paper's ACT does.

    That it does is seen from the paper's Table 1: its ACT equals prompt tuning on Mistral to the digit.
    """

    soft_prompt: SoftPrompt
    calibration: SinkCalibration

    def answer(
        self, decoder: Decoder, questions: Sequence[Sequence[int]], max_new_tokens: int
    ) -> Iterator[tuple[int, Answer]]:
        """One greedy pass in plain batches. Where the search found no head to calibrate, this is prompt tuning."""
        if not self.calibration.heads:
            yield from OnePass(self.soft_prompt).answer(decoder, questions, max_new_tokens)
            return
        requests = [Request(question, self.soft_prompt, tag=index) for index, question in enumerate(questions)]
        for batch in by_length(requests, decoder.settings.batch_size):
            began = time.perf_counter()
            with calibrated_attention(decoder.lm, self.calibration) as cache:
                generations = greedy(decoder.lm, [requests[i] for i in batch], max_new_tokens, cache)
            seconds = (time.perf_counter() - began) / len(batch)
            for index, generation in zip(batch, generations, strict=True):
                tokens = len(generation.ids)
                passes = tokens + (generation.finish == "eos")
                cost = Cost(passes, 0, tokens, seconds, forward_tokens=float(len(requests[index]) + passes - 1))
                yield index, Answer(generation, None, None, cost)


def _act(setup: Setup) -> AttentionCalibration:
    prompt, heads = setup.need_prompt("act"), setup.need_act_heads("act")
    return AttentionCalibration(prompt, SinkCalibration(heads, setup.act.alpha, setup.act.beta))


ACT = Method(
    "act",
    "attention calibration (Yu et al. 2024): sinks of searched heads are attenuated",
    build=_act,
    needs=frozenset({"prompt", "act_heads"}),
)
