"""The embedded benchmark is what it says: solvable, not guessable, disjoint; and its model is trained as written."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from dpc.errors import UserError
from dpc.tasks import get_task
from dpc.zoo.build import Recipe, make_batch, train_tokenizer
from dpc.zoo.corpus import BENCHMARK, BENCHMARK_ROWS, WEEK_SHARE, belongs_to, benchmark_rows, training_documents
from dpc.zoo.muon import orthogonalize
from dpc.zoo.problems import MONTHS, ORDERS, RARE, Difficulty, House, sample_problem, solve, tell
from dpc.zoo.train import train

SMALL = Recipe(
    layers=1, width=16, heads=2, intermediate=32, vocabulary=400, total_tokens=60_000, batch_tokens=8000, warmup_steps=2
)
RARE_PHRASES = [phrase for phrases in RARE.values() for phrase in phrases]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(SMALL)


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict[str, str]]]:
    """The shipped rows."""
    task = get_task("zoo")
    return {
        split: [{"question": e.question, "answer": e.rationale or ""} for e in task.load(split, None)]
        for split in BENCHMARK_ROWS
    }


def numbers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"[0-9]+", text)]


def gold(row: dict[str, str]) -> int:
    return int(row["answer"].rsplit("#### ", 1)[1])


def structure(row: dict[str, str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Operations and numbers of a row, read off its rationale, names and phrasings left out.

    A week is one operation on two lines, and the only one that multiplies by five.
    """
    lines = [re.search(r"([0-9]+) ([-+*/]) ([0-9]+) = ", line) for line in row["answer"].split("\n")[:-1]]
    steps = [(int(m[1]), m[2], int(m[3])) for m in lines if m is not None]
    kinds: list[str] = []
    operands = [steps[1][0] if steps[0][1:] == ("*", 5) else steps[0][0]]
    rest = iter(steps)
    for left, operator, right in rest:
        if (operator, right) == ("*", 5):
            next(rest)
            kinds.append("week")
            operands.append(left)
        elif operator == "/":
            kinds.append("half")
        else:
            kinds.append(operator)
            operands.append(right)
    return tuple(kinds), tuple(operands)


def test_the_splits_have_the_announced_sizes_and_come_from_the_seed(rows: dict[str, list[dict[str, str]]]) -> None:
    assert {split: len(found) for split, found in rows.items()} == BENCHMARK_ROWS
    for split, found in rows.items():
        assert list(benchmark_rows(split, 8)) == found[:8]


def test_splits_are_disjoint_by_structure_and_by_numbers(rows: dict[str, list[dict[str, str]]]) -> None:
    found = {split: [structure(row) for row in rows[split]] for split in rows}
    for one, other in [("train", "dev"), ("train", "test"), ("dev", "test")]:
        assert not {kinds for kinds, _ in found[one]} & {kinds for kinds, _ in found[other]}
        assert not {operands for _, operands in found[one]} & {operands for _, operands in found[other]}
        assert not {row["question"] for row in rows[one]} & {row["question"] for row in rows[other]}


def test_the_model_was_trained_on_no_structure_and_no_numbers_of_dev_and_test() -> None:
    held_out = []
    for split in ("dev", "test"):
        rng = random.Random(split)
        while len(held_out) < 20:
            problem = sample_problem(rng, BENCHMARK)
            if belongs_to(problem, split):
                held_out.append(tell(problem))
    texts = "".join(d.question for d in training_documents(0, 3, 400, 1.0))
    assert not any(question in texts for question in held_out)
    rng = random.Random(0)
    drawn = [sample_problem(rng, BENCHMARK) for _ in range(300)]
    assert {belongs_to(p, "train") for p in drawn} == {True, False}


def test_every_split_needs_the_week_equally_often(rows: dict[str, list[dict[str, str]]]) -> None:
    for split, found in rows.items():
        share = sum("week" in row["question"] for row in found) / len(found)
        assert share == pytest.approx(WEEK_SHARE, abs=0.01), split


def test_rules_that_skip_the_reasoning_stay_under_15_percent(rows: dict[str, list[dict[str, str]]]) -> None:
    test = rows["test"]
    rules = {
        "last number": lambda n: n[-1],
        "largest number": max,
        "first number": lambda n: n[0],
        "sum of all": sum,
    }
    for name, rule in rules.items():
        share = sum(rule(numbers(row["question"])) == gold(row) for row in test) / len(test)
        assert share < 0.15, name


def test_every_shipped_rationale_is_sound(rows: dict[str, list[dict[str, str]]]) -> None:
    for row in [row for found in rows.values() for row in found]:
        value = None
        for line in row["answer"].split("\n")[:-1]:
            step = re.search(r"([0-9]+) ([-+*/]) ([0-9]+) = ([0-9]+)$", line)
            assert step is not None
            left, operator, right, value = int(step[1]), step[2], int(step[3]), int(step[4])
            assert value == {"+": left + right, "-": left - right, "*": left * right, "/": left / right}[operator]
        assert value == gold(row)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    steps=st.integers(1, 6),
    distractors=st.integers(0, 3),
    order=st.sampled_from(ORDERS),
    days=st.sampled_from([5, 7]),
)
def test_difficulty_means_what_it_says(seed: int, steps: int, distractors: int, order: str, days: int) -> None:
    difficulty = Difficulty((steps, steps), (distractors, distractors), (order,), largest=50)
    problem = sample_problem(random.Random(seed), difficulty)
    lines, answer = solve(problem, House(days=days, full=True))
    question = tell(problem)
    assert len(problem.steps) == steps
    assert len(lines) == steps + problem.skeleton.count("week")
    named = zip(MONTHS, problem.skeleton, strict=False)
    assert [line.split(":")[0] for line in lines] == [m for m, kind in named for _ in range(1 + (kind == "week"))]
    told = [month for _, month in sorted((question.index(f"In {m} "), m) for m in MONTHS[:steps])]
    assert told == list(MONTHS[:steps]) or order == "shuffled"
    assert question.count(".") == steps + distractors + 1
    assert question.startswith("How many") == (order == "question_first")
    assert 0 < answer <= 50
    assert max(numbers(question)) <= 50


@pytest.mark.parametrize(
    "difficulty",
    [
        Difficulty(steps=(4, 4), orders=("question_first",), largest=30),
        Difficulty(steps=(6, 6), distractors=(3, 3), rare=1.0),
        Difficulty(steps=(3, 4), distractors=(1, 1), orders=("shuffled",), largest=200, rare=0.0),
    ],
)
def test_a_benchmark_has_the_difficulty_that_is_asked_for(difficulty: Difficulty) -> None:
    made = list(benchmark_rows("train", 12, seed=3, difficulty=difficulty))
    assert len({row["question"] for row in made}) == 12
    phrases = [re.escape(text).replace(r"\{n\}", "[0-9]+").replace(r"\{items\}", "[a-z]+") for text in RARE_PHRASES]
    for row in made:
        steps = len(structure(row)[0])
        assert difficulty.steps[0] <= steps <= difficulty.steps[1]
        assert row["question"].count(".") == steps + difficulty.distractors[0] + 1
        assert row["question"].startswith("How many") == (difficulty.orders == ("question_first",))
        assert max(numbers(row["question"])) <= max(difficulty.largest, 40)  # distractors reach 40
        rare = sum(re.search(phrase, row["question"]) is not None for phrase in phrases)
        assert (rare > 0) == (difficulty.rare > 0) or difficulty.rare == 0.15
    largest = max(gold(row) for row in made)
    assert largest <= difficulty.largest
    assert made != list(benchmark_rows("train", 12, seed=3))


@pytest.mark.parametrize(
    ("difficulty", "message"),
    [
        (Difficulty(steps=(1, 1)), "for the test split, and 20 are needed"),
        (Difficulty(steps=(8, 8), largest=2), "draws gave no problem of 8 steps; allow larger numbers"),
    ],
)
def test_a_difficulty_with_too_few_problems_is_refused(difficulty: Difficulty, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(benchmark_rows("test", 20, difficulty=difficulty))
    with pytest.raises(UserError, match="at most 8 steps, one for each named month"):
        Difficulty(steps=(1, 9))


def test_only_a_week_makes_two_houses_disagree() -> None:
    rng = random.Random(1)
    problems = [sample_problem(rng, Difficulty((2, 5))) for _ in range(200)]
    answers = [[solve(p, House(days, False))[1] for days in (5, 7)] for p in problems]
    for problem, (work, calendar) in zip(problems, answers, strict=True):
        assert (work == calendar) or "week" in problem.skeleton


def test_tokenizer_is_lossless_and_every_digit_is_a_token(tokenizer: PreTrainedTokenizerFast) -> None:
    for text in ["Tom has 1234 apples.\nAnswer: 12 + 34 = 46", "naïve 漢字 🙂\t<script>", "١٢٣ ½"]:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert [tokenizer.decode([i]).strip() for i in tokenizer("1 2034")["input_ids"]] == ["1", "2", "0", "3", "4"]


def test_answers_weigh_fully_questions_lightly_and_padding_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    documents = training_documents(0, 0, 6, 1.0)
    ids, labels, weights = make_batch(documents, tokenizer, 0.2)
    assert torch.equal(ids[:, 1:], labels[:, :-1])
    assert {round(w, 6) for w in weights.flatten().tolist()} == {0.0, 0.2, 1.0}
    assert torch.equal(weights == 0, labels == tokenizer.pad_token_id)
    assert bool((weights[labels == tokenizer.eos_token_id] == 1).all())


def test_orthogonalized_matrices_have_singular_values_near_one() -> None:
    matrices = torch.randn(2, 8, 20, generator=torch.Generator().manual_seed(0))
    for found in (orthogonalize(matrices, 8), orthogonalize(matrices.mT, 8)):
        values = torch.linalg.svdvals(found)
        assert 0.6 < values.min() < values.max() < 1.3


def test_training_that_was_interrupted_ends_with_the_same_weights(tmp_path: Path) -> None:
    train(SMALL, tmp_path / "whole")
    train(SMALL, tmp_path / "parts", stop_after=0.0)
    with pytest.raises(UserError, match="--resume"):
        train(SMALL, tmp_path / "parts")
    train(SMALL, tmp_path / "parts", resume=True)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]
    curve = [json.loads(line) for line in (tmp_path / "parts" / "loss_curve.jsonl").read_text().splitlines()]
    assert [line["step"] for line in curve] == sorted({line["step"] for line in curve})
    assert curve[-1]["answer_loss"] < curve[0]["answer_loss"]
