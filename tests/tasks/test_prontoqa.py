"""ProntoQA: true or false is what the text states, whatever its last step is."""

from __future__ import annotations

import json
import sys
import types
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpc.errors import UserError
from dpc.tasks.prontoqa import ANSWERS, TASK, extract_truth
from dpc.types import Example, Score
from tests.paths import SHARED_DATA

DATA = SHARED_DATA / "prontoqa"
STEPS = ["Sam is a cat.", "Every cat is red.", "Sam is red."]


def generated(**changes: object) -> dict[str, object]:
    row = {"question": "Every cat is red. Sam is a cat.", "query": "True or false: Sam is not red."}
    return row | {"chain_of_thought": STEPS, "answer": "False"} | changes


def logic_lm(**changes: object) -> dict[str, object]:
    row = {"id": "ProntoQA_1", "context": "Every cat is red. Sam is a cat.", "options": ["A) True", "B) False"]}
    question = "Is the following statement true or false? Sam is red."
    return row | {"question": question, "answer": "A", "explanation": STEPS} | changes


def file_of(path: Path, rows: object) -> str:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def prontoqa() -> dict[str, list[Example]]:
    if not DATA.is_dir():
        pytest.skip("the ProntoQA files are not beside this repository (shared/data/prontoqa)")
    splits = {split: TASK.load(split, str(DATA)) for split in ("train", "dev", "test")}
    return splits | {"logic-lm": TASK.load("test", str(DATA / "dev.json"))}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is True.", "True"),
        ("Max is sour. Max is not sour.\nThe answer is False.", "False"),
        ("the answer is false", "False"),
        ("Answer: True. Wait.\nThe answer is False.", "False"),
        ("The answer is True.\n\nQuestion: And Sam?\nAnswer: The answer is False.", "True"),
        ("Max is sour.\n\nQuestion: And Sam?\nAnswer: The answer is False.", None),
        ("Answer: True", "True"),
        ("ANSWER = FALSE", "False"),
        ("**Answer:** True", "True"),
        ("The answer is: therefore False", "False"),
        ("The correct option is: B) False", "False"),
        ("Answer: (A) True", "True"),
        (" True", "True"),
        ("A) True", "True"),
        ("Max is a cat. Max is sour. True", "True"),
        ("Max is not sour. False.", "False"),
        ("True, since Max is sour.\nAnswer: False", "True"),
        ("False because Max is not sour.", "False"),
        ("So the statement is false.", "False"),
        ("'Max is sour' is therefore false.", "False"),
        ("It's true.", "True"),
        ("It is true that Max is sour.", None),
        ('The answer is "True".', "True"),
        ("The statement 'Max is sour' is therefore true.", "True"),
        ("Max is not sour.", None),
        ("Max is sour.", None),
        ("True or false: Max is sour.", None),
        ("Is the following statement true or false? Max is sour.", None),
        ("The answer is true or false.", None),
        ("The answer is not true.", None),
        ("The answer is A.", None),
        ("Every true story is sad.", None),
        ("Truex", None),
        ("", None),
    ],
)
def test_a_truth_value_is_read_where_it_is_stated_as_the_answer(text: str, expected: str | None) -> None:
    assert extract_truth(text) == expected


@given(st.text("TRUEtruFALSEfalse .:\n()AB?oisanwer", max_size=60))
def test_an_extracted_answer_is_a_word_of_the_text(text: str) -> None:
    found = extract_truth(text)
    assert found is None or (found in ANSWERS and found.lower() in text.lower())


@pytest.mark.parametrize("text", ["statement " * 20_000, "answer" + " " * 100_000, ". " * 100_000 + "x"])
def test_long_texts_are_read_in_linear_time(text: str) -> None:
    assert extract_truth(text) is None


def test_both_formats_become_the_same_kind_of_question(tmp_path: Path) -> None:
    rows = {"example1": {"test_example": generated()}}
    (example,) = TASK.load("test", file_of(tmp_path / "generated.json", rows))
    assert example.id == "prontoqa/test/example1"
    assert TASK.prompt(example) == (
        "Question: Every cat is red. Sam is a cat.\nTrue or false: Sam is not red.\nAnswer:"
    )
    assert TASK.target(example) == " Sam is a cat. Every cat is red. Sam is red.\nThe answer is False."
    assert TASK.score(example, TASK.target(example)) == Score(True, "False", "match")
    assert TASK.score(example, "The answer is True.") == Score(False, "True", "mismatch")
    assert TASK.score(example, "Sam is red.") == Score(False, None, "no_answer")
    (other,) = TASK.load("test", file_of(tmp_path / "logic_lm.json", [logic_lm()]))
    assert other.question == "Every cat is red. Sam is a cat.\nTrue or false: Sam is red."
    assert (other.id, other.answer, other.choices) == ("prontoqa/test/ProntoQA_1", "True", ANSWERS)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("rows", "expected a list of Logic-LM's rows, or an object of the generator's examples"),
        ({}, "expected a list of Logic-LM's rows"),
        ({"example1": [1]}, "example1: expected an object with a test_example"),
        ({"example1": {}}, "example1: expected an object with a test_example"),
        ({"example1": {"test_example": generated(answer="B")}}, "example1: expected the answer True or False"),
        ({"example1": {"test_example": generated(query="Sam is red?")}}, "example1: expected a query such as"),
        ({"example1": {"test_example": generated(chain_of_thought="")}}, "example1: the chain of thought must be"),
        ({"example1": {"test_example": generated(question=" ")}}, "the field 'question' is empty"),
        ([logic_lm(), logic_lm(answer="C")], "row 1: expected the options A) True, B) False"),
        ([logic_lm(options=["A) False", "B) True"])], "row 0: expected the options A) True, B) False"),
        ([logic_lm(explanation=[1])], "row 0: the chain of thought must be a list of sentences"),
        ([1], "row 0: expected a JSON object, found a number"),
    ],
)
def test_a_malformed_file_is_named_with_its_row(tmp_path: Path, rows: object, expected: str) -> None:
    source = file_of(tmp_path / "rows.json", rows)
    with pytest.raises(UserError) as caught:
        TASK.load("test", source)
    assert str(caught.value).startswith(source)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", "the file is empty"), (b"{\n oops", ":2: not JSON"), (b"\xff", "byte 1 is not UTF-8")],
)
def test_a_file_that_is_no_json_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"rows\.json") as caught:
        TASK.load("test", str(path))
    assert expected in str(caught.value)


def test_two_rows_with_one_id_are_refused_with_both_places(tmp_path: Path) -> None:
    rows = [logic_lm(), logic_lm(id="ProntoQA_2"), logic_lm()]
    source = file_of(tmp_path / "rows.json", rows)
    with pytest.raises(UserError) as caught:
        TASK.load("test", source)
    expected = f"{source} row 2: has the id 'prontoqa/test/ProntoQA_1', as {source} row 0 has"
    assert str(caught.value).startswith(expected)
    path = tmp_path / "generated.json"
    part = json.dumps({"test_example": generated()})
    path.write_text(f'{{"example1": {part}, "example2": {part}, "example1": {part}}}')
    with pytest.raises(UserError, match="entries 1 and 3 of one object are both named 'example1'"):
        TASK.load("test", str(path))


def test_what_to_pass_is_said_where_there_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"prontoqa has no source of its own.* a folder with 345hop_random_true\.json"):
        TASK.load("test")
    with pytest.raises(UserError, match=r"has none of 345hop_random_true\.json"):
        TASK.load("test", str(tmp_path))
    with pytest.raises(UserError, match=r"missing\.json: cannot be read"):
        TASK.load("test", str(tmp_path / "missing.json"))


def test_a_hub_copy_without_chains_can_be_asked_but_not_tuned_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[str, str | None, str]] = []

    def load_dataset(path: str, name: str | None, split: str) -> list[dict[str, object]]:
        asked.append((path, name, split))
        return [{key: value for key, value in logic_lm().items() if key != "explanation"}]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setattr("dpc.hub.check_repository", lambda repository: None)
    monkeypatch.setattr("dpc.tasks.sources.check_repository", lambda repository: None)
    (example,) = TASK.load("test", "renma/ProntoQA")
    assert asked == [("renma/ProntoQA", None, "validation")]
    assert TASK.score(example, "The answer is True.").correct
    with pytest.raises(UserError, match="has no rationale"):
        TASK.target(example)


def test_train_and_dev_are_in_context_examples_that_no_test_has(prontoqa: dict[str, list[Example]]) -> None:
    assert {split: len(rows) for split, rows in prontoqa.items()} == {
        "train": 3500,
        "dev": 500,
        "test": 500,
        "logic-lm": 500,
    }
    asked = [{example.question for example in prontoqa[split]} for split in ("train", "dev", "test", "logic-lm")]
    assert len(set.union(*asked)) == 5000
    assert all("/in_context_example" in example.id for split in ("train", "dev") for example in prontoqa[split])
    assert [example.id for example in prontoqa["dev"][:2]] == [
        "prontoqa/train/example1/in_context_example0",
        "prontoqa/train/example1/in_context_example1",
    ]


def test_the_answers_are_those_that_the_files_are_said_to_have(prontoqa: dict[str, list[Example]]) -> None:
    assert Counter(example.answer for example in prontoqa["test"]) == {"True": 255, "False": 245}
    assert Counter(example.answer for example in prontoqa["logic-lm"]) == {"True": 258, "False": 242}


def test_every_target_of_prontoqa_is_right_and_its_chain_alone_is_no_answer(
    prontoqa: dict[str, list[Example]],
) -> None:
    for example in (example for examples in prontoqa.values() for example in examples):
        target = TASK.target(example)
        assert TASK.score(example, target).reason == "match"
        chain, _, sentence = target.rpartition("\n")
        other = ANSWERS[1 - ANSWERS.index(example.answer)]
        assert TASK.score(example, f"{chain}\n{sentence.replace(example.answer, other)}").reason == "mismatch"
        assert TASK.score(example, chain).reason == "no_answer"
        assert TASK.score(example, f"{chain} {example.answer}").correct
        assert not TASK.score(example, f"{chain} {other}").correct
        assert TASK.score(example, TASK.prompt(example)).reason == "no_answer"


def test_the_last_step_is_the_query_or_its_negation_and_no_test_of_either(prontoqa: dict[str, list[Example]]) -> None:
    by_id: dict[str, Any] = {example.id: example for example in prontoqa["test"]}
    negated = by_id["prontoqa/test/example3"]
    assert negated.question.endswith("True or false: Sam is not warm-blooded.")
    assert TASK.target(negated).endswith(" Sam is warm-blooded.\nThe answer is False.")
    entity = by_id["prontoqa/test/example6"]
    assert entity.question.endswith("True or false: 31 is imaginary.")
    assert TASK.target(entity).endswith(" 31 is not imaginary.\nThe answer is False.")


@pytest.mark.parametrize(
    "text",
    [
        "We need to check whether the statement is true. Max is a cat. Therefore, the statement is false.",
        "Let's determine if this is true. So the statement is false.",
        "If the statement is true, then Max is sour. The statement is false.",
        "Assume the statement is true. That contradicts it. So it is false.",
        "It is not the case that the statement is true. It is false.",
    ],
)
def test_a_truth_value_that_is_asked_or_supposed_is_no_answer(text: str) -> None:
    assert extract_truth(text) == "False"
