"""Near duplicates of other splits: found exactly, whatever the order of options, and left out of train and dev."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpc.tasks import get_task
from dpc.tasks.choices import show_options
from dpc.tasks.duplicates import near_duplicates, split_without
from dpc.types import Example
from tests.paths import SHARED_DATA


def example(name: str, question: str, choices: Sequence[str] = ()) -> Example:
    return Example(name, show_options(question, choices) if choices else question, "A", None, tuple(choices))


def similarity(one: Example, other: Example) -> float:
    """Jaccard similarity of the 3-grams of characters, the plain way."""
    grams = []
    for each in (one, other):
        stem = each.question.partition("\n(A) ")[0]
        parts = [stem, *sorted(each.choices, key=lambda text: re.findall(r"[^\W_]+", text.casefold()))]
        words = [
            word for part in parts for word in re.findall(r"[^\W_]+|[-+*/^<>=%](?=\d)|[+*/^<>=%]", part.casefold())
        ]
        text = " ".join(words)
        grams.append({text[n : n + 3] for n in range(max(1, len(text) - 2))})
    return len(grams[0] & grams[1]) / len(grams[0] | grams[1])


def test_a_question_with_its_options_permuted_is_a_duplicate() -> None:
    train = example("train/1", "Plants get the energy they need from", ["air", "sunlight", "water", "soil"])
    test = example("test/1", "Plants get the energy they need from:", ["water", "Air", "soil", "sunlight"])
    (found,) = near_duplicates([train], [test])
    assert found == ("train/1", "test/1", 1.0)


def test_a_short_question_with_other_options_is_another_question() -> None:
    train = example("train/1", "Which is a compound?", ["sodium", "chlorine", "table salt", "salt water"])
    test = example("test/1", "Which is a compound?", ["butter", "nitrogen", "hydrogen", "ammonia"])
    assert near_duplicates([train], [test]) == []


def test_a_long_question_with_one_word_changed_is_a_duplicate_and_a_rewritten_one_is_not() -> None:
    question = "A jar holds 750 jelly beans, of which three fourths are red. How many red jelly beans are in the jar?"
    rows = [example("train/1", question.replace("jar?", "glass?")), example("train/2", "How many beans are not red?")]
    (found,) = near_duplicates(rows, [example("test/1", question)])
    assert (found.row, found.other) == ("train/1", "test/1")
    assert found.similarity == pytest.approx(similarity(rows[0], example("", question)))


def test_signs_of_mathematics_make_another_question() -> None:
    one, other = example("train/1", "What is 3 + 4?"), example("test/1", "What is 3 * 4?")
    assert near_duplicates([one], [other]) == []
    assert near_duplicates([example("train/1", "?")], [example("test/1", "!")]) == []


def test_the_most_similar_row_is_named_and_of_equals_the_first() -> None:
    question = "Which of the planets is nearest to the sun, and how long is its year?"
    others = [example(f"test/{n}", text) for n, text in enumerate([question + " Why?", question, question])]
    assert near_duplicates([example("train/1", question)], others) == [("train/1", "test/1", 1.0)]


WORDS = ["the", "a", "sun", "is", "7", "+", "moon", "<", "star", "why", "of"]
words = st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join)


@given(st.lists(words, max_size=8), st.lists(words, max_size=8))
def test_every_near_duplicate_is_found_and_nothing_else(rows: list[str], others: list[str]) -> None:
    train = [example(f"train/{n}", text) for n, text in enumerate(rows) if text]
    test = [example(f"test/{n}", text) for n, text in enumerate(others) if text]
    expected = {row.id: best for row in train if (best := max((similarity(row, o) for o in test), default=0.0)) >= 0.8}
    assert {found.row: pytest.approx(found.similarity) for found in near_duplicates(train, test)} == expected


def test_rows_leave_the_earlier_of_two_splits() -> None:
    question = "Which of the planets is nearest to the sun?"
    rows = {
        "train": [
            example("train/1", question),
            example("train/2", "What is dew?"),
            example("train/3", "What is a mole?"),
        ],
        "dev": [example("dev/1", question), example("dev/2", "What is dew?")],
        "test": [example("test/1", question)],
    }
    kept = {split: [row.id for row in split_without(split, rows.__getitem__)[0]] for split in rows}
    assert kept == {"train": ["train/3"], "dev": ["dev/2"], "test": ["test/1"]}
    assert [found.row for found in split_without("train", rows.__getitem__)[1]] == ["train/1", "train/2"]


def test_thousands_of_rows_are_compared_in_seconds() -> None:
    rows = [
        example(f"train/{n}", f"In town {n} there are {n * 7} trees and {n % 13} ponds. How many?") for n in range(6000)
    ]
    others = [
        example(f"test/{n}", f"Some {n} birds fly over {n % 17} hills, {n * 3} times. Where?") for n in range(1500)
    ]
    began = time.process_time()
    assert near_duplicates(rows, others) == []
    assert time.process_time() - began < 30


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        (
            "arc_challenge",
            {
                ("train/Mercury_410707", "test/Mercury_7187373"),
                ("train/Mercury_7107380", "test/Mercury_406136"),
                ("train/CSZ20740", "test/CSZ_2009_8_CSZ20740"),
                ("train/Mercury_7219643", "dev/Mercury_412551"),
                ("dev/Mercury_7175455", "test/Mercury_410026"),
            },
        ),
        (
            "worldtree",
            {
                ("train/MCAS_2003_8_9", "test/VASoL_2011_5_34"),
                ("train/NYSEDREGENTS_2009_4_25", "test/NYSEDREGENTS_2012_4_20"),
                ("train/NAEP_2005_4_S13+9", "test/NAEP_2005_8_S13+8"),
                ("train/CSZ_2009_8_CSZ30768", "test/CSZ30768"),
                ("train/CSZ_2009_8_CSZ20770", "test/CSZ20770"),
            },
        ),
        (
            "aqua",
            {
                *((f"train/{number}", "test/165") for number in (478, 651, 875, 1467)),
                ("train/1299", "test/67"),
                ("train/1724", "dev/60"),
                ("train/817", "dev/209"),
                *((f"train/{number}", "dev/217") for number in (1760, 2404)),
            },
        ),
    ],
)
def test_the_splits_of_a_benchmark_share_no_near_duplicate(name: str, left_out: set[tuple[str, str]]) -> None:
    folder = SHARED_DATA / name
    if not folder.is_dir():
        pytest.skip(f"the files are not beside this repository (shared/data/{name})")
    task = get_task(name)
    splits = {split: task.load(split, str(folder)) for split in ("train", "dev", "test")}
    for earlier, later in combinations(splits, 2):
        assert near_duplicates(splits[earlier], splits[later]) == []
    assert task.left_out is not None
    named = [pair for split in splits for pair in task.left_out(split, str(folder))]
    assert {(found.row.split("/", 1)[1], found.other.split("/", 1)[1]) for found in named} == left_out
    assert all(0.8 <= found.similarity <= 1 for found in named)
    assert not {found.row for found in named} & {row.id for rows in splits.values() for row in rows}
