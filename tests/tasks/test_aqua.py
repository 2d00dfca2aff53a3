"""AQuA-RAT: the stated letter counts, never the option's text, and every rationale ends by stating it in one form."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpc.errors import UserError
from dpc.tasks.aqua import TASK
from dpc.tasks.choices import LETTERS, answer_sentence, end_with_answer, extract_choice
from dpc.types import Example, Score
from tests.paths import SHARED_DATA

DATA = SHARED_DATA / "aqua"

NO_STATEMENT = {
    "dev": (2, 16, 19, 39, 67, 78, 107, 113, 119, 136, 139, 200, 216, 220, 239, 248),
    "test": (3, 43, 50, 70, 87, 99, 103, 112, 118, 130, 165, 171, 175, 184, 186, 196, 239),
}


def row(**changes: object) -> dict[str, object]:
    options = ["A)21", "B)21.5", "C)22", "D)22.5", "E)23"]
    return {"question": "How many?", "options": options, "rationale": "It is 23.\nAnswer: E", "correct": "E"} | changes


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def aqua() -> dict[str, list[Example]]:
    if not DATA.is_dir():
        pytest.skip("the AQuA files are not beside this repository (shared/data/aqua)")
    splits = {split: TASK.load(split, str(DATA)) for split in ("train", "dev", "test")}
    return splits | {"all train": TASK.load("train", str(DATA / "train_flan_cot.tsv"))}


@pytest.fixture(scope="module")
def official(aqua: dict[str, list[Example]]) -> dict[str, list[dict[str, str]]]:
    return {
        split: [json.loads(line) for line in (DATA / f"{split}.jsonl").read_text(encoding="utf-8").split("\n") if line]
        for split in ("dev", "test")
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is (C).", "C"),
        ("the answer is (C)", "C"),
        ("The answer is (c).", "C"),
        ("The answer is C.", "C"),
        ("So 3 + 4 = 7.\nThe answer is (C).", "C"),
        ("Answer: A. No, wait.\nThe answer is (C).", "C"),
        ("The answer is (C).\nThe answer is (D).", "C"),
        ("The answer is (C).\n\nQuestion: And now?\nAnswer: The answer is (D).", "C"),
        ("I do not know.\n\nQuestion: And now?\nAnswer: The answer is (D).", None),
        ("Answer: A", "A"),
        ("ANSWER:C", "C"),
        ("Ans is A.", "A"),
        ("Answer is D", "D"),
        ("correct option is A", "A"),
        ("CORRECT OPTION:OPTION E", "E"),
        ("Answer: Option D", "D"),
        ("ANSWER :(Option C)", "C"),
        ("The Answer is, B.", "B"),
        ("The answer is option D) 61.", "D"),
        ("Answer - D", "D"),
        ("Answer = (A)", "A"),
        ("answer.A", "A"),
        ("Choice B.", "B"),
        ("Option B", "B"),
        ("Answer choice E", "E"),
        ("10.25% Answer B", "B"),
        ("(ANSWER E)", "E"),
        ("Answer C)59, 43", "C"),
        ("ANSWER D 8000", "D"),
        ("D is the correct choice", "D"),
        ("Hence (A) is correct answer.", "A"),
        ("Thus, C is the correct answer", "C"),
        ("Answer A is correct option", "A"),
        ("E is the answer.", "E"),
        ("D is correct.\nAnswer: C", "D"),
        ("Option D\nAnswer: C", "D"),
        ("So it is 22, which is option C.", "C"),
        ("The answer to the question is (C).", "C"),
        ("The answer is 'C'.", "C"),
        ("The answer is C's double.", None),
        ("**Answer:** C", "C"),
        ("**Answer**: **C**", "C"),
        (r"The answer is $\boxed{C}$.", "C"),
        ("The correct answer is:\n\n(C)", "C"),
        ("So x = 7.\nC", "C"),
        (" C", "C"),
        (" (C)", "C"),
        (" (C) 22", "C"),
        ("(C): 22", "C"),
        (" C) 22.\nBecause 11 + 11 = 22.", "C"),
        (" (C) 23", None),
        (" (C) 22 is too small.", None),
        ("22", None),
        ("The answer is 22.", None),
        ("ANSWER: 3", None),
        ("The answer is (F).", None),
        ("The answer is (CD).", None),
        ("The answer is Carl.", None),
        ("The answer is a mess.", None),
        ("Answer: A ship sails 20 km.", None),
        ("Answer: A) ships sail 20 km.", "A"),
        ("The answer is A because 3 < 4.", "A"),
        ("The answer is not (C).", None),
        ("Answer: C is wrong.", None),
        ("The answer is C, not D.", "C"),
        ("Option (C) is correct only", "C"),
        ("Option C is not correct.", None),
        ("if C is correct then", None),
        ("The answer is A or B.", None),
        ("The answer is (A) and (B).", None),
        ("The answer is C(5, 2) = 10.", None),
        ("Answer = A + B", None),
        ("Answer = A = 5", None),
        ("Let's go through each answer choice: (A) can never be true, (B) must be true.", None),
        ("Consider option A first.", None),
        ("Both A and C is correct", None),
        ("we find the answer. E is the middle of AB", None),
        ("", None),
    ],
)
def test_a_letter_is_read_where_it_is_stated_as_the_answer(text: str, expected: str | None) -> None:
    assert extract_choice(text, ("21", "21.5", "22", "22.5", "23")) == expected


@pytest.mark.parametrize(
    ("rationale", "expected"),
    [
        ("2 + 2 = 4\nAnswer: D", "2 + 2 = 4\nThe answer is (D)."),
        ("2 + 2 = 4. Hence, the answer is D.", "2 + 2 = 4.\nThe answer is (D)."),
        ("2 + 2 = 4 (ANSWER D)", "2 + 2 = 4\nThe answer is (D)."),
        ("2 + 2 = 4\nAnswer: D) 4 rolls", "2 + 2 = 4\nThe answer is (D)."),
        ("2 + 2 = 4\nD is the correct choice", "2 + 2 = 4\nThe answer is (D)."),
        ("2 + 2 = 4\nOption D is correct", "2 + 2 = 4\nThe answer is (D)."),
        ("2 + 2 = 4\nAnswer is D.\nD", "2 + 2 = 4\nThe answer is (D)."),
        ("2 + 2 = 4", "2 + 2 = 4\nThe answer is (D)."),
        ("2 + 2 = 4 \nANSWER:A", "2 + 2 = 4\nThe answer is (D)."),
        ("D", "The answer is (D)."),
        ("", "The answer is (D)."),
        ("The answer is (A). No: 2 + 2 = 4.", "The answer is (D)."),
        ("2\nQuestion: or 4?", "The answer is (D)."),
        (
            "Answer is D since only 75 is divisible by 25",
            "Answer is D since only 75 is divisible by 25\nThe answer is (D).",
        ),
    ],
)
def test_a_rationale_ends_with_one_form_of_statement(rationale: str, expected: str) -> None:
    assert end_with_answer(rationale, "D") == expected


@given(st.text(), st.sampled_from(LETTERS))
def test_whatever_a_rationale_says_its_target_states_the_gold_letter(rationale: str, letter: str) -> None:
    ended = end_with_answer(rationale, letter)
    assert extract_choice(ended) == letter
    assert ended.endswith(answer_sentence(letter))


@given(st.text("AaBCDE()[]*., \n:=-isanwertheoptncu", max_size=60))
def test_an_extracted_answer_is_a_capital_that_the_text_has(text: str) -> None:
    found = extract_choice(text)
    assert found is None or (found in LETTERS and found in text.upper())


@pytest.mark.parametrize("text", ["answer" + " " * 100_000, "answer is " * 50_000, "(" * 100_000, "A\n" * 50_000 + "x"])
def test_long_texts_are_read_in_linear_time(text: str) -> None:
    assert extract_choice(text) in (None, "A")
    assert end_with_answer(f"{text} (ANSWER D)", "D").endswith("The answer is (D).")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is (E).", Score(True, "E", "match")),
        ("The answer is (A).", Score(False, "A", "mismatch")),
        ("The answer is 23.", Score(False, None, "no_answer")),
        ("", Score(False, None, "no_answer")),
    ],
)
def test_a_score_says_what_was_read_and_why(text: str, expected: Score) -> None:
    assert TASK.score(Example("x", "?", "E", None, ("1", "2", "3", "4", "23")), text) == expected


def test_a_row_becomes_an_example(tmp_path: Path) -> None:
    example = TASK.load(
        "test", str(write(tmp_path / "rows.jsonl", [row(), row(options=["A) x", "B)B)y"], correct="B")]))
    )
    assert example[0].id == "aqua/test/0"
    assert TASK.prompt(example[0]) == "Question: How many?\n(A) 21\n(B) 21.5\n(C) 22\n(D) 22.5\n(E) 23\nAnswer:"
    assert TASK.target(example[0]) == " It is 23.\nThe answer is (E)."
    assert (example[1].answer, example[1].choices) == ("B", ("x", "y"))
    with pytest.raises(UserError, match="x: has no rationale"):
        TASK.target(Example("x", "?", "A"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"correct": "F"}, "the answer 'F' is none of its 5 options"),
        ({"correct": ""}, "the field 'correct' is empty"),
        ({"question": None}, "the field 'question' must be a string"),
        ({"options": "A)1 B)2"}, "the field 'options' must be a list of strings"),
        ({"options": ["A)1", 2]}, "the field 'options' must be a list of strings"),
        ({"options": ["A)1"], "correct": "A"}, "has 1 options; expected 2 to 5"),
        ({"options": ["B)1", "A)2"], "correct": "A"}, "the option 'B)1' stands in the place of A"),
        ({"rationale": None}, "the field 'rationale' must be a string"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, changes: dict[str, object], expected: str) -> None:
    path = write(tmp_path / "rows.jsonl", [row(), row(**changes)])
    with pytest.raises(UserError) as caught:
        TASK.load("test", str(path))
    assert str(caught.value).startswith(f"{path}:2: ")
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (r"Is it?\nOptions:\n(A) 1\n(B) 2	(B)	It is.", None),
        (r"Is it?\nOptions:\n(A) 1\n(B) 2	(B)", "has 2 columns"),
        (r"Is it?\nOptions:\n(A) 1\n(C) 2	(A)	It is.", "expected a question"),
        (r"Is it?\n(A) 1\n(B) 2	(B)	It is.", "expected a question"),
        (r"Is it?\nOptions:\n(A) 1\n(B) 2	B	It is.", "expected a question"),
        (r"Is it?\nOptions:\n(A) 1\n(B) 2	(C)	It is.", "the answer 'C' is none of its 2 options"),
    ],
)
def test_flans_rows_are_read_or_named(tmp_path: Path, line: str, expected: str | None) -> None:
    path = tmp_path / "train.tsv"
    path.write_text(f"{line}\n", encoding="utf-8")
    if expected is None:
        assert TASK.load("train", str(path)) == [
            Example("aqua/train/0", "Is it?\n(A) 1\n(B) 2", "B", "It is.\nThe answer is (B).", ("1", "2"))
        ]
    else:
        with pytest.raises(UserError, match=r"train\.tsv:1: ") as caught:
            TASK.load("train", str(path))
        assert expected in str(caught.value)


def test_train_leaves_out_what_dev_and_test_ask(tmp_path: Path) -> None:
    near = "A train runs 60 miles an hour. How many minutes does it need for 12 miles{}?"
    asked = ["How wide is it?", "Is it 16 cm^2?", "Who sold it?", "How many sheep?", "When did they go?"]
    write(tmp_path / "train.json", [row(question=question) for question in [*asked, near.format(" of track")]])
    write(tmp_path / "validation.jsonl", [row(question=" is it 16  CM2 ?", options=["A)1", "B)2"], correct="A")])
    write(tmp_path / "test.jsonl", [row(question="How many sheep?"), row(question=near.format(""))])
    ids = [example.id for example in TASK.load("train", str(tmp_path))]
    assert ids == ["aqua/train/0", "aqua/train/2", "aqua/train/4"]
    assert [len(TASK.load(split, str(tmp_path))) for split in ("dev", "test")] == [1, 2]
    assert TASK.left_out is not None
    named = {found.row: found.other for found in TASK.left_out("train", str(tmp_path))}
    assert named == {"aqua/train/1": "aqua/dev/0", "aqua/train/3": "aqua/test/0", "aqua/train/5": "aqua/test/1"}


def test_a_folder_without_the_files_names_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has none of test\.jsonl, test\.json"):
        TASK.load("test", str(tmp_path))
    with pytest.raises(UserError, match=r"missing\.tsv: cannot be read"):
        TASK.load("train", str(tmp_path / "missing.tsv"))


def test_the_hub_copy_is_asked_for_its_official_splits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, str, str]] = []

    def load_dataset(path: str, name: str, split: str) -> list[dict[str, object]]:
        asked.append((path, name, split))
        return [row(question=f"{split} {n}?") for n in range(2)]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setattr("dpc.hub.check_repository", lambda repository: None)
    monkeypatch.setattr("dpc.tasks.sources.check_repository", lambda repository: None)
    assert len(TASK.load("dev")) == len(TASK.load("train")) == 2
    assert asked == [
        ("deepmind/aqua_rat", "raw", name) for name in ("validation", "test", "train", "validation", "test")
    ]


def test_every_target_of_aqua_is_right_and_no_other_letter_is(aqua: dict[str, list[Example]]) -> None:
    assert {split: len(examples) for split, examples in aqua.items()} == {
        "train": 2719,
        "dev": 254,
        "test": 254,
        "all train": 2728,
    }
    for example in (example for examples in aqua.values() for example in examples):
        target = TASK.target(example)
        assert TASK.score(example, target).reason == "match"
        assert target.endswith(f"The answer is ({example.answer}).")
        assert len(example.choices) == 5
        body = target.removesuffix(answer_sentence(example.answer))
        for letter in LETTERS.replace(example.answer, ""):
            assert TASK.score(example, body + answer_sentence(letter)).reason == "mismatch"


def test_rationales_as_they_were_written_state_the_gold_letter_or_none(
    aqua: dict[str, list[Example]], official: dict[str, list[dict[str, str]]]
) -> None:
    for split, rows in official.items():
        found = [extract_choice(original["rationale"]) for original in rows]
        assert tuple(number for number, letter in enumerate(found) if letter is None) == NO_STATEMENT[split]
        assert all(letter in (None, original["correct"]) for letter, original in zip(found, rows, strict=True))
        for example, original in zip(aqua[split], rows, strict=True):
            assert example.answer == original["correct"]


@pytest.mark.parametrize(
    ("split", "number", "ending"),
    [
        ("dev", 56, "9,800/0.55 is 17818\nThe answer is (D)."),
        ("dev", 58, "\nThe answer is (D)."),
        ("dev", 106, "= 50%.\nThe answer is (C)."),
        ("dev", 182, "= 4 inches.\nThe answer is (E)."),
        ("dev", 202, "G - T = 46.\nThe answer is (A)."),
        ("dev", 2, "should be 24.\nThe answer is (C)."),
        ("test", 9, "So 40 sales\nThe answer is (D)."),
        ("test", 16, "e=1 step/min\nThe answer is (A)."),
        ("test", 57, "81= 9%\nThe answer is (D)."),
        ("test", 103, "= Rs. 1,800/-\nThe answer is (E)."),
        ("test", 146, "=25/60=0.4167\nThe answer is (B)."),
        ("test", 165, "(B) must be true.\nThe answer is (B)."),
        ("test", 228, "of 2 primes.\nThe answer is (B)."),
    ],
)
def test_odd_endings_of_rationales_become_one(
    aqua: dict[str, list[Example]], split: str, number: int, ending: str
) -> None:
    assert TASK.target(aqua[split][number]).endswith(ending)


def test_labels_are_taken_off_once_or_twice(aqua: dict[str, list[Example]]) -> None:
    test = aqua["test"]
    assert test[29].choices == ("59", "69", "79", "89", "99")
    assert [test[number].choices[0] for number in (34, 46, 231)] == ["13.3542", "1", "108"]


@pytest.mark.parametrize(
    ("split", "number", "gold", "twin"),
    [("test", 117, "C", "A"), ("test", 124, "E", "B"), ("test", 126, "B", "D"), ("test", 193, "D", "C")],
)
def test_of_two_options_with_one_value_only_the_gold_letter_is_right(
    aqua: dict[str, list[Example]], split: str, number: int, gold: str, twin: str
) -> None:
    example = aqua[split][number]
    assert example.choices[LETTERS.index(gold)] == example.choices[LETTERS.index(twin)]
    assert TASK.score(example, f"The answer is ({gold}).").correct
    assert TASK.score(example, f"The answer is ({twin}).").reason == "mismatch"


def test_repeated_options_are_kept_as_they_are(aqua: dict[str, list[Example]]) -> None:
    repeated = {
        split: {number for number, example in enumerate(aqua[split]) if len(set(example.choices)) < 5}
        for split in ("dev", "test")
    }
    assert repeated == {"dev": {92}, "test": {117, 120, 124, 126, 185, 193, 198}}


def test_flans_odd_rows(aqua: dict[str, list[Example]]) -> None:
    everything = aqua["all train"]
    assert everything[30].choices[0] == "A and B"
    assert "\n(A) (2x + 3y)2\n" in everything[30].question
    left_out = {example.id for example in everything} - {example.id for example in aqua["train"]}
    assert left_out == {f"aqua/train/{number}" for number in (478, 651, 817, 875, 1299, 1467, 1724, 1760, 2404)}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("If A is correct, then x=1. But C is correct.", "C"),
        ("Suppose the correct option is A. That is a contradiction. So the correct option is C.", "C"),
        ("Assuming A is the correct answer we get 3. So the correct answer is C.", "C"),
        ("Neither A nor B is correct. C is correct.", "C"),
        ("(A) 21\n(B) 22\n(C) 24\nThe correct answer is C.", "C"),
        ("Let's find the correct answer:\n(A) 21: too small\n(C) 24: fits. So C is correct.", "C"),
        ("The correct answer is:\nC) 24", "C"),
        (r"So $\boxed{C}$", "C"),
        (r"So $\boxed{\text{C}}$", "C"),
        (r"The answer is $\textbf{(C)}$.", "C"),
        (r"Thus the answer is \(C\).", "C"),
        ("The answer is `C`.", "C"),
    ],
)
def test_what_is_supposed_or_gone_through_is_no_answer(text: str, letter: str) -> None:
    assert extract_choice(text, ["21", "22", "24", "28", "30"]) == letter
