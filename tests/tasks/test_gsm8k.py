"""GSM8K: rows are read as they are, the first stated answer counts, and equality is equality of numbers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpc.errors import UserError
from dpc.tasks import read_jsonl
from dpc.tasks.gsm8k import TASK, extract_flexible, extract_strict, normalize_number, numbers_equal
from dpc.types import Example, Score
from tests.paths import SHARED_DATA

MINUS, EN_DASH, ZERO_WIDTH = "\u2212", "\u2013", "\u200b"

ODD_ROWS = {
    "thousands comma": {
        "train": {345: "1080", 367: "850000", 644: "109200000"},
        "test": {146: "2125", 201: "114200"},
    },
    "negative": {"train": {5715: "-7", 5844: "-47", 6189: "-12"}, "test": {489: "-10", 1113: "-3"}},
    "zero": {"train": {626: "0"}},
    "last mark is not the answer": {"train": {9: "990", 23: "5", 32: "10"}, "test": {13: "18", 14: "60"}},
    "last number is not the answer": {"test": {20: "15", 35: "9", 137: "29"}},
    "unit shift": {"train": {123: "25"}},
    "no marks": {"train": {29: "1000", 109: "20", 135: "2350"}, "test": {24: "26", 88: "8000", 136: "6"}},
    "beyond ASCII": {"train": {20: "38", 32: "10", 2381: "36"}},
}


def row(question: str = "How many?", answer: str = "1 + 1 = <<1+1=2>>2\n#### 2") -> dict[str, str]:
    return {"question": question, "answer": answer}


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def gsm8k_rows() -> dict[str, list[dict[str, str]]]:
    directory = SHARED_DATA / "gsm8k"
    if not directory.is_dir():
        pytest.skip("the GSM8K files are not beside this repository (shared/data/gsm8k)")
    fields = ("question", "answer")
    return {split: [r for _, r in read_jsonl(directory / f"{split}.jsonl", fields)] for split in ("train", "test")}


@pytest.fixture(scope="module")
def gsm8k(gsm8k_rows: dict[str, list[dict[str, str]]]) -> dict[str, list[Example]]:
    source = str(SHARED_DATA / "gsm8k")
    return {split: TASK.load(split, source) for split in ("train", "dev", "test")}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#### 18", "18"),
        ("9 * 2 = 18\n#### 18", "18"),
        ("#### 1,080", "1080"),
        ("#### 109,200,000", "109200000"),
        ("#### -10", "-10"),
        (f"#### {MINUS}10", "-10"),
        (f"#### {EN_DASH}10", "-10"),
        ("#### +10", "10"),
        ("#### 0", "0"),
        ("#### $1,080", "1080"),
        ("#### -$5", "-5"),
        ("#### $-5", "-5"),
        ("#### €3.50", "3.50"),
        ("#### 40%", "40"),
        ("#### 18.", "18"),
        ("#### .5", ".5"),
        ("#### 18 apples", "18"),
        ("####18", "18"),
        ("####   18", "18"),
        ("#### \u00a018", "18"),
        ("#### 18\n#### 19", "18"),
        ("#### 18\n\nQuestion: And 2 more?\nAnswer: 20\n#### 20", "18"),
        ("#### about\n#### 7", "7"),
        ("##### 18", "18"),
        ("18", None),
        ("The answer is 18.", None),
        ("### 18", None),
        ("####", None),
        ("#### eighteen", None),
        ("####\n18", None),
        ("#### .", None),
        ("#### 1.2.3", None),
        ("#### NaN", None),
        ("#### Infinity", None),
        ("", None),
    ],
)
def test_the_strict_answer_is_the_first_number_after_four_hashes(text: str, expected: str | None) -> None:
    assert extract_strict(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is 18.", "18"),
        ("She pays $1,080, of which $80 is tax.", "80"),
        ("It costs $29.00.", "29.00"),
        ("so 20-13", "13"),
        ("so (4)-13", "13"),
        ("so it is -13", "-13"),
        (f"so it is {MINUS}13 degrees", "-13"),
        ("a loss of -$5", "-5"),
        ("3 apples and .5 pears", ".5"),
        ("10\n#### 12", "12"),
        ("no numerals", None),
        ("", None),
    ],
)
def test_the_flexible_answer_is_the_last_number(text: str, expected: str | None) -> None:
    assert extract_flexible(text) == expected


@pytest.mark.parametrize(
    "text",
    ["1,080", "1080", "1080.0", "1080.", "$1,080", "$ 1080", "+1080", " 1080 ", "1080%", "01080", f"1080{ZERO_WIDTH}"],
)
def test_one_number_in_many_forms_is_equal(text: str) -> None:
    assert numbers_equal(text, "1080")
    assert numbers_equal("1080", text)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("711", "11"),
        ("11", "711"),
        ("110", "11"),
        ("-11", "11"),
        (f"{MINUS}11", "11"),
        ("11.5", "11"),
        ("0.1", "0.10000000000000000001"),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("inf", "inf"),
        ("1e999999", "1e999999"),
        ("1e3", "1000"),
        ("1/2", "0.5"),
        ("1 - 1", "11"),
        ("1 1", "11"),
        ("", ""),
        ("", "0"),
        ("-", "0"),
        ("eleven", "11"),
    ],
)
def test_other_numbers_and_no_numbers_are_not_equal(first: str, second: str) -> None:
    assert not numbers_equal(first, second)


def test_minus_zero_is_zero() -> None:
    assert numbers_equal("-0", "0.00")


def test_numbers_of_a_million_digits_are_compared_exactly() -> None:
    huge = "9" * 1_000_000
    assert numbers_equal(huge, f"{huge}.0")
    assert not numbers_equal(huge, huge[:-1] + "8")
    assert extract_strict(f"#### {huge}") == huge


def test_a_million_dots_or_hashes_are_read_in_linear_time() -> None:
    assert extract_flexible("." * 1_000_000) is None
    assert extract_strict("#" * 1_000_000) is None
    assert extract_strict("#### " + "." * 1_000_000) is None


@settings(deadline=None)
@given(st.integers() | st.decimals(allow_nan=False, allow_infinity=False, places=3))
def test_a_number_is_found_however_it_is_grouped(number: object) -> None:
    gold = f"{number:f}" if not isinstance(number, int) else str(number)
    for text in (f"#### {gold}", f"#### {number:,}", f"#### {gold.replace('-', MINUS)}.", f"7\n####{gold}\n#### 9"):
        found = extract_strict(text)
        assert found is not None
        assert numbers_equal(found, gold)


@settings(deadline=None)
@given(st.text("0123456789.,-", max_size=6))
def test_what_the_official_grader_marks_right_is_right(tail: str) -> None:
    official = re.search(r"#### (-?[\d.,]+)", f"#### {tail}")
    gold = official[1].replace(",", "") if official else ""
    if re.fullmatch(r"-?\d+", gold):
        assert TASK.score(Example("x", "?", gold), f"#### {tail}").correct


@settings(deadline=None)
@given(st.text("#0123456789.,-+$% eE\n" + MINUS + EN_DASH))
def test_an_extracted_answer_is_a_plain_numeral(text: str) -> None:
    for found in (extract_strict(text), extract_flexible(text)):
        assert found is None or re.fullmatch(r"-?(\d+\.?\d*|\.\d+)", found)
        assert found is None or normalize_number(found) == found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 1 = 2\n#### 2", Score(True, "2", "match")),
        ("#### $2.00", Score(True, "2.00", "match")),
        ("#### 22", Score(False, "22", "mismatch")),
        ("The answer is 2.", Score(False, None, "no_answer")),
        ("", Score(False, None, "no_answer")),
    ],
)
def test_a_score_says_what_was_read_and_why(text: str, expected: Score) -> None:
    assert TASK.score(Example("x", "?", "2"), text) == expected


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("1 + 1 = 2\n#### 2", "match", "match"),
        ("The answer is 2.", "no_answer", "match"),
        ("#### 2, or perhaps 3", "match", "mismatch"),
        ("The answer is 12.", "no_answer", "mismatch"),
        ("I do not know.", "no_answer", "no_answer"),
    ],
)
def test_strict_and_flexible_grades_stand_side_by_side(text: str, strict: str, flexible: str) -> None:
    example = Example("x", "?", "2")
    assert TASK.score(example, text).reason == strict
    assert {name: grade(example, text).reason for name, grade in TASK.also_graded.items()} == {"flexible": flexible}


def test_a_row_becomes_an_example(tmp_path: Path) -> None:
    rows = [row(), row("Cost?", "It costs $<<40*27=1080>>1,080.\n#### 1,080")]
    example = TASK.load("test", str(write(tmp_path / "some.jsonl", rows)))[1]
    assert example == Example("gsm8k/test/1", "Cost?", "1080", rationale="It costs $1,080.\n#### 1,080")
    assert TASK.prompt(example) == "Question: Cost?\nAnswer:"
    assert TASK.target(example) == " It costs $1,080.\n#### 1,080"
    assert TASK.score(example, TASK.target(example)).reason == "match"


def test_an_example_without_a_rationale_is_no_target() -> None:
    with pytest.raises(UserError, match="x/1: has no rationale"):
        TASK.target(Example("x/1", "?", "2"))


def test_a_directory_is_split_into_train_and_dev_without_overlap(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [row(f"Question {i}?") for i in range(40)])
    write(tmp_path / "test.jsonl", [row("Test?")])
    splits = {split: TASK.load(split, str(tmp_path)) for split in ("train", "dev", "test")}
    train, dev = ({example.id for example in splits[name]} for name in ("train", "dev"))
    assert len(dev) == 8
    assert not train & dev
    assert train | dev == {f"gsm8k/train/{i}" for i in range(40)}
    for example in splits["train"] + splits["dev"]:
        assert example.question == f"Question {example.id.rsplit('/', 1)[1]}?"
    assert [example.id for example in splits["test"]] == ["gsm8k/test/0"]


def test_too_few_train_rows_give_no_dev_split(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [row()] * 4)
    with pytest.raises(UserError, match="4 train rows are too few"):
        TASK.load("dev", str(tmp_path))


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_a_single_file_is_the_split_that_was_asked_for(tmp_path: Path, split: str) -> None:
    examples = TASK.load(split, str(write(tmp_path / "rows.jsonl", [row()] * 10)))
    assert [example.id for example in examples] == [f"gsm8k/{split}/{i}" for i in range(10)]


def test_a_hub_id_is_loaded_with_its_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, str, str]] = []

    def load_dataset(path: str, name: str, split: str) -> list[dict[str, str]]:
        asked.append((path, name, split))
        return [row()] * 10

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setattr("dpc.hub.check_repository", lambda repository: None)
    monkeypatch.setattr("dpc.tasks.sources.check_repository", lambda repository: None)
    assert len(TASK.load("dev", None)) == 2
    assert len(TASK.load("test", "some/copy")) == 10
    assert asked == [("openai/gsm8k", "main", "train"), ("some/copy", "main", "test")]


def test_a_hub_that_cannot_be_reached_says_in_one_line_to_pass_a_local_path(tmp_path: Path) -> None:
    code = (
        "from dpc.errors import UserError\nfrom dpc.tasks import get_task\n"
        "try:\n    get_task('gsm8k').load('test', None)\nexcept UserError as error:\n    print(error)"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert f"openai/gsm8k: is not in the cache {tmp_path / 'hub'} or {tmp_path / 'datasets'}" in output
    assert "pass --data: a directory with train.jsonl and test.jsonl" in output
    assert output.count("\n") == 1


def test_an_unknown_split_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown split 'validation': use one of train, dev, test"):
        TASK.load("validation", str(tmp_path))


@pytest.mark.parametrize("kind", ODD_ROWS)
def test_the_odd_rows_of_gsm8k_have_their_answers(
    kind: str, gsm8k: dict[str, list[Example]], gsm8k_rows: dict[str, list[dict[str, str]]]
) -> None:
    by_id = {example.id: example for examples in gsm8k.values() for example in examples}
    for split, rows in ODD_ROWS[kind].items():
        for number, answer in rows.items():
            example, text = by_id[f"gsm8k/{split}/{number}"], gsm8k_rows[split][number]["answer"]
            assert example.answer == answer
            assert TASK.score(example, text).reason == "match"
            without_answer = text.rsplit("\n####", 1)[0]
            assert TASK.score(example, without_answer).reason == "no_answer"
            wrong = f"{without_answer}\n#### 7{answer.lstrip('-')}"
            assert TASK.score(example, wrong).reason == "mismatch"


def test_every_gold_answer_of_gsm8k_is_right_and_every_other_row_is_read(
    gsm8k: dict[str, list[Example]], gsm8k_rows: dict[str, list[dict[str, str]]]
) -> None:
    by_id = {example.id: example for examples in gsm8k.values() for example in examples}
    assert len(by_id) == 7473 + 1319
    for split, rows in gsm8k_rows.items():
        for number, original in enumerate(rows):
            example = by_id[f"gsm8k/{split}/{number}"]
            assert example.question == original["question"]
            assert TASK.score(example, original["answer"]).correct
            assert TASK.score(example, TASK.target(example)).correct
            assert not TASK.score(example, f"#### 7{example.answer}").correct
            assert re.fullmatch(r"-?\d+", example.answer)
            assert "<<" not in TASK.target(example)
            assert TASK.target(example).splitlines()[-1].startswith("#### ")


@pytest.mark.parametrize(("splits", "in_form", "in_value"), [(("train", "dev"), 381, 209), (("test",), 71, 36)])
def test_the_last_number_is_no_substitute_for_the_stated_answer(
    gsm8k: dict[str, list[Example]], splits: tuple[str, ...], in_form: int, in_value: int
) -> None:
    examples = [example for split in splits for example in gsm8k[split]]
    last = [extract_flexible(str(example.rationale).rsplit("\n####", 1)[0]) or "" for example in examples]
    pairs = list(zip(last, (example.answer for example in examples), strict=True))
    assert sum(number != answer for number, answer in pairs) == in_form
    assert sum(not numbers_equal(number, answer) for number, answer in pairs) == in_value


def test_the_dev_split_of_gsm8k_never_moves(gsm8k: dict[str, list[Example]]) -> None:
    train, dev = ({example.id for example in gsm8k[split]} for split in ("train", "dev"))
    assert (len(train), len(dev)) == (6973, 500)
    assert not train & dev
    rows = [int(example.id.rsplit("/", 1)[1]) for example in gsm8k["dev"]]
    assert rows == sorted(rows)
    assert (rows[:4], rows[-1]) == ([6, 7, 12, 30], 7431)
