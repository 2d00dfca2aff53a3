"""An evaluation of the first rows goes on with more rows, keeps its records, and refuses other rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dpc.errors import UserError
from dpc.methods import get_methods
from dpc.methods.method import Setup
from dpc.records.directory import RunDirectory
from dpc.records.results import Results
from dpc.run.data import Data, check_near_duplicates
from dpc.run.stages import evaluate_methods
from dpc.settings import Settings
from dpc.types import Example
from tests.tiny_models import tiny_lm
from tests.tiny_rows import toy_examples, toy_task

EXAMPLES = tuple(toy_examples(10))


def evaluate(examples: tuple[Example, ...], folder: Path) -> Results:
    data = Data(toy_task(examples=examples), "test", "rows", examples)
    lm, methods = tiny_lm("llama"), get_methods(["pretrained"])
    return evaluate_methods(lm, Setup(), data, methods, Settings(), RunDirectory(folder))


def test_more_of_the_same_rows_keep_the_records_of_the_first(tmp_path: Path) -> None:
    evaluate(EXAMPLES[:4], tmp_path / "run")
    file = RunDirectory(tmp_path / "run").records("pretrained")
    first = file.read()
    grown = evaluate(EXAMPLES, tmp_path / "run")
    assert file.read()[:4] == first
    assert grown.n == len(file.read()) == 10
    whole = evaluate(EXAMPLES, tmp_path / "whole")
    assert replace(grown.methods["pretrained"], cost=whole.methods["pretrained"].cost) == whole.methods["pretrained"]


def test_fewer_rows_and_other_rows_are_refused(tmp_path: Path) -> None:
    evaluate(EXAMPLES[:4], tmp_path)
    with pytest.raises(UserError, match="was begun with data"):
        evaluate(EXAMPLES[:3], tmp_path)
    with pytest.raises(UserError, match="was begun with data"):
        evaluate(EXAMPLES[1:], tmp_path)
    assert evaluate(EXAMPLES[:4], tmp_path).n == 4


def data(split: str, *questions: str, templated: bool = False) -> Data:
    examples = tuple(Example(f"{split}/{i}", question, "x") for i, question in enumerate(questions))
    return Data(replace(toy_task(), templated=templated), split, "mine", examples)


def test_a_test_question_among_train_rows_is_refused_and_one_like_it_is_told() -> None:
    asked = "Which of these planets is the largest one that goes around the sun?"
    test = data("test", asked, "How many legs does a spider have?")
    with pytest.raises(UserError, match="1 of its rows ask what test rows ask, first train/1 as test/0"):
        check_near_duplicates(data("train", "What is ice?", asked.upper()), test)
    like = asked.replace("largest", "smallest")
    assert (
        check_near_duplicates(data("train", like), test) == "1 rows of train resemble test rows: train/0 (like test/0)"
    )
    assert check_near_duplicates(data("train", "What is ice made of?"), test) is None
    assert check_near_duplicates(data("train", asked, templated=True), test) is None
