"""Decoding on a GPU: a random 8B Llama in bfloat16 against ``generate``, and against what its memory could deliver."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from dpc.bench.embedded import decode
from dpc.bench.figures import Measured, Point, Target
from dpc.bench.measure import Bench, Unavailable, share_equal
from dpc.bench.opponent import naive
from dpc.engine import Request
from dpc.lm import FrozenLM, load_lm
from dpc.settings import DecodingSettings
from dpc.soft_prompt import SoftPrompt

BATCH, PROMPT, QUESTION, NEW_TOKENS = 32, 100, 128, 256
FASTER, BANDWIDTH = "generate's time / ours", "share of the bandwidth limit"
EQUAL = "share of equal tokens before the first difference"


def large_lm(layers: int) -> FrozenLM:
    """A Llama 3 of 8 billion random weights on the GPU, whose answers never end by themselves."""
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
        dtype=torch.bfloat16,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            model: PreTrainedModel = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    # One past the vocabulary: a token that is never written.
    model.generation_config = GenerationConfig(eos_token_id=config.vocab_size, pad_token_id=0)
    return FrozenLM(model.eval().requires_grad_(False), load_lm("zoo", device="cpu").tokenizer, "random-8b", "seed-0")


def copy_bandwidth() -> float:
    """Bytes a second that a copy of one gibibyte reads and writes, the median of ten."""
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
    """Bytes that one step must read: every weight but the input embeddings, and keys and values half way through."""
    config = lm.model.config
    weights = sum(p.numel() * p.element_size() for p in lm.model.parameters())
    embeddings = lm.model.get_input_embeddings().weight
    assert isinstance(embeddings, torch.Tensor)
    kept: int = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * embeddings.element_size()
    positions = PROMPT + QUESTION + NEW_TOKENS / 2
    return float(weights - embeddings.numel() * embeddings.element_size() + BATCH * positions * kept)


def _measure(bench: Bench) -> Iterator[Measured]:
    if not torch.cuda.is_available():
        raise Unavailable("no GPU here")
    opponent, lm = naive(), large_lm(layers=4 if bench.quick else 32)
    generator = torch.Generator().manual_seed(1)
    prompt = SoftPrompt.of(torch.randn(PROMPT, lm.hidden_size, generator=generator).cuda() * 0.02, lm.name)
    questions = torch.randint(2, lm.vocab_size, (BATCH, QUESTION), generator=generator).tolist()
    requests = [Request(question, prompt, tag=index) for index, question in enumerate(questions)]
    settings = DecodingSettings(batch_size=BATCH)

    def ours() -> list[tuple[int, ...]]:
        return [decoded.generation.ids for decoded in decode(lm, requests, NEW_TOKENS, settings)]

    def theirs() -> list[tuple[int, ...]]:
        written: list[tuple[int, ...]] = opponent.generate(
            lm.model, questions, [prompt.vectors] * BATCH, NEW_TOKENS, BATCH
        )
        return written

    written, reference = ours(), theirs()
    seconds = bench.seconds({"naive": theirs, "dpc": ours})
    bandwidth = copy_bandwidth()
    limit = step_bytes(lm) / bandwidth
    sizes = {"batch": BATCH, "prompt": PROMPT, "question": QUESTION, "new tokens": NEW_TOKENS}
    raw = {"seconds": seconds, "copy bytes/s": bandwidth, "least seconds a step": limit, **sizes}
    yield Measured(FASTER, seconds["naive"] / seconds["dpc"], raw)
    # The question's own pass is counted as if it were steps: against us.
    yield Measured(BANDWIDTH, limit * NEW_TOKENS / seconds["dpc"], raw)
    agreed = sum(_agree(a, b) for a, b in zip(written, reference, strict=True))
    yield Measured(EQUAL, agreed / (BATCH * NEW_TOKENS), {"equal answers": share_equal(written, reference)})


def _agree(ours: tuple[int, ...], theirs: tuple[int, ...]) -> int:
    return next((at for at, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), len(ours))


POINT = Point({FASTER: Target(">=", 3.0), BANDWIDTH: Target(">=", 0.5), EQUAL: None}, _measure)
