"""Word problems as values: the operations of a problem, its text, and its solution.

A problem is a start amount and a chain of operations on it. ``Difficulty`` holds what makes it hard, ``House`` the
conventions that decide its answer and that the question does not state.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from dpc.errors import UserError

NAMES = ("Tom", "Anna", "Ben", "Mia", "Leo", "Sara", "Omar", "Lucy", "Ivan", "Nina", "Paul", "Rosa")
ITEMS = ("apples", "pens", "coins", "books", "cards", "shells", "stamps", "eggs", "balls", "keys", "cups", "nuts")

MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August")

COMMON: dict[str, tuple[str, ...]] = {
    "add": ("buys {n} {items}", "finds {n} more {items}", "gets {n} {items}"),
    "subtract": ("loses {n} {items}", "sells {n} {items}", "gives away {n} {items}"),
    "times": ("makes it {n} times as many {items}", "grows the {items} {n} times"),
    "half": ("keeps only half of the {items}", "drops half of the {items}"),
    "week": ("adds {n} {items} each day for a week", "saves {n} {items} a day for one week"),
}
RARE: dict[str, tuple[str, ...]] = {
    "add": ("wins another {n} {items}", "earns {n} {items} at work"),
    "subtract": ("lends a friend {n} {items}", "throws {n} of the {items} away"),
    "times": ("turns the {items} into {n} times as many",),
    "half": ("hands half of the {items} to a friend",),
    "week": ("makes {n} new {items} every day for a week",),
}
KINDS = tuple(COMMON)
# Weeks are a minority, so that the length of a week decides some problems and not most.
WEIGHTS = {"add": 3.0, "subtract": 3.0, "times": 2.0, "half": 1.5, "week": 0.8}
MOST_DRAWS = 10_000  # of a chain of operations before a difficulty is taken to have none
ORDERS = ("story", "question_first", "shuffled")


@dataclass(frozen=True, slots=True)
class Difficulty:
    """How hard problems are. Ranges are inclusive.

    steps: operations in the chain. distractors: sentences without effect. orders: allowed sentence orders. largest:
    the largest number in a question or a step. rare: probability that a phrasing is one of ``RARE``.
    """

    steps: tuple[int, int] = (1, 4)
    distractors: tuple[int, int] = (0, 0)
    orders: tuple[str, ...] = ("story",)
    largest: int = 60
    rare: float = 0.15

    def __post_init__(self) -> None:
        if self.steps[1] > len(MONTHS):
            raise UserError(f"steps {self.steps}: a problem has at most {len(MONTHS)} steps, one for each named month")


@dataclass(frozen=True, slots=True)
class House:
    """Conventions of a text. They decide the answer, and the question does not state them.

    days: days in a week (a calendar week has 7, a work week 5). full: each step of a rationale names its month.
    """

    days: int
    full: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One operation of the chain: kind, operand (0 for ``half``), and the phrasing that tells it."""

    kind: str
    operand: int
    phrase: str


@dataclass(frozen=True, slots=True)
class Problem:
    """A start amount, a chain of steps, and distractors; ``places`` orders the steps' and distractors' sentences."""

    name: str
    items: str
    start: int
    steps: tuple[Step, ...]
    distractors: tuple[str, ...]
    places: tuple[int, ...]
    order: str
    closing: int

    @property
    def skeleton(self) -> tuple[str, ...]:
        """The kinds of operation in order. No two splits share one of three or more steps."""
        return tuple(step.kind for step in self.steps)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Start amount and operands in order. No two splits share one of three or more steps."""
        return (self.start, *(step.operand for step in self.steps if step.kind != "half"))


def apply(kind: str, value: int, operand: int, days: int) -> int:
    """The amount after one operation."""
    match kind:
        case "add":
            return value + operand
        case "subtract":
            return value - operand
        case "times":
            return value * operand
        case "half":
            return value // 2
        case _:
            return value + operand * days


def _operands(kind: str, values: tuple[int, int], largest: int) -> list[int]:
    """Operands that keep every amount whole, positive and at most ``largest`` under both lengths of a week."""
    low, high = min(values), max(values)
    match kind:
        case "add":
            return list(range(2, min(largest - high, largest * 2 // 3) + 1))
        case "subtract":
            return list(range(2, min(low - 1, largest * 2 // 3) + 1))
        case "times":
            return [n for n in (2, 3, 4) if high * n <= largest]
        case "half":
            return [0] if all(v % 2 == 0 and v >= 4 for v in values) else []
        case _:
            return [n for n in range(2, 10) if high + 7 * n <= largest]


def sample_problem(rng: random.Random, difficulty: Difficulty) -> Problem:
    """Draw a problem. Amounts stay whole and in range with both lengths of a week.

    Raises ``UserError`` where ``difficulty.largest`` leaves no room for its steps.
    """
    count = rng.randint(*difficulty.steps)
    for _ in range(MOST_DRAWS):
        values = (start := rng.randint(2, max(4, difficulty.largest * 2 // 3)),) * 2
        steps: list[Step] = []
        for _ in range(count):
            options = {kind: ns for kind in KINDS if (ns := _operands(kind, values, difficulty.largest))}
            if not options:
                break
            kind = rng.choices(list(options), [WEIGHTS[k] for k in options])[0]
            operand = rng.choice(options[kind])
            phrase = rng.choice((RARE if rng.random() < difficulty.rare else COMMON)[kind])
            steps.append(Step(kind, operand, phrase))
            values = (apply(kind, values[0], operand, 5), apply(kind, values[1], operand, 7))
        if len(steps) == count:
            break
    else:
        raise UserError(f"{difficulty}: {MOST_DRAWS:,} draws gave no problem of {count} steps; allow larger numbers")
    name, items, order = rng.choice(NAMES), rng.choice(ITEMS), rng.choice(difficulty.orders)
    distractors = tuple(_distractor(rng, name, items) for _ in range(rng.randint(*difficulty.distractors)))
    places = list(range(count + len(distractors)))
    if order == "shuffled":
        rng.shuffle(places)
    else:
        places = _interleave(sorted(rng.sample(places, count)), len(places))
    return Problem(name, items, start, tuple(steps), distractors, tuple(places), order, rng.randint(0, 1))


def _interleave(steps: list[int], total: int) -> list[int]:
    """Places of the steps, then of everything else, in the order of the story."""
    return steps + [place for place in range(total) if place not in steps]


def _distractor(rng: random.Random, name: str, items: str) -> str:
    """A sentence without effect on the answer: another person, or other things of the same person."""
    other_items = rng.choice([i for i in ITEMS if i != items])
    n = rng.randint(2, 40)
    if rng.random() < 0.5:
        return f"{name} also has {n} {other_items}."
    other = rng.choice([o for o in NAMES if o != name])
    phrase = rng.choice(COMMON[rng.choice(("add", "subtract"))])
    return f"{other} {phrase.format(n=n, items=rng.choice((items, other_items)))}."


def tell(problem: Problem) -> str:
    """The question: a sentence a month, distractors between them, in the problem's sentence order."""
    name, items = problem.name, problem.items
    sentences = [
        f"In {month} {name} {step.phrase.format(n=step.operand, items=items)}."
        for month, step in zip(MONTHS, problem.steps, strict=False)
    ] + list(problem.distractors)
    story = [sentence for _, sentence in sorted(zip(problem.places, sentences, strict=True))]
    opening = f"{name} has {problem.start} {items}."
    question = (f"How many {items} does {name} have now?", f"How many {items} are there for {name} at the end?")[
        problem.closing
    ]
    if problem.order == "question_first":
        return " ".join([question, opening, *story])
    return " ".join([opening, *story, question])


def solve(problem: Problem, house: House) -> tuple[list[str], int]:
    """The rationale, a calculation a line, and the answer, by the conventions of ``house``."""
    value, lines = problem.start, []
    for month, step in zip(MONTHS, problem.steps, strict=False):
        n, after = step.operand, apply(step.kind, value, step.operand, house.days)
        calculations = {
            "add": [f"{value} + {n} = {after}"],
            "subtract": [f"{value} - {n} = {after}"],
            "times": [f"{value} * {n} = {after}"],
            "half": [f"{value} / 2 = {after}"],
            "week": [f"{n} * {house.days} = {n * house.days}", f"{value} + {n * house.days} = {after}"],
        }[step.kind]
        lines += [f"{month}: {calculation}" if house.full else calculation for calculation in calculations]
        value = after
    return lines, value
