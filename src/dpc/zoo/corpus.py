"""The training texts of the embedded model, and its benchmark, whose problems are shifted from those texts.

Train, dev and test are disjoint in two ways: no sequence of operations and no tuple of numbers of three or more steps
is in two of them. The training corpus of the model contains no sequence and no tuple of dev or test either.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from dpc.errors import UserError
from dpc.zoo.problems import Difficulty, House, Problem, sample_problem, solve, tell

# Weeks of five days, and named months: a minority among the texts that the model is trained on.
BENCHMARK_HOUSE = House(days=5, full=True)
BENCHMARK = Difficulty(steps=(3, 5), distractors=(0, 2), orders=("story", "shuffled"), rare=0.5)
# A split has few different sequences of operations, so the share of problems with a week is fixed, not left to chance.
WEEK_SHARE = 0.45
BENCHMARK_ROWS = {"train": 2000, "dev": 500, "test": 1000}
# The embedded benchmark needs fewer than 2,000 draws in a row for its next problem.
MOST_MISSES = 50_000

END = "<eos>"


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the curriculum: until which share of all tokens it lasts, and a mixture of difficulties."""

    until: float
    mixture: tuple[tuple[float, Difficulty], ...]


_ORDERS = ("story", "story", "question_first", "shuffled")
CURRICULUM = (
    Stage(0.06, ((1.0, Difficulty(steps=(1, 1))),)),
    Stage(0.16, ((1.0, Difficulty(steps=(1, 3))),)),
    Stage(0.35, ((1.0, Difficulty(steps=(1, 5))),)),
    Stage(
        1.0,
        (
            (0.2, Difficulty(steps=(1, 2))),
            (0.4, Difficulty(steps=(2, 5), orders=_ORDERS)),
            (0.4, Difficulty(steps=(2, 5), distractors=(1, 2), orders=_ORDERS)),
        ),
    ),
)


@cache
def _bucket(key: tuple[object, ...]) -> str:
    """The one split that a sequence of operations or a tuple of numbers belongs to."""
    digit = int(hashlib.sha256(repr(key).encode()).hexdigest(), 16) % 10
    return {0: "test", 1: "dev"}.get(digit, "train")


def belongs_to(problem: Problem, split: str) -> bool:
    """Whether both the operations and the numbers of ``problem`` belong to ``split``."""
    return _bucket(problem.skeleton) == split and _bucket(problem.numbers) == split


def header(house: House, rng: random.Random) -> str:
    """A line that states some of the conventions of ``house``: the first line of some training texts."""
    notes = [f"A week has {house.days} days.", "Name the months." if house.full else "Only write numbers."]
    chosen = [note for note in notes if rng.random() < 0.7]
    rng.shuffle(chosen)
    return " ".join(chosen) + "\n" if chosen else ""


def draw_house(rng: random.Random) -> House:
    """Random conventions for a training text: most weeks have seven days."""
    return House(days=7 if rng.random() < 0.6 else 5, full=rng.random() < 0.5)


def format_answer(lines: list[str], answer: int) -> str:
    """GSM8K's form: a step a line, then ``#### N``."""
    return "\n".join([*lines, f"#### {answer}"])


@dataclass(frozen=True, slots=True)
class Document:
    """One training text: the question, with a small weight in the loss, and the answer, with weight 1."""

    question: str
    answer: str


def _training_problem(rng: random.Random, difficulty: Difficulty) -> Problem:
    while True:
        problem = sample_problem(rng, difficulty)
        if len(problem.steps) < 3 or belongs_to(problem, "train"):
            return problem


def training_documents(seed: int, index: int, count: int, progress: float) -> list[Document]:
    """``count`` training texts of batch ``index`` at ``progress`` in [0, 1] through the curriculum."""
    rng = random.Random(f"{seed}:{index}")
    stage = next(s for s in CURRICULUM if progress <= s.until)
    weights = [w for w, _ in stage.mixture]
    documents = []
    for _ in range(count):
        house = draw_house(rng)
        difficulty = rng.choices([d for _, d in stage.mixture], weights)[0]
        problem = _training_problem(rng, difficulty)
        note = header(house, rng) if rng.random() < 0.5 else ""
        question = f"{note}Question: {tell(problem)}\nAnswer:"
        documents.append(Document(question, " " + format_answer(*solve(problem, house)) + END))
    return documents


def benchmark_rows(
    split: str, count: int, seed: int = 0, difficulty: Difficulty = BENCHMARK
) -> Iterator[dict[str, str]]:
    """Rows of a benchmark's ``split`` in GSM8K's format, each a different problem of ``difficulty``.

    Raises:
        UserError: where ``difficulty`` has too few problems that belong to ``split``.
    """
    rng = random.Random(f"benchmark:{seed}:{split}")
    seen: set[tuple[object, ...]] = set()
    misses = 0
    while len(seen) < count:
        if misses == MOST_MISSES:
            raise UserError(
                f"{difficulty}: has {len(seen)} problems for the {split} split, and {count} are needed "
                f"({MOST_MISSES:,} draws in a row found no other); take fewer rows, or allow longer chains"
            )
        problem = sample_problem(rng, difficulty)
        key = (problem.skeleton, problem.numbers)
        weeks_due = round(WEEK_SHARE * (len(seen) + 1)) > round(WEEK_SHARE * len(seen))
        if key in seen or ("week" in problem.skeleton) != weeks_due or not belongs_to(problem, split):
            misses += 1
            continue
        misses = 0
        seen.add(key)
        yield {"question": tell(problem), "answer": format_answer(*solve(problem, BENCHMARK_HOUSE))}
