"""Answers that a text takes back: the one stated afterwards counts, and without another, none does."""

from __future__ import annotations

import time

import pytest

from dpc.tasks.choices import extract_choice
from dpc.tasks.prontoqa import extract_truth

OPTIONS = ("21", "21.5", "22", "22.5", "23")
WITHDRAWN = [
    ("The answer is (A). No, wait, that is wrong. The answer is (C).", "C"),
    ("The answer is (A). Wait, that's not right. The answer is (C).", "C"),
    ("Answer: A\nWait, I need to recheck. 2+2=4.\nSo the correct answer is C.", "C"),
    ("The answer is (B). However, on closer inspection (B) is incorrect, and the answer is (D).", "D"),
    ("The answer is (A). Actually, it is (C).", "C"),
    ("The answer is A. Actually, C.", "C"),
    ("The answer is A. Sorry, I meant B.", "B"),
    ("The answer is (A). Correction: the answer is (B).", "B"),
    ("The answer is (A), no wait, (C).", "C"),
    ("The answer is (A). But (A) can't be right, since 3 > 2. So (C).", "C"),
    ("The answer is (A). It is not (A), it is (B).", "B"),
    ("Option B is correct. On second thought, option B is incorrect; option D is correct.", "D"),
    ("The answer is (A). Wait, no. The answer is (B). Hmm, actually the answer is (C).", "C"),
    ("The answer is (A). I made a mistake. The correct answer is (D).", "D"),
    ("**Answer: A**\n\nHold on. **Answer: B**", "B"),
    ("The answer is C. I was wrong: the answer is D.", "D"),
    ("The answer is (A). That cannot be right, as 3 > 2. Hence the answer must be (B).", "B"),
    ("The answer is (A). So the answer isn't A. The answer is (B).", "B"),
    ("The answer is (A). I rule out (A) now. The answer is (B).", "B"),
    ("C) 22\nWait, that's wrong. The answer is (B).", "B"),
    ("The answer is (A). Option A is withdrawn; the answer is (B).", "B"),
    ("The answer is (A). A does not work. The answer is (B).", "B"),
    ("The answer is (A). I change my answer to (B).", "B"),
    ("The answer is (B). Rather, the answer is (C).", "C"),
    ("The answer is (A). That is wrong.", None),
    ("The answer is (A). (A) is wrong.", None),
]
STANDING = [
    ("The answer is (A).\nThe answer is (D).", "A"),
    ("The answer is (A). Final answer: (B)", "A"),
    ("The answer is (A). Let me double-check: 2+2 = 4. Yes.", "A"),
    ("The answer is (A). Wait, let me double check. Yes, the answer is (A).", "A"),
    ("The answer is (A). (B) is wrong because 3 < 4. (C) is wrong.", "A"),
    ("The answer is (A). (B) says that plants are animals. That is wrong.", "A"),
    ("The answer is (A). Some would say B is correct, but that is wrong.", "A"),
    ("The answer is (A); no other option fits. (B) is not the answer.", "A"),
    ("The answer is (B). No. of books = 180.\nAnswer: A", "B"),
    ("The answer is (B). Instead of 30 he pays 31.50.\nAnswer: D", "B"),
    ("The answer is (B). B does not occur with A, so it is 0.1.\nAnswer: E", "B"),
    ("The answer is (D). Note that (D) is not only correct but elegant.", "D"),
    ("The answer is A. Actually, plants need light, which is why the answer is A.", "A"),
]


@pytest.mark.parametrize(("text", "letter"), WITHDRAWN)
def test_where_a_sentence_withdraws_an_option_the_later_one_counts(text: str, letter: str | None) -> None:
    assert extract_choice(text, OPTIONS) == letter


@pytest.mark.parametrize(("text", "letter"), STANDING)
def test_an_option_that_nothing_withdraws_stands(text: str, letter: str) -> None:
    assert extract_choice(text, OPTIONS) == letter


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is True. Wait, that is wrong. The answer is False.", "False"),
        ("The answer is True. No, false.", "False"),
        ("True. Actually, the statement is false.", "False"),
        ("(A) True. Hold on, Max is not sour. The answer is False.", "False"),
        ("The answer is False. That is incorrect.", None),
        ("The answer is True. Max is not sour. So it is false that he is.", "True"),
        ("The answer is True.\nThe answer is False.", "True"),
    ],
)
def test_truth_values_are_withdrawn_in_the_same_words(text: str, answer: str | None) -> None:
    assert extract_truth(text) == answer


@pytest.mark.parametrize("text", ["The answer is A.", "Answer: B", "A", "(B)", "The correct option is (A).", "B)"])
def test_a_letter_alone_is_no_truth_value(text: str) -> None:
    assert extract_truth(text) is None


@pytest.mark.parametrize("text", ["The answer is (A). Wait. ", "The answer is (A). That is wrong. ", "But oh ", "no, "])
def test_texts_full_of_corrections_are_read_in_linear_time(text: str) -> None:
    began = time.process_time()
    extract_choice(text * 3000)
    extract_truth(text * 3000)
    assert time.process_time() - began < 5
