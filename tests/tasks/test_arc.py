"""ARC-Challenge: letters whatever the labels are, and a rationale only where WorldTree explains the question."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest

from dpc.errors import UserError
from dpc.settings import TaskSettings, parse_settings
from dpc.tasks.arc_challenge import TASK
from dpc.tasks.choices import LETTERS, answer_sentence
from dpc.types import Example, Score
from tests.paths import SHARED_DATA

DATA = SHARED_DATA
COUNTS = {"train": 1119, "dev": 299, "test": 1172}
LEFT_OUT = {"train": 4, "dev": 1, "test": 0}
FILES = {"train": "train", "dev": "validation", "test": "test"}

DIGITS = {"train": (23, (16, 128, 226)), "dev": (4, (89, 97, 156, 234)), "test": (22, (44, 128, 135, 385))}
NOT_FOUR = {
    "train": {461: 3, 626: 5},
    "dev": {35: 3, 56: 3, 241: 3, 210: 5},
    "test": {121: 3, 385: 3, 400: 3, 1042: 3, 836: 5, 868: 5, 1037: 5},
}


QUESTIONS = {"train": "Why is ice cold?", "validation": "How far away is Mars?", "test": "What do bees eat?"}


def row(labels: str = "ABCD", key: str = "B", **changes: object) -> dict[str, object]:
    choices = [{"text": f"choice {label}", "label": label} for label in labels]
    return {"id": "X_1", "question": {"stem": "Which one?", "choices": choices}, "answerKey": key} | changes


def flat(labels: str = "ABCD", key: str = "B") -> dict[str, object]:
    choices = {"text": [f"choice {label}" for label in labels], "label": list(labels)}
    return {"id": "X_1", "question": "Which one?", "choices": choices, "answerKey": key}


def write(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return str(path)


def worldtree(folder: Path, explanations: dict[str, str]) -> Path:
    """A release cut down to explanations and a table of two facts, one of them withdrawn."""
    (folder / "tables").mkdir(parents=True)
    table = "WHAT\t[FILL] is\tKIND\t[SKIP] DEP\t[SKIP] UID\nsand\tis a\tsolid\t\tu1\nice\tis a\tgas\twrong\tu2\n"
    (folder / "tables" / "KINDOF.tsv").write_text(table, encoding="utf-8")
    for split in ("train", "dev", "test"):
        lines = ["QuestionID\texplanation", *(f"{name}\t{cell}" for name, cell in explanations.items())]
        (folder / f"explanations.{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def arc() -> dict[str, list[Example]]:
    if not (DATA / "arc_challenge").is_dir():
        pytest.skip("the ARC files are not beside this repository (shared/data/arc_challenge)")
    return {split: TASK.load(split, str(DATA / "arc_challenge" / f"{FILES[split]}.jsonl")) for split in COUNTS}


@pytest.fixture(scope="module")
def explained(arc: dict[str, list[Example]]) -> dict[str, list[Example]]:
    if not (DATA / "worldtree").is_dir():
        pytest.skip("the WorldTree files are not beside this repository (shared/data/worldtree)")
    settings = TaskSettings(arc_rationale="worldtree", worldtree=str(DATA / "worldtree"))
    folder = DATA / "arc_challenge"
    return {split: TASK.load(split, str(folder / f"{FILES[split]}.jsonl"), settings) for split in COUNTS}


@pytest.mark.parametrize("made", [row(), flat(), row("1234", "2"), flat("1234", "2")])
def test_both_formats_and_both_kinds_of_labels_give_one_example(tmp_path: Path, made: dict[str, object]) -> None:
    (example,) = TASK.load("test", write(tmp_path / "rows.jsonl", [made]))
    label = "B" if "choice B" in example.choices else "2"
    shown = "".join(f"\n({letter}) {text}" for letter, text in zip("ABCD", example.choices, strict=True))
    assert TASK.prompt(example) == f"Question: Which one?{shown}\nAnswer:"
    assert (example.id, example.answer, example.choices[1]) == ("arc_challenge/test/X_1", "B", f"choice {label}")
    assert TASK.target(example) == " The answer is (B)."


def test_a_number_is_never_read_for_the_letter(tmp_path: Path) -> None:
    (example,) = TASK.load("test", write(tmp_path / "rows.jsonl", [row("1234", "2")]))
    assert TASK.score(example, "The answer is (2).") == Score(False, None, "no_answer")
    assert TASK.score(example, "The answer is (B).") == Score(True, "B", "match")
    assert TASK.score(example, "(B) choice 2") == Score(True, "B", "match")
    assert TASK.score(example, "The answer is (E).") == Score(False, "E", "mismatch")


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (row("ABCD", "E"), "the answer 'E' is none of its 4 options"),
        (row("A", "A"), "has 1 options; expected 2 to 5"),
        (row("ABDC"), "labels its choices A, B, D, C; expected A, B, C"),
        (row("0123"), "labels its choices 0, 1, 2, 3; expected A, B, C"),
        (row("AB12"), "labels its choices A, B, 1, 2; expected A, B, C"),
        (row(id=3), "the field 'id' must be a string"),
        (row(question="Which one?"), "expected choices with a label and a text each"),
        (row(question={"stem": "", "choices": []}), "the field 'question' is empty"),
        (row(question={"stem": "Which?", "choices": [{"text": "x"}]}), "the field 'label' is missing"),
        (flat() | {"choices": {"text": ["x"], "label": ["A", "B"]}}, "expected as many labels as texts of choices"),
        (flat() | {"choices": {"text": ["x", 1], "label": ["A", "B"]}}, "the field 'text' must be a string"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, made: dict[str, object], expected: str) -> None:
    source = write(tmp_path / "rows.jsonl", [row(), made])
    with pytest.raises(UserError) as caught:
        TASK.load("test", source)
    assert str(caught.value).startswith(f"{source}:2: ")
    assert expected in str(caught.value)


def test_official_file_names_are_known_and_others_named(tmp_path: Path) -> None:
    write(tmp_path / "ARC-Challenge-Dev.jsonl", [row()])
    assert len(TASK.load("dev", str(tmp_path))) == 1
    with pytest.raises(UserError, match=r"has none of train\.jsonl, ARC-Challenge-Train\.jsonl"):
        TASK.load("train", str(tmp_path))


def test_the_hub_copy_is_asked_for_its_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, str, str]] = []

    def load_dataset(path: str, name: str, split: str) -> list[dict[str, object]]:
        asked.append((path, name, split))
        return [flat() | {"question": QUESTIONS[split]}]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setattr("dpc.hub.check_repository", lambda repository: None)
    monkeypatch.setattr("dpc.tasks.sources.check_repository", lambda repository: None)
    assert [len(TASK.load(split)) for split in COUNTS] == [1, 1, 1]
    # A split is compared with those after it.
    names = ("train", "validation", "test", "validation", "test", "test")
    assert asked == [("allenai/ai2_arc", "ARC-Challenge", name) for name in names]


def test_explanations_are_joined_where_they_exist_and_test_stays_whole(tmp_path: Path) -> None:
    for name, stem in QUESTIONS.items():
        choices = [{"text": f"{stem} {label}", "label": label} for label in "ABCD"]
        rows = [row(id=f"X_{n}", question={"stem": f"{stem} {n}", "choices": choices}) for n in (1, 2, 3)]
        write(tmp_path / f"{name}.jsonl", rows)
    folder = worldtree(tmp_path / "release", {"X_1": "u1|CENTRAL u2|ROLE", "X_2": "", "Y": "u1|CENTRAL"})
    settings = TaskSettings(arc_rationale="worldtree", worldtree=str(folder))
    for split in ("train", "dev"):
        (example,) = TASK.load(split, str(tmp_path), settings)
        assert TASK.target(example) == " sand is a solid\nThe answer is (B)."
    test = TASK.load("test", str(tmp_path), settings)
    assert [example.rationale is None for example in test] == [False, True, True]
    plain = TASK.load("test", str(tmp_path))
    assert [TASK.prompt(example) for example in test] == [TASK.prompt(example) for example in plain]
    with pytest.raises(UserError, match="X_2: has no rationale"):
        TASK.target(test[1])


def test_the_two_settings_go_together() -> None:
    for alone in ("task.arc_rationale=worldtree", "task.worldtree=there"):
        with pytest.raises(UserError, match=r"arc_rationale=worldtree and worldtree=.* go together"):
            parse_settings([alone], {})


def test_a_folder_that_is_no_release_is_named(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [row()])
    for folder, expected in ((tmp_path / "none", "is no folder"), (tmp_path, "has none of explanations")):
        with pytest.raises(UserError, match=expected):
            TASK.load("train", source, TaskSettings(arc_rationale="worldtree", worldtree=str(folder)))
    other = worldtree(tmp_path / "other", {"X_1": "u9|CENTRAL"})
    with pytest.raises(UserError, match="none of its explanations names a fact"):
        TASK.load("train", source, TaskSettings(arc_rationale="worldtree", worldtree=str(other)))


def test_every_target_of_arc_is_right_and_no_other_letter_is(
    arc: dict[str, list[Example]], explained: dict[str, list[Example]]
) -> None:
    assert {split: len(examples) for split, examples in arc.items()} == COUNTS
    examples = [example for splits in (arc, explained) for rows in splits.values() for example in rows]
    for example in (example for example in examples if example.rationale):
        target = TASK.target(example)
        assert TASK.score(example, target).reason == "match"
        body = target.removesuffix(answer_sentence(example.answer))
        for letter in LETTERS.replace(example.answer, ""):
            assert TASK.score(example, body + answer_sentence(letter)).reason == "mismatch"


def test_near_duplicates_of_a_later_split_are_left_out_of_a_folder_and_not_of_a_file(
    tmp_path: Path, arc: dict[str, list[Example]]
) -> None:
    folder = str(DATA / "arc_challenge")
    assert TASK.left_out is not None
    for split, count in LEFT_OUT.items():
        named = TASK.left_out(split, folder)
        assert len(named) == count
        kept = [example for example in arc[split] if example.id not in {found.row for found in named}]
        assert TASK.load(split, folder) == kept
    choices = [
        {"text": text, "label": label} for label, text in zip("ABCD", ("air", "light", "soil", "rain"), strict=True)
    ]
    question = {"stem": "Green plants get the energy they need from", "choices": choices}
    write(tmp_path / "train.jsonl", [row(id="X_1", question=question), row(id="X_2")])
    write(tmp_path / "test.jsonl", [row(id="Y_1", question=question | {"choices": turned(choices)})])
    assert [example.id for example in TASK.load("train", str(tmp_path))] == ["arc_challenge/train/X_2"]
    assert TASK.left_out("train", str(tmp_path)) == [("arc_challenge/train/X_1", "arc_challenge/test/Y_1", 1.0)]
    assert len(TASK.load("train", str(tmp_path / "train.jsonl"))) == 2
    assert TASK.left_out("train", str(tmp_path / "train.jsonl")) == []


def turned(choices: list[dict[str, str]]) -> list[dict[str, str]]:
    """The same options in another order, lettered again."""
    texts = [choice["text"] for choice in choices]
    return [{"text": text, "label": label} for label, text in zip("ABCD", texts[1:] + texts[:1], strict=True)]


def test_two_rows_with_one_id_are_refused_with_both_lines(tmp_path: Path) -> None:
    source = write(tmp_path / "test.jsonl", [row(id="X_1"), row(id="X_2"), row(id="X_1", key="C")])
    for data in (source, str(tmp_path)):
        with pytest.raises(UserError) as caught:
            TASK.load("test", data)
        assert str(caught.value).startswith(f"{source}:3: has the id 'arc_challenge/test/X_1', as {source}:1 has")


def test_no_question_of_a_split_is_asked_in_another(arc: dict[str, list[Example]]) -> None:
    questions = {split: {example.question for example in examples} for split, examples in arc.items()}
    assert sum(map(len, questions.values())) == len(set.union(*questions.values()))
    train, test = arc["train"], arc["test"]
    assert train[23].question == train[981].question
    for first, second in ((426, 582), (783, 1101)):
        stems = {test[number].question.partition("\n(A) ")[0] for number in (first, second)}
        assert len(stems) == 1
        assert test[first].question != test[second].question


def test_digit_labels_of_arc_become_letters(arc: dict[str, list[Example]]) -> None:
    for split, (count, some) in DIGITS.items():
        path = DATA / "arc_challenge" / f"{FILES[split]}.jsonl"
        keys = [json.loads(line)["answerKey"] for line in path.read_text(encoding="utf-8").split("\n") if line]
        digits = [number for number, key in enumerate(keys) if key.isdigit()]
        assert len(digits) == count
        assert set(some) <= set(digits)
        assert all(arc[split][number].answer == LETTERS[int(keys[number]) - 1] for number in digits)
        others = set(range(len(keys))) - set(digits)
        assert all(arc[split][number].answer == keys[number] for number in others)


def test_rows_without_four_choices_are_those_that_are_known(arc: dict[str, list[Example]]) -> None:
    for split, known in NOT_FOUR.items():
        sizes = {number: len(example.choices) for number, example in enumerate(arc[split])}
        assert {number: size for number, size in sizes.items() if size != 4} == known


def test_worldtree_explains_the_questions_that_it_is_said_to(explained: dict[str, list[Example]]) -> None:
    counts = {split: sum(bool(example.rationale) for example in rows) for split, rows in explained.items()}
    assert counts == {"train": 674, "dev": 155, "test": 487 - 2}
    assert {split: len(rows) for split, rows in explained.items()} == {"train": 674, "dev": 155, "test": 1172}
    without = {example.id for example in explained["test"] if example.rationale is None}
    assert "arc_challenge/test/Mercury_407125" in without
    assert "arc_challenge/test/Mercury_409301" not in {example.id for example in explained["test"]} - without
