"""Decoding on a GPU: a random 8B Llama in bfloat16, compared with ``generate`` and with the memory bandwidth."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks import naive
from benchmarks.figures import Measured, Point, Target
from benchmarks.measure import Bench, Subject, Unavailable, alternate, share_equal
from dpc.engine import Decoder, Request
from dpc.model.lm import FrozenLM
from dpc.model.loading import load_lm
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.settings import DecodingSettings

BATCH, PROMPT, QUESTION, NEW_TOKENS = 32, 100, 128, 256
SIZES = {"batch": BATCH, "prompt": PROMPT, "question": QUESTION, "new tokens": NEW_TOKENS}
FASTER, COMPILED = "generate's time / ours", "generate's time / ours, compiled"
BANDWIDTH, COMPILED_BANDWIDTH = "share of the bandwidth limit", "share of the bandwidth limit, compiled"
EQUAL = "share of equal answers, float64, 4 layers"
EXACT_LAYERS = 4


@dataclass(frozen=True, slots=True)
class Large:
    """A random model of 8 billion weights on the GPU, with a random prompt and random questions."""

    lm: FrozenLM
    prompt: SoftPrompt
    questions: list[list[int]]

    @classmethod
    def make(cls, layers: int, dtype: torch.dtype) -> Large:
        """Make one with ``layers`` layers. Raises ``Unavailable`` without a GPU."""
        if not torch.cuda.is_available():
            raise Unavailable("no GPU here")
        lm = large_lm(layers, dtype)
        generator = torch.Generator().manual_seed(1)
        vectors = torch.randn(PROMPT, lm.hidden_size, generator=generator) * 0.02
        questions = torch.randint(2, lm.vocab_size, (BATCH, QUESTION), generator=generator).tolist()
        return cls(lm, SoftPrompt.of(vectors.to(lm.device), lm.name), questions)

    def decode(self, decoder: Decoder) -> list[tuple[int, ...]]:
        """The package's answers. The caller keeps ``decoder``, as a run does: graphs and cache are made once."""
        requests = [Request(question, self.prompt) for question in self.questions]
        return [generation.ids for generation in decoder.all(requests, NEW_TOKENS)]

    def generate(self) -> list[tuple[int, ...]]:
        """The answers of naive DPC's ``generate``."""
        prompts = [self.prompt.vectors] * BATCH
        written: list[tuple[int, ...]] = naive.generate(self.lm.model, self.questions, prompts, NEW_TOKENS, BATCH)
        return written


def large_lm(layers: int, dtype: torch.dtype) -> FrozenLM:
    """A Llama 3 with random weights, 8 billion with 32 layers, on the GPU. No token ends its answers."""
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        dtype=dtype,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("cuda"):
            model: PreTrainedModel = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    # One past the vocabulary: a token that is never generated.
    model.generation_config = GenerationConfig(eos_token_id=config.vocab_size, pad_token_id=0)
    return FrozenLM(model.eval().requires_grad_(False), load_lm("zoo", device="cpu").tokenizer, "random-8b", "seed-0")


def copy_bandwidth() -> float:
    """Bytes per second read and written by a copy of one gibibyte; median of ten."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target, taken = torch.empty_like(source), []
    for _ in range(12):
        torch.cuda.synchronize()
        began = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return 2 * source.numel() / median(taken[2:])


def step_bytes(lm: FrozenLM) -> float:
    """Bytes that a decode step must read: all weights but the input embeddings, and the KV cache at mid-answer."""
    config = lm.model.config
    weights = sum(p.numel() * p.element_size() for p in lm.model.parameters())
    embeddings = lm.model.get_input_embeddings().weight
    assert isinstance(embeddings, torch.Tensor)
    kept: int = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * embeddings.element_size()
    positions = PROMPT + QUESTION + NEW_TOKENS / 2
    return float(weights - embeddings.numel() * embeddings.element_size() + BATCH * positions * kept)


def _measure(bench: Bench) -> Iterator[Measured]:
    yield from _speed(bench)
    torch.cuda.empty_cache()
    yield Measured(EQUAL, *_equal())


def _speed(bench: Bench) -> Iterator[Measured]:
    large = Large.make(4 if bench.quick else 32, torch.bfloat16)
    # Without drafts, every forward pass generates one token per row, as the limit assumes.
    settings = DecodingSettings(batch_size=BATCH, draft_tokens=0)
    compiled = settings.model_copy(update={"compile": True})
    subjects: dict[str, Subject] = {"naive": large.generate}
    for name, chosen in (("dpc", settings), ("compiled", compiled)):
        subjects[name] = partial(large.decode, Decoder(large.lm, chosen))
    first = {name: taken for name, [taken] in alternate(subjects, 1).items()}
    seconds = bench.seconds(subjects)
    bandwidth = copy_bandwidth()
    limit = step_bytes(large.lm) / bandwidth
    raw = {"seconds": seconds, "first run's seconds": first, "copy bytes/s": bandwidth, "least seconds a step": limit}
    for name, faster, share in (("dpc", FASTER, BANDWIDTH), ("compiled", COMPILED, COMPILED_BANDWIDTH)):
        yield Measured(faster, seconds["naive"] / seconds[name], raw | SIZES)
        # The time of the prefill counts as time of decode steps, which lowers the share.
        yield Measured(share, limit * NEW_TOKENS / seconds[name], raw | SIZES)


def _equal() -> tuple[float, dict[str, int]]:
    """In float64, because logits of random weights in 16 bits are nearly tied at every token."""
    large = Large.make(EXACT_LAYERS, torch.float64)
    equal = share_equal(large.decode(Decoder(large.lm, DecodingSettings(batch_size=BATCH // 2))), large.generate())
    return equal, {"equal": round(equal * BATCH), "of": BATCH}


SMALL = "without compilation, a decode step is many small kernels, each of which reads and writes the activations"
POINT = Point(
    {
        FASTER: Target(">=", 3.0),
        COMPILED: Target(">=", 3.0),
        BANDWIDTH: Target(">=", 0.5, SMALL),
        COMPILED_BANDWIDTH: Target(">=", 0.5),
        EQUAL: Target(">=", 1.0),
    },
    _measure,
)
