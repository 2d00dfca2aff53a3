"""Estimates of a stage's cost from shapes: tokens, memory, and seconds at a stated speed. No measurements."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any

import torch
from transformers import PreTrainedConfig

from dpc.model.blocks import softmax_blocks
from dpc.model.lm import FrozenLM
from dpc.settings import DecodingSettings, TuningSettings

# Share of the speed of a plain matrix product, or of a plain copy, that whole passes are assumed to reach.
EFFICIENCY = 0.5
# Small operations in a block's forward pass whose launching is assumed to take time.
OPERATIONS_A_BLOCK = 60
# Values of the hidden size, and of the feed-forward size, that a block's graph is assumed to keep for each token.
KEPT_HIDDEN, KEPT_WIDE = 12, 4
FLOAT32 = 4
# Rows of the largest matrix that is multiplied to measure a device, and seconds that are enough for it.
LARGEST_PRODUCT, WORTH_TIMING = 4096, 0.005


def _largest(config: PreTrainedConfig, name: str) -> Any:
    """A field of a configuration; the largest over its layers where these have their own (Gemma 4). None without it."""
    # A field that differs between layers raises an error where it is read from the whole configuration.
    layers = getattr(config, "per_layer_config", None)
    each = [config] if layers is None else list(layers)
    return max((value for layer in each if (value := getattr(layer, name, None))), default=None)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a pass through a model depends on.

    parameters: all of them. multiplied: those that every token meets in a product. softmax: layers with softmax
    attention. attention: heads times their size. kv_bytes: keys and values of one position in these layers.
    value_bytes: one weight. context: in tokens.
    """

    parameters: int
    multiplied: int
    layers: int
    softmax: int
    hidden: int
    wide: int
    heads: int
    attention: int
    vocabulary: int
    kv_bytes: int
    value_bytes: int
    context: int

    @classmethod
    def of(cls, lm: FrozenLM) -> Shape:
        """The shape of a model; its weights are not looked at."""
        config, size = lm.config, lm.dtype.itemsize
        parameters = sum(parameter.numel() for parameter in lm.model.parameters())
        # Embeddings are looked up; the head is a product, with a table of its own or with the embedding's.
        looked_up = sum(m.weight.numel() for m in lm.model.modules() if isinstance(m, torch.nn.Embedding))
        tied = lm.model.get_output_embeddings().weight is lm.model.get_input_embeddings().weight
        softmax = len(softmax_blocks(lm.model))
        heads = int(getattr(config, "num_attention_heads", 0) or 0)
        head = int(_largest(config, "head_dim") or lm.hidden_size // max(heads, 1))
        shared = int(_largest(config, "num_key_value_heads") or heads)
        return cls(
            parameters=parameters,
            multiplied=parameters - looked_up + tied * lm.vocab_size * lm.hidden_size,
            layers=lm.layers,
            softmax=softmax,
            hidden=lm.hidden_size,
            wide=int(_largest(config, "intermediate_size") or 4 * lm.hidden_size),
            heads=heads,
            attention=heads * head,
            vocabulary=lm.vocab_size,
            kv_bytes=2 * softmax * shared * head * size,
            value_bytes=size,
            context=lm.context,
        )

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return self.parameters * self.value_bytes

    def graph_bytes(self, tokens: int) -> int:
        """Bytes that the graph of a pass over ``tokens`` keeps for the way back."""
        return tokens * self.layers * (KEPT_HIDDEN * self.hidden + KEPT_WIDE * self.wide) * self.value_bytes


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a device is: operations and bytes a second, and seconds to launch one small operation."""

    device: str
    flops: int | float
    bytes: int | float
    launch: int | float
    memory: int

    def seconds(self, shape: Shape, tokens: int | float, attended: int | float) -> float:
        """One forward pass over ``tokens``, which read ``attended`` positions together: the slowest of three limits."""
        work = 2 * shape.multiplied * tokens + 4 * shape.softmax * shape.attention * attended
        moved = shape.weight_bytes + shape.kv_bytes * attended / max(tokens, 1)
        slowest = max(work / (EFFICIENCY * self.flops), moved / (EFFICIENCY * self.bytes))
        return slowest + OPERATIONS_A_BLOCK * shape.layers * self.launch


def measure_speed(device: torch.device, dtype: torch.dtype) -> Speed:
    """Time a matrix product, a copy and a small operation on ``device``, each thrice: a fraction of a second."""
    length = 2**28 if device.type == "cuda" else 2**24
    source, small = torch.ones(length, dtype=torch.uint8, device=device), torch.ones(8, device=device)
    target = torch.empty_like(source)
    size, product = 128, 0.0
    # As large as it takes to be worth timing: some types are a hundred times slower on a CPU.
    while size < LARGEST_PRODUCT and product < WORTH_TIMING:
        size *= 2
        square = torch.ones(size, size, dtype=dtype, device=device)
        product = _seconds(partial(torch.matmul, square, square), device)
    copy = _seconds(lambda: target.copy_(source), device)
    many = _seconds(lambda: [small + small for _ in range(200)], device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return Speed(name, 2 * size**3 / product, 2 * length / copy, many / 200, _memory(device))


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    return min(taken)


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@dataclass(frozen=True, slots=True)
class Lengths:
    """Rows of a split in tokens: how many, mean and longest question, mean answer (as long as the gold one)."""

    rows: int
    question: int | float
    longest: int
    answer: int | float

    @classmethod
    def of(cls, rows: int, questions: Sequence[int], answers: Sequence[int], otherwise: int | float) -> Lengths:
        """From token counts of some of the rows; ``otherwise`` is the answer's length where no gold text is known."""
        answer = sum(answers) / len(answers) if answers else otherwise
        return cls(rows, sum(questions) / max(1, len(questions)), max(questions, default=0), answer)

    def first(self, rows: int) -> Lengths:
        """As many of the rows, of the same lengths."""
        return Lengths(min(rows, self.rows), self.question, self.longest, self.answer)


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens that pass through the network, those among them that are written, and seconds."""

    tokens: int | float = 0.0
    written: int | float = 0.0
    seconds: int | float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.tokens + other.tokens, self.written + other.written, self.seconds + other.seconds)

    def __mul__(self, times: int | float) -> Work:
        return Work(self.tokens * times, self.written * times, self.seconds * times)


def generation(shape: Shape, speed: Speed, lengths: Lengths, prompt: int, decoding: DecodingSettings) -> Work:
    """Answer every row once, one token a step for all slots; drafts, which save steps, are not counted on."""
    if not lengths.rows:
        return Work()
    slots = min(decoding.batch_size, lengths.rows)
    read, written = lengths.rows * lengths.question, lengths.rows * lengths.answer
    entering = ceil(lengths.rows / slots)
    seconds = entering * speed.seconds(shape, read / entering, read / entering * (prompt + lengths.question / 2))
    position = prompt + lengths.question + lengths.answer / 2
    seconds += ceil(written / slots) * speed.seconds(shape, slots, slots * position)
    return Work(read + written + prompt, written, seconds)


def reading(shape: Shape, speed: Speed, lengths: Lengths, prompt: int, together: int) -> Work:
    """One pass over every row with its answer."""
    tokens = lengths.rows * (lengths.question + lengths.answer)
    passes = max(1, ceil(lengths.rows / together))
    attended = tokens / passes * (prompt + (lengths.question + lengths.answer) / 2)
    return Work(tokens, 0, passes * speed.seconds(shape, tokens / passes, attended))


def tracing(shape: Shape, speed: Speed, lengths: Lengths, prompt: int, together: int) -> Work:
    """One pass forward and back to the inputs over every row with its answer."""
    there = reading(shape, speed, lengths, prompt, together)
    # Frozen weights need no gradient: the way back costs what the way there did.
    return Work(there.tokens, 0, 2 * there.seconds)


def tuning(
    shape: Shape, speed: Speed, train: Lengths, dev: Lengths, updates: int, s: TuningSettings, d: DecodingSettings
) -> Work:
    """So many updates, with the looks at the dev rows that fall among them."""
    dev = dev.first(s.dev_limit)
    passes, length = updates * s.gradient_accumulation, train.question + train.answer
    tokens = s.batch_size * length + s.length
    seconds = 2 * passes * speed.seconds(shape, tokens, tokens * (s.length + length / 2))
    looks = ceil(updates / s.evaluate_every)
    loss = reading(shape, speed, dev, s.length, s.batch_size)
    return Work(passes * tokens, 0, seconds) + (loss + generation(shape, speed, dev, s.length, d)) * looks


def tuning_bytes(shape: Shape, longest: int, s: TuningSettings) -> int:
    """Peak of tuning beside the weights: the graph of a pass, its logits with their gradient, the optimizer."""
    tokens = s.batch_size * longest + s.length
    logits = tokens * shape.vocabulary * (shape.value_bytes + 2 * FLOAT32)
    state = 6 * s.length * shape.hidden * FLOAT32
    return shape.graph_bytes(tokens) + logits + state


def decoding_bytes(shape: Shape, lengths: Lengths, prompt: int, max_new_tokens: int, d: DecodingSettings) -> int:
    """Peak of decoding beside the weights, if every answer is as long as it may be: slots and kept prefixes."""
    positions = min(prompt + lengths.longest + max_new_tokens, shape.context)
    slots = min(d.batch_size, lengths.rows) * positions
    logits = min(d.batch_size, lengths.rows) * shape.vocabulary * (shape.value_bytes + FLOAT32)
    return (slots + min(d.prefixes, prompt) * prompt) * shape.kv_bytes + logits


def tracing_bytes(shape: Shape, lengths: Lengths, prompt: int, max_new_tokens: int, d: DecodingSettings) -> int:
    """Peak of tracing beside the weights, if one graph holds all blocks; block by block it is less."""
    positions = min(prompt + lengths.longest + max_new_tokens, shape.context)
    tokens = min(d.saliency_batch_size, lengths.rows) * positions
    return shape.graph_bytes(tokens) + tokens * shape.vocabulary * (shape.value_bytes + FLOAT32)
