"""WorldTree: tables are read as they are, options are cut out of the question, uids become facts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpc.errors import UserError
from dpc.tasks.choices import LETTERS, answer_sentence
from dpc.tasks.rows import read_cells
from dpc.tasks.worldtree import TASK, join_explanation, read_explanations, read_facts, split_choices, to_letter
from dpc.types import Example
from tests.paths import SHARED_DATA

DATA = SHARED_DATA
HEADER = "QuestionID\tAnswerKey\tflags\texplanation\tquestion"
TABLE = """[FILL] a/the\tTHING\t[FILL] is a kind of\tKIND\t\t[SKIP] COMMENTS\t[SKIP] DEP\t[SKIP] UID\t
a\tcat\tis a kind of\tanimal; living thing\tgenerally\t#1 "odd\t\tu1\t
\tfeet ( ft )\tare a kind of\tunit ; measure , mostly\t\t\t\tu2\t
\tice\tis a kind of\tgas\t\t\tLow quality.\tu3\t
\tice\tis a kind of\tsolid\t\t\t\tu3\t
\tice\tis a kind of\tfluid\t\t\t\tu3\t
\tsnow\tis a kind of\tsand\t\t\tmoved\tu4\t
"""


def release(folder: Path, *rows: str, split: str = "train", header: str = HEADER) -> str:
    """A made-up release: one table, and one file of questions."""
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    (folder / "tables" / "KINDOF.tsv").write_text(TABLE, encoding="utf-8")
    (folder / f"questions.{split}.tsv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return str(folder)


def question(
    explanation: str = "u1|CENTRAL", asked: str = "Is it? (A) x (B) y", key: str = "B", name: str = "Q_1"
) -> str:
    return f"{name}\t{key}\tSUCCESS\t{explanation}\t{asked}"


@pytest.fixture(scope="module")
def worldtree() -> dict[str, list[Example]]:
    """Every row with an explanation: a file alone is the split itself, whatever other splits ask."""
    if not (DATA / "worldtree").is_dir():
        pytest.skip("the WorldTree files are not beside this repository (shared/data/worldtree)")
    names = {split: DATA / "worldtree" / f"questions.{split}.non_mercury.tsv" for split in ("train", "dev", "test")}
    return {split: TASK.load(split, str(path)) for split, path in names.items()}


@pytest.fixture(scope="module")
def cited(worldtree: dict[str, list[Example]]) -> dict[str, dict[str, str]]:
    files = {split: DATA / "worldtree" / f"explanations.{split}.tsv" for split in worldtree}
    cells = {split: [row for _, row in read_cells(path)][1:] for split, path in files.items()}
    return {split: {row[0]: row[4] for row in rows} for split, rows in cells.items()}


@pytest.mark.parametrize(
    ("text", "key", "stem", "options"),
    [
        ("Which? (A) x (B) y (C) z", "A", "Which?", ["x", "y", "z"]),
        ("Which?    (A) x   (B) y", "A", "Which?", ["x", "y"]),
        ("north?(A) x (B) y", "A", "north?", ["x", "y"]),
        ("Which? (1) x (2) y", "1", "Which?", ["x", "y"]),
        ("Which? (1) x (2) y", "A", "Which? (1) x (2) y", []),
        (
            "Like? (A) calcium (Ca) (B) iodine (I) (C) sulfur (S)",
            "A",
            "Like?",
            ["calcium (Ca)", "iodine (I)", "sulfur (S)"],
        ),
        ("Vitamin (A) is? (A) x (B) y", "A", "Vitamin (A) is?", ["x", "y"]),
        ("Many (A) a (B) b (C) c (D) d (E) e", "E", "Many", ["a", "b", "c", "d", "e"]),
        ("Which?", "A", "Which?", []),
    ],
)
def test_options_are_cut_out_of_the_question(text: str, key: str, stem: str, options: list[str]) -> None:
    assert split_choices(text, key) == (stem, options)


PIECES = st.lists(st.sampled_from(["x", " y", "(Ca)", " (I)", "(6)", "(", ",", ") "]), min_size=1).map("".join)


@given(PIECES, st.lists(PIECES, min_size=2, max_size=5), st.booleans())
def test_what_was_put_into_a_question_comes_out_of_it(stem: str, options: list[str], digits: bool) -> None:
    labels = "12345" if digits else LETTERS
    shown = [f"({label}) {option}" for label, option in zip(labels, options, strict=False)]
    found = split_choices(" ".join([stem, *shown]), labels[0])
    assert found == (stem.strip(), [option.strip() for option in options])


def test_digits_become_letters() -> None:
    assert [to_letter(label) for label in ("1", "4", "5", "A", "E", "0", "6")] == ["A", "D", "E", "A", "E", "0", "6"]


def test_a_fact_is_a_row_without_its_skipped_columns(tmp_path: Path) -> None:
    release(tmp_path)
    facts = read_facts(tmp_path, {"u1", "u2", "u3", "u4", "u9"})
    assert facts == {
        "u1": "a cat is a kind of animal or living thing generally",
        "u2": "feet (ft) are a kind of unit or measure, mostly",
        "u3": "ice is a kind of solid",
    }


def test_an_explanation_is_its_facts_in_order() -> None:
    facts = {"u1": "one", "u2": "two"}
    assert join_explanation("u2|CENTRAL u1|LEXGLUE u2|NEG", facts) == "two\none"
    assert join_explanation("u4|CENTRAL u1|ROLE", facts) == "one"
    assert join_explanation("u4|CENTRAL", facts) is None
    assert join_explanation("", facts) is None


def test_a_row_becomes_an_example(tmp_path: Path) -> None:
    source = release(tmp_path, question("u3|CENTRAL u1|NE", "What is ice? (1) gas (2) solid", "2"))
    (example,) = TASK.load("train", source)
    assert TASK.prompt(example) == "Question: What is ice?\n(A) gas\n(B) solid\nAnswer:"
    assert TASK.target(example) == (
        " ice is a kind of solid\na cat is a kind of animal or living thing generally\nThe answer is (B)."
    )
    assert (example.id, example.answer, example.choices) == ("worldtree/train/Q_1", "B", ("gas", "solid"))
    assert TASK.load("train", str(tmp_path / "questions.train.tsv")) == [example]


def test_questions_without_an_explanation_are_asked_but_not_tuned_on(tmp_path: Path) -> None:
    rows = [question(name="Q_1"), question("", name="Q_2"), question("u4|CENTRAL", name="Q_3")]
    for split, count in (("train", 1), ("dev", 1), ("test", 3)):
        assert len(TASK.load(split, release(tmp_path, *rows, split=split))) == count
    with pytest.raises(UserError, match="has no rationale"):
        TASK.target(TASK.load("test", str(tmp_path))[1])


def test_a_train_question_that_dev_or_test_asks_again_is_left_out(tmp_path: Path) -> None:
    asked = {"Q_1": "Is it?  (A) x  (B) y", "Q_2": "Is that it? (A) x (B) y", "Q_3": "Is it? (A) y (B) x"}
    again, only, turned = (question(asked=text, name=name) for name, text in asked.items())
    assert len(TASK.load("train", release(tmp_path, again, only, turned))) == 3
    release(tmp_path, question(), split="test")
    assert [example.question for example in TASK.load("train", str(tmp_path))] == ["Is that it?\n(A) x\n(B) y"]
    # A file alone is the split itself.
    assert len(TASK.load("train", str(tmp_path / "questions.train.tsv"))) == 3


def test_the_folders_of_the_release_are_found_below_the_one_that_is_passed(tmp_path: Path) -> None:
    release(tmp_path / "tablestore" / "v2.1")
    (tmp_path / "questions").mkdir()
    (tmp_path / "questions" / "questions.train.tsv").write_text(f"{HEADER}\n{question()}\n", encoding="utf-8")
    (tmp_path / "tablestore" / "v2.1" / "questions.train.tsv").unlink()
    assert len(TASK.load("train", str(tmp_path))) == 1


def test_a_lone_quote_is_text_and_a_quoted_cell_is_what_it_stands_for(tmp_path: Path) -> None:
    whole = question(asked='"A ""green"" home? (A) x (B) y"')
    lone = [question(asked='"Green" is? (A) x (B) y"', name="Q_2"), question(asked='"Who? (A) x (B) y', name="Q_3")]
    examples = TASK.load("train", release(tmp_path, whole, *lone))
    stems = [example.question.partition("\n")[0] for example in examples]
    assert stems == ['A "green" home?', '"Green" is?', '"Who?']
    assert [example.choices for example in examples] == [("x", "y"), ("x", 'y"'), ("x", "y")]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (question(key="C"), ":2: the answer 'C' is none of its 2 options"),
        (question(key="6", asked="Is it? (1) x (2) y"), ":2: the answer '6' is none"),
        (question(asked="Is it?"), ":2: has 0 options; expected 2 to 5"),
        (question(asked="(A) x (B) y"), ":2: has no QuestionID or no question"),
        ("Q_1\tA\tSUCCESS", ":2: has 3 columns, its header 5"),
    ],
)
def test_a_malformed_row_is_named_with_its_line(tmp_path: Path, row: str, expected: str) -> None:
    source = release(tmp_path, row)
    with pytest.raises(UserError) as caught:
        TASK.load("train", source)
    assert str(caught.value).startswith(f"{source}/questions.train.tsv{expected}")


def test_two_rows_with_one_id_are_refused_with_both_lines(tmp_path: Path) -> None:
    source = release(tmp_path, question(), question(asked="Why? (A) x (B) y", name="Q_2"), question())
    path = f"{source}/questions.train.tsv"
    with pytest.raises(UserError) as caught:
        TASK.load("train", source)
    assert str(caught.value).startswith(f"{path}:4: has the id 'worldtree/train/Q_1', as {path}:2 has")
    with pytest.raises(UserError) as caught:
        read_explanations(tmp_path, "train")
    assert str(caught.value) == f"{path}:4: explains 'Q_1' again, after line 2; keep one of them"


def test_what_is_no_release_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"worldtree: is not on the hub.*pass as data the folder of the release"):
        TASK.load("train")
    with pytest.raises(UserError, match="worldtree: 'some/name' is not there"):
        TASK.load("train", "some/name")
    with pytest.raises(UserError, match=r"has none of questions\.train\.tsv, questions\.train\.non_mercury\.tsv"):
        TASK.load("train", str(tmp_path))
    source = release(tmp_path, question(), header=HEADER.replace("AnswerKey", "Key"))
    with pytest.raises(UserError, match=r"questions\.train\.tsv:1: the column 'AnswerKey' is missing"):
        TASK.load("train", source)
    release(tmp_path, question())
    (tmp_path / "tables" / "KINDOF.tsv").write_text("THING\tUID\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"KINDOF\.tsv:1: the column '\[SKIP\] UID' is missing"):
        TASK.load("train", source)
    (tmp_path / "tables" / "KINDOF.tsv").unlink()
    with pytest.raises(UserError, match="has no tables/"):
        TASK.load("train", source)


def test_every_target_of_worldtree_is_right_and_no_other_letter_is(worldtree: dict[str, list[Example]]) -> None:
    assert {split: len(rows) for split, rows in worldtree.items()} == {"train": 965, "dev": 210, "test": 526}
    for example in (example for examples in worldtree.values() for example in examples):
        target = TASK.target(example)
        assert TASK.score(example, target).reason == "match"
        assert "\n" in target
        body = target.removesuffix(answer_sentence(example.answer))
        for letter in LETTERS.replace(example.answer, ""):
            assert TASK.score(example, body + answer_sentence(letter)).reason == "mismatch"


def test_a_question_that_arc_has_too_is_cut_as_arc_has_it(worldtree: dict[str, list[Example]]) -> None:
    compared = 0
    for split, name in (("train", "train"), ("dev", "validation"), ("test", "test")):
        lines = (DATA / "arc_challenge" / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
        arc = {row["id"]: row for row in map(json.loads, filter(None, lines))}
        for example in worldtree[split]:
            row = arc.get(example.id.split("/", 2)[2])
            if row:
                compared += 1
                choices = row["question"]["choices"]
                assert [" ".join(text.split()) for text in example.choices] == [
                    " ".join(c["text"].split()) for c in choices
                ]
                assert to_letter(row["answerKey"]) == example.answer
                stem = example.question.partition("\n(A) ")[0]
                assert "".join(stem.split()) == "".join(row["question"]["stem"].split())
    assert compared == 277 + 66 + 144


def test_the_odd_questions_of_worldtree(worldtree: dict[str, list[Example]]) -> None:
    train = worldtree["train"]
    assert {number: len(train[number].choices) for number in (11, 125, 193)} == {11: 3, 125: 5, 193: 3}
    assert [train[number].answer for number in (30, 31, 35)] == ["C", "B", "C"]
    assert train[30].choices == ("north", "south", "east", "west")
    assert '("moonquakes")' in train[51].question
    assert train[159].question.startswith("Homes that are built")
    assert train[199].question.startswith('Which of these best defines the term "pollutant"?')
    magnesium = next(example for example in worldtree["test"] if example.id.endswith("/MDSA_2007_8_4"))
    assert magnesium.choices == ("calcium (Ca)", "iodine (I)", "sodium (Na)", "sulfur (S)")
    glued = next(example for example in worldtree["test"] if example.id.endswith("/MCAS_2015_5_11"))
    assert glued.choices == ("electrical", "heat", "light", "magnetic")


def test_the_roles_are_those_that_are_known_and_all_of_them_count(cited: dict[str, dict[str, str]]) -> None:
    pairs = [pair for rows in cited.values() for cell in rows.values() for pair in cell.split()]
    assert Counter(pair.partition("|")[2] for pair in pairs) == {
        "CENTRAL": 10800,
        "GROUNDING": 6943,
        "LEXGLUE": 5844,
        "ROLE": 577,
        "BACKGROUND": 494,
        "NEG": 107,
        "NE": 52,
    }


def test_every_cited_uid_but_a_withdrawn_one_is_a_fact(cited: dict[str, dict[str, str]]) -> None:
    uids = {pair.partition("|")[0] for rows in cited.values() for cell in rows.values() for pair in cell.split()}
    facts = read_facts(DATA / "worldtree", uids)
    assert uids - set(facts) == {"b4d1-4fcf-d14e-cb3b"}
    assert facts["a93e-05d1-02c8-7f9f"] == "DNA are a vehicle for passing genes from parent to offspring"
    assert facts["5095-dfd3-1847-a4a0"].startswith("as the gravitational pull of the moon on the Earth decreases, the")
    assert not [fact for fact in facts.values() if ";" in fact or "  " in fact or "[SKIP]" in fact]


def test_all_but_the_empty_explanations_are_joined(cited: dict[str, dict[str, str]]) -> None:
    for split, rows in cited.items():
        joined = read_explanations(DATA / "worldtree", split)
        assert (
            set(rows) - set(joined) == {"train": {"Mercury_7221305"}, "dev": set(), "test": {"Mercury_407125"}}[split]
        )
        for name, explanation in joined.items():
            pairs = [pair for pair in rows[name].split() if not pair.startswith("b4d1-4fcf-d14e-cb3b")]
            assert explanation.count("\n") + 1 == len(pairs)
    assert "Mercury_409301_ENUM1" in cited["test"]
