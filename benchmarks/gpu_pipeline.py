"""The whole method on a GPU: time of both passes, trigger and tracing with a random 8B Llama in bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from statistics import median

import torch

from benchmarks import naive
from benchmarks.figures import Measured, Point, Target
from benchmarks.gpu import BATCH, NEW_TOKENS, SIZES, Large
from benchmarks.measure import Bench, Subject
from dpc.engine import Decoder, Request
from dpc.flow.local_influence import local_influence
from dpc.flow.shallow import shallow_layers
from dpc.flow.thresholds import ALWAYS
from dpc.methods import build_method, get_method
from dpc.methods.method import Setup
from dpc.settings import DecodingSettings, MethodSettings
from dpc.types import Answer

PRICE, FASTER, TRIGGER = "time of DPC / prompt tuning", "naive DPC's time / ours", "time of the trigger / first pass"


def _measure(bench: Bench) -> Iterator[Measured]:
    large = Large.make(4 if bench.quick else 32, torch.bfloat16)
    decoder, method = Decoder(large.lm, DecodingSettings(batch_size=BATCH)), MethodSettings()
    always = _answers(large, decoder, "dpc", ALWAYS)
    tau = median(answer.decision.statistic or 0.0 for answer in always if answer.decision)
    kept: dict[str, int] = {}

    def ours(name: str) -> None:
        kept[name] = sum(answer.second is not None for answer in _answers(large, decoder, name, tau))

    def theirs() -> None:
        shallow = shallow_layers(range(large.lm.layers), method.shallow_start, method.shallow_stop)
        answers = naive.answer(
            large.lm.model,
            large.questions,
            large.prompt.vectors,
            shallow=shallow,
            tau=tau,
            gamma=method.gamma,
            max_new_tokens=NEW_TOKENS,
            batch_size=BATCH,
        )
        kept["naive"] = sum(answer.second is not None for answer in answers)

    decoder.submit(Request(q, large.prompt, trail=True) for q in large.questions)
    decoded = list(decoder.drain(NEW_TOKENS))

    def trigger() -> None:
        # Reading the value waits for the GPU.
        float(local_influence(large.lm, decoded)[0].at.sum())

    ours("prompt_tuning")
    theirs()
    subjects: dict[str, Subject] = {"naive": theirs, "trigger": trigger}
    subjects |= {name: partial(ours, name) for name in ("prompt_tuning", "dpc")}
    seconds = bench.seconds(subjects)
    rate = kept["dpc"] / BATCH
    # With random weights, rounding changes answers, and with them the instances that trigger.
    raw = {"seconds": seconds, "second passes": kept, "tau": tau, **SIZES}
    price = Target("<=", 1 + 0.5 * rate + 0.05, UNLIKE)
    yield Measured(PRICE, seconds["dpc"] / seconds["prompt_tuning"], raw, price)
    yield Measured(FASTER, seconds["naive"] / seconds["dpc"], raw)
    yield Measured(TRIGGER, seconds["trigger"] / seconds["prompt_tuning"], raw)


def _answers(large: Large, decoder: Decoder, name: str, tau: float) -> list[Answer]:
    runner = build_method(get_method(name), Setup(large.prompt, tau, MethodSettings()))
    return [answer for _, answer in runner.answer(decoder, large.questions, NEW_TOKENS)]


UNLIKE = (
    "a decode step takes a GPU as long for half of the rows, and with random weights the first answer is no good draft "
    "of the second"
)
HEAD = "the head over 128,256 tokens has twice the weights of a block; it runs forward and backward at every position"
POINT = Point({PRICE: None, FASTER: Target(">=", 6.0), TRIGGER: Target("<=", 0.03, HEAD)}, _measure)
