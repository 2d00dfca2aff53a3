"""The whole method against prompt tuning through the same engine, and against naive DPC: seconds, memory, answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks import naive
from benchmarks.embedded import embedded, parameters, prepare_prompt
from benchmarks.figures import Measured, Point, Target
from benchmarks.measure import Bench, Subject, share_equal
from dpc.types import Answer

PRICE, FASTER = "time of DPC / prompt tuning", "naive DPC's time / ours"
MEMORY, EQUAL = "our extra peak memory / naive's", "share of equal outcomes"
MEMORY_ROWS = 250


def ours(chosen: Mapping[str, Any]) -> Subject:
    """DPC on embedded questions."""
    e = embedded(chosen)
    return lambda: e.answers("dpc")


def theirs(chosen: Mapping[str, Any]) -> Subject:
    """Naive DPC on embedded questions."""
    e, opponent = embedded(chosen), naive
    return lambda: e.naive(opponent)


SUBJECTS = {"naive": f"{__name__}:theirs", "dpc": f"{__name__}:ours"}


def _measure(bench: Bench) -> Iterator[Measured]:
    opponent, prompt = naive, prepare_prompt(bench.prompt)
    e = embedded(parameters(prompt, 100 if bench.quick else 1000))
    kept: dict[str, list[Any]] = {}

    def keep(name: str, answers: list[Any]) -> None:
        kept[name] = answers

    seconds = bench.seconds(
        {
            "naive": lambda: keep("naive", e.naive(opponent)),
            "prompt_tuning": lambda: e.answers("prompt_tuning"),
            "dpc": lambda: keep("dpc", e.answers("dpc")),
        }
    )
    total = len(e.questions)
    rate = sum(answer.second is not None for answer in kept["dpc"]) / total
    raw = {"seconds": seconds, "instances": total, "trigger rate": rate, "tau": e.tau}
    price = Target("<=", 1 + 0.5 * rate + 0.05, LIKE)
    yield Measured(PRICE, seconds["dpc"] / seconds["prompt_tuning"], raw, price)
    yield Measured(FASTER, seconds["naive"] / seconds["dpc"], raw)
    equal = share_equal([outcome(answer) for answer in kept["dpc"]], [_theirs(answer) for answer in kept["naive"]])
    yield Measured(EQUAL, equal, {"equal": round(equal * total), "of": total})
    rows = total // 2 if bench.quick else MEMORY_ROWS
    extra = bench.memory(SUBJECTS, parameters(prompt, rows))
    yield Measured(MEMORY, extra["dpc"] / extra["naive"], {"bytes": extra, "instances": rows})


Outcome = tuple[tuple[int, ...], tuple[int, ...] | None, int | None]


def outcome(answer: Answer) -> Outcome:
    """Both texts, and the key token where there is a second one."""
    key = answer.decision.key_token if answer.decision is not None and answer.second is not None else None
    return answer.first.ids, None if answer.second is None else answer.second.ids, key


def _theirs(answer: Any) -> Outcome:
    return answer.first, answer.second, None if answer.second is None else answer.key_token


# Why the targets may be missed. A sequence of the embedded benchmark has about 130 tokens, its model 872,000 weights.
LIKE = (
    "judging every instance is a way there and back through last block and head, and tracing one that triggered is one "
    "through nearly all of the network, which for so small a model costs no less than answering it; the faster the "
    "first pass, the larger their share"
)
SHORT = "over 130 positions naive's whole matrices are small and quick; see decode for its generation"
CACHE = (
    "ours is the cache of 64 slots, what waits to be judged, and the graph of those that are traced; over 130 "
    "positions naive's whole matrices are small"
)
# The target of the first stands with its measurement: it depends on the trigger rate.
POINT = Point(
    {PRICE: None, FASTER: Target(">=", 6.0, SHORT), EQUAL: Target(">=", 1.0), MEMORY: Target("<=", 0.5, CACHE)},
    _measure,
)
