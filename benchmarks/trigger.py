"""The trigger's time compared with the first pass before it and with naive DPC's own forward and backward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor
from transformers import GenerationConfig

from benchmarks import naive
from benchmarks.embedded import decode
from benchmarks.figures import Measured, Point, Target
from benchmarks.measure import Bench, Subject
from benchmarks.saliency import LAYERS, PROMPT, VOCABULARY, WIDTH, random_lm
from dpc.engine import Decoded, Request
from dpc.flow.local_influence import local_influence
from dpc.flow.shallow import shallow_layers
from dpc.model.lm import FrozenLM
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.settings import DecodingSettings

QUESTION, NEW_TOKENS = 100, 100
# The layers that naive DPC traces: the shallow ones for the key token, the last one for the trigger.
TRACED = [*shallow_layers(range(LAYERS)), LAYERS - 1]
DIFFERENCE = "relative difference to naive's influence"
HEAD = (
    "the head over 32,000 tokens has 24.6 million weights, three times those of the last block; run forward and "
    "backward over the rationale, it alone is a quarter of the arithmetic of a first pass, a thirteenth of naive's"
)
BLOCK = (
    "one block of twelve, forward and backward, is a sixth of the arithmetic of a pass; this is a small share only if "
    "the first pass is bound by memory bandwidth, as on a GPU or in a batch of one"
)


@dataclass(frozen=True, slots=True)
class _Case:
    """A vocabulary, of the embedded model's size or of Llama 2's, and the number of instances in the batch."""

    vocabulary: int
    batch: int

    @property
    def share(self) -> str:
        return f"time of the trigger / first pass, {self}"

    @property
    def faster(self) -> str:
        return f"time of naive's pass / trigger, {self}"

    def __str__(self) -> str:
        return f"vocabulary {self.vocabulary}, batch {self.batch}"


CASES = (_Case(533, 1), _Case(533, 8), _Case(VOCABULARY, 1), _Case(VOCABULARY, 8))


def _measure(bench: Bench) -> Iterator[Measured]:
    errors: list[float] = []
    for case in CASES:
        yield from _measure_case(bench, case, errors)
    yield Measured(DIFFERENCE, max(errors), {"instances": len(errors), "median": median(errors)})


def _measure_case(bench: Bench, case: _Case, errors: list[float]) -> Iterator[Measured]:
    lm = random_lm(case.vocabulary)
    # One past the vocabulary: a token that is never generated.
    lm.model.generation_config = GenerationConfig(eos_token_id=case.vocabulary, pad_token_id=0)
    generator = torch.Generator().manual_seed(1)
    prompt = SoftPrompt.of(torch.randn(PROMPT, WIDTH, generator=generator) * 0.02, lm.name)
    questions = torch.randint(2, case.vocabulary, (case.batch, QUESTION), generator=generator).tolist()
    requests = [Request(question, prompt, trail=True) for question in questions]
    settings = DecodingSettings(batch_size=case.batch)
    first = decode(lm, requests, NEW_TOKENS, settings)
    subjects: dict[str, Subject] = {
        "first pass": partial(decode, lm, requests, NEW_TOKENS, settings),
        "trigger": partial(local_influence, lm, first),
        "naive": partial(_naive_pass, lm, first),
    }
    seconds = bench.seconds(subjects)
    raw = {"seconds": seconds, "layers": LAYERS, "width": WIDTH, "question": QUESTION, "new tokens": NEW_TOKENS}
    yield Measured(case.share, seconds["trigger"] / seconds["first pass"], raw)
    yield Measured(case.faster, seconds["naive"] / seconds["trigger"], raw)
    for mine, reference in zip(local_influence(lm, first), _naive_pass(lm, first), strict=True):
        errors.append(float((mine.at - reference).norm() / reference.norm()))


def _naive_pass(lm: FrozenLM, decoded: Sequence[Decoded]) -> list[Tensor]:
    """Influence of the prompt on every rationale token, from the whole matrix of the last layer."""
    found = []
    for each in decoded:
        question, prompt = each.request.question, each.request.soft_prompt
        assert prompt is not None
        maps = naive.saliency(lm.model, prompt.vectors, question, each.generation.ids, TRACED)
        found.append(maps[LAYERS - 1][PROMPT + len(question) :, :PROMPT].mean(dim=1))
    return found


def _targets() -> Iterator[tuple[str, Target]]:
    for case in CASES:
        gap = HEAD if case.vocabulary == VOCABULARY else BLOCK
        yield case.share, Target("<=", 0.03, gap)
        yield case.faster, Target(">=", 20.0, gap)
    yield DIFFERENCE, Target("<=", 1e-5)


POINT = Point(dict(_targets()), _measure)
