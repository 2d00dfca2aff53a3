"""Greedy decoding compared with ``generate``, and the second pass with and without drafts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks import naive
from benchmarks.embedded import Embedded, decode, embedded, parameters, prepare_prompt
from benchmarks.figures import Measured, Point, Target
from benchmarks.measure import Bench, share_equal
from dpc.engine import Request
from dpc.flow.thresholds import ALWAYS
from dpc.prompt.corruption import corrupt
from dpc.prompt.soft_prompt import SoftPrompt

SORTED, IN_ORDER = "generate's time by length / ours", "generate's time in order / ours"
EQUAL = "share of equal answers"


def _decode(bench: Bench) -> Iterator[Measured]:
    e = embedded(parameters(prepare_prompt(bench.prompt), 200 if bench.quick else 1000))
    prompts = [e.vectors] * len(e.questions)

    def generate(by_length: bool) -> list[tuple[int, ...]]:
        written: list[tuple[int, ...]] = naive.generate(
            e.lm.model, e.questions, prompts, e.max_new_tokens, e.batch_size, by_length
        )
        return written

    requests = [Request(question, e.prompt) for question in e.questions]

    def ours() -> list[tuple[int, ...]]:
        return [d.generation.ids for d in decode(e.lm, requests, e.max_new_tokens, e.settings.decoding)]

    subjects = {"naive": lambda: generate(True), "naive in order": lambda: generate(False), "dpc": ours}
    seconds = bench.seconds(subjects)
    written = ours()
    tokens = sum(map(len, written))
    per_second = {name: tokens / taken for name, taken in seconds.items()}
    raw = {
        "seconds": seconds,
        "tokens/s": per_second,
        "tokens": tokens,
        "instances": len(written),
        "batch_size": e.batch_size,
    }
    yield Measured(SORTED, seconds["naive"] / seconds["dpc"], raw)
    yield Measured(IN_ORDER, seconds["naive in order"] / seconds["dpc"], raw)
    theirs = generate(True)
    equal = share_equal(written, theirs)
    yield Measured(EQUAL, equal, {"equal": round(equal * len(written)), "of": len(written)})


READING = (
    "drafts reduce the number of forward passes, not of tokens; on a CPU the time of a pass grows with its tokens, and "
    "attention over 64 short rows consists of many small products in both implementations"
)
DECODE = Point({SORTED: Target(">=", 2.5, READING), IN_ORDER: None, EQUAL: Target(">=", 1.0)}, _decode)

PRICE, ACCEPTED = "time of a second pass with drafts / without", "tokens a forward pass with drafts"


def second_requests(e: Embedded) -> list[Request]:
    """A second pass for every judged instance: its corrupted prompt, and its first answer as the draft."""
    method, requests, made = e.settings.method, [], {}
    for question, answer in zip(e.questions, replace(e, tau=ALWAYS).answers("dpc"), strict=True):
        if answer.decision is None or answer.decision.key_token is None:
            continue
        key = answer.decision.key_token
        if key not in made:
            vectors = corrupt(e.vectors, key, method.gamma, method.prune_scope, method.mask_key)
            made[key] = SoftPrompt.of(vectors, e.lm.name)
        requests.append(Request(question, made[key], draft=answer.first.ids))
    return requests


def _second_pass(bench: Bench) -> Iterator[Measured]:
    e = embedded(parameters(prepare_prompt(bench.prompt), 100 if bench.quick else 500))
    drafted = second_requests(e)
    plain = [replace(request, draft=()) for request in drafted]
    decoding = e.settings.decoding
    seconds = bench.seconds(
        {
            "plain": lambda: decode(e.lm, plain, e.max_new_tokens, decoding),
            "drafts": lambda: decode(e.lm, drafted, e.max_new_tokens, decoding),
        }
    )
    found = {
        "plain": decode(e.lm, plain, e.max_new_tokens, decoding),
        "drafts": decode(e.lm, drafted, e.max_new_tokens, decoding),
    }
    tokens = sum(len(decoded.generation.ids) + (decoded.generation.finish == "eos") for decoded in found["plain"])
    passes = {name: sum(each.forward_passes for each in decoded) for name, decoded in found.items()}
    raw = {"seconds": seconds, "forward passes": passes, "tokens": tokens, "instances": len(drafted)}
    yield Measured(PRICE, seconds["drafts"] / seconds["plain"], raw)
    yield Measured(ACCEPTED, tokens / passes["drafts"], raw)
    written = [[each.generation.ids for each in decoded] for decoded in found.values()]
    equal = share_equal(*written)
    yield Measured(EQUAL, equal, {"equal": round(equal * len(drafted)), "of": len(drafted)})


SECOND_PASS = Point({PRICE: Target("<=", 0.6), ACCEPTED: None, EQUAL: Target(">=", 1.0)}, _second_pass)
