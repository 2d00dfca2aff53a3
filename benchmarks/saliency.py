"""Saliency compared with naive DPC's, which keeps full attention matrices: time and extra peak memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks import naive
from benchmarks.figures import Measured, Point, Target
from benchmarks.measure import FOLDER, Alone, Bench, Unavailable, run_alone
from benchmarks.plot import Series, log_chart
from dpc.flow.saliency import prompt_saliency
from dpc.model.lm import FrozenLM
from dpc.model.loading import load_lm

LAYERS, WIDTH, HEADS, FEED_FORWARD, VOCABULARY = 12, 768, 12, 2048, 32000
PROMPT, CONTEXT = 100, 8192
MEBIBYTE = 2**20


def random_lm(vocabulary: int = VOCABULARY) -> FrozenLM:
    """A Llama of GPT-2's size with random weights, the same in every process. Its tokenizer is not used."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=FEED_FORWARD,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=CONTEXT,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = LlamaForCausalLM(config)
    return FrozenLM(model.eval().requires_grad_(False), load_lm("zoo").tokenizer, "random", "seed-0")


def instance(lm: FrozenLM, length: int) -> tuple[Tensor, list[int], list[int]]:
    """A random soft prompt, question and rationale of ``length`` positions together."""
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randn(PROMPT, lm.hidden_size, generator=generator) * 0.02
    tokens = torch.randint(2, lm.vocab_size, (length - PROMPT,), generator=generator).tolist()
    question = (length - PROMPT) // 3
    return prompt, tokens[:question], tokens[question:]


def ours(parameters: Mapping[str, Any]) -> Callable[[], Tensor]:
    """Prompt columns of every layer, by the package. parameters: ``length`` in positions."""
    lm = random_lm()
    return _set_up(lm, parameters, lambda p, q, r: prompt_saliency(lm, p, [q], [r])[0].scores)


def theirs(parameters: Mapping[str, Any]) -> Callable[[], Tensor]:
    """Prompt columns of every layer, by naive DPC, from whole matrices."""
    lm = random_lm()

    def compute(prompt: Tensor, question: list[int], rationale: list[int]) -> Tensor:
        maps = naive.saliency(lm.model, prompt, question, rationale, range(lm.layers))
        return torch.stack([matrix[PROMPT:, :PROMPT] for matrix in maps.values()])

    return _set_up(lm, parameters, compute)


def _set_up(lm: FrozenLM, parameters: Mapping[str, Any], compute: Callable[..., Tensor]) -> Callable[[], Tensor]:
    # A first run, so that loading of libraries is not measured.
    compute(*instance(lm, PROMPT + 24))
    return partial(compute, *instance(lm, parameters["length"]))


SUBJECTS = {"naive": f"{__name__}:theirs", "dpc": f"{__name__}:ours"}


def _against_naive(length: int, bench: Bench) -> Iterator[Measured]:
    parameters = {"length": length}
    subjects: dict[str, Callable[[], Tensor]] = {"naive": theirs(parameters), "dpc": ours(parameters)}
    seconds = bench.seconds(subjects)
    sizes = {**parameters, "layers": LAYERS, "width": WIDTH, "heads": HEADS, "prompt": PROMPT, "vocabulary": VOCABULARY}
    yield Measured("naive's time / ours", seconds["naive"] / seconds["dpc"], {"seconds": seconds, **sizes})
    scores = {name: subject() for name, subject in subjects.items()}
    difference = scores["dpc"] - scores["naive"]
    yield Measured("relative difference", float(difference.norm() / scores["naive"].norm()), sizes)
    subjects.clear()
    extra = bench.memory(SUBJECTS, parameters)
    yield Measured("our extra peak memory / naive's", extra["dpc"] / extra["naive"], {"bytes": extra, **sizes})


# Why a target for time may be missed.
PRODUCTS = (
    "most of the time is spent in products with the frozen weights; naive computes them for all rows, dpc for all but "
    "the prompt's; the extra time for full attention matrices is small for short sequences"
)


def _point(length: int, faster: float, memory: float) -> Point:
    targets = {
        "naive's time / ours": Target(">=", faster, PRODUCTS),
        "relative difference": Target("<=", 1e-4),
        "our extra peak memory / naive's": Target("<=", memory),
    }
    return Point(targets, partial(_against_naive, length))


LONG = _point(2048, 5.0, 1 / 6)
SHORT = _point(512, 2.0, 1 / 3)


def _over_length(bench: Bench) -> Iterator[Measured]:
    lengths = [256, 512, 1024] if bench.quick else [256, 512, 1024, 2048, 4096, 8192]
    runs_each = 1 if bench.quick else min(bench.repeats, 3)
    runs: dict[str, dict[int, Alone]] = {name: {} for name in SUBJECTS}
    stopped = ""
    for length in lengths:
        for name, subject in SUBJECTS.items():
            if name == "naive" and (stopped := stopped or _too_much(runs[name], length)):
                continue
            try:
                alone = [run_alone(subject, {"length": length}) for _ in range(runs_each)]
            except Unavailable as error:
                if name != "naive" or not runs[name]:
                    raise
                stopped = f"{error} at {length} positions"
                continue
            runs[name][length] = Alone(median(a.seconds for a in alone), int(median(a.extra_bytes for a in alone)))
    raw = {
        "seconds": {name: {length: run.seconds for length, run in found.items()} for name, found in runs.items()},
        "bytes": {name: {length: run.extra_bytes for length, run in found.items()} for name, found in runs.items()},
        "naive stops": stopped or "nowhere",
    }
    if not bench.quick:
        draw(runs)
    measured = {length: run.extra_bytes for length, run in runs["dpc"].items()}
    yield Measured("memory grows as length to the power of", growth(measured), raw)
    yield Measured("time grows as length to the power of", growth({n: run.seconds for n, run in runs["dpc"].items()}))


def growth(values: Mapping[int, int] | Mapping[int, float]) -> float:
    """Exponent b of ``value = a * length ** b`` between the two longest lengths."""
    (short, low), (long, high) = sorted(values.items())[-2:]
    return math.log(high / low) / math.log(long / short)


def _too_much(measured: Mapping[int, Alone], length: int) -> str:
    """Why naive is not run at ``length``, if its memory, which grows with the square, would not fit."""
    if not measured:
        return ""
    longest = max(measured)
    needed = measured[longest].extra_bytes * (length / longest) ** 2
    free = _available_bytes()
    if needed < 0.8 * free:
        return ""
    return f"{length} positions would need about {needed / 2**30:.0f} GiB where {free / 2**30:.0f} GiB are free"


def _available_bytes() -> int:
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def draw(runs: Mapping[str, Mapping[int, Alone]]) -> None:
    """Write the charts of seconds and memory over length, next to ``benchmarks/README.md``."""
    seconds = [Series(name, {n: run.seconds for n, run in found.items()}) for name, found in runs.items()]
    memory = [Series(name, {n: run.extra_bytes / MEBIBYTE for n, run in found.items()}) for name, found in runs.items()]
    for file, label, series in (
        ("saliency-seconds.svg", "seconds", seconds),
        ("saliency-memory.svg", "extra peak memory, MiB", memory),
    ):
        (FOLDER / file).write_text(log_chart(series, ("positions", label)), "utf-8")


LENGTH = Point(
    {
        "memory grows as length to the power of": Target("<=", 1.1),
        "time grows as length to the power of": None,
    },
    _over_length,
)
