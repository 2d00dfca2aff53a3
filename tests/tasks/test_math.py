r"""MATH: the gold answer is the last box, whatever its shape, and equality is that of mathematics."""

from __future__ import annotations

import json
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpc.errors import UserError
from dpc.tasks.boxed import boxed_answer, stated_answer
from dpc.tasks.latex import normalize
from dpc.tasks.math import ERRATA, SUBJECTS, TASK
from dpc.types import Example, Score

# Made-up solutions in the shapes of MATH's irregular rows, and the answer that a reader takes from them.
ODD_SOLUTIONS = {
    "no braces": (r"So it is $\boxed 4$.", "4"),
    "no braces, period inside": (r"So it is \boxed 4$.", "4"),
    "space before the brace": (r"Hence \boxed {31}. That is $\boxed{31}$.", "31"),
    "intermediate result boxed first": (r"First $\boxed{23}$ remain. Then $\boxed{161}$ are left.", "161"),
    "joint answers": (r"So $\boxed{3}$ and $\boxed{-5}$.", "3, -5"),
    "joint answers, named": (r"Thus $x=\boxed{3}$, $y = \boxed{7}$.", "3, 7"),
    "three joint answers": (r"They are $\boxed{1}$, $\boxed{2}$, and $\boxed{9}$.", "1, 2, 9"),
    "one value in two forms": (r"That is $\boxed{\frac12}$, $\boxed{0.5}$.", r"\frac12"),
    "two forms, in words": (r"We get $\boxed{0.25}$, which is $\boxed{\frac14}$.", r"\frac14"),
    "boxes as an operator": (r"With $3 \boxed{+} 2$ it is $\boxed{5}$.", "5"),
    "box in figure code": ('[asy] label("\\boxed{" + string(k) + "}"); [/asy] It is $\\boxed{8}$.', "8"),
    "box in figure code after the answer": ('It is $\\boxed{8}$. [asy] label("\\boxed{9}"); [/asy]', "8"),
    "phantom": (r"It is $\boxed{6}$, not $\boxed{\phantom{6}}$.", "6"),
    "nested braces": (r"$\boxed{\frac{\sqrt{3}}{2^{k}}}$", r"\frac{\sqrt{3}}{2^{k}}"),
    "escaped braces": (r"$\boxed{\{2, 3\}}$", r"\{2, 3\}"),
    "one escaped brace": (r"$\boxed{\left\{ x \right.}$ {", r"\left\{ x \right."),
    "newline in the box": ("$\\boxed{2\n+ x}$", "2\n+ x"),
    "far from the end": (r"$\boxed{12}$" + " And so on." * 300, "12"),
    "units": (r"$\boxed{4 \text{ feet}}$", r"4 \text{ feet}"),
    "outer spaces": (r"$\boxed{ 7 }$", "7"),
    "box in a box": (r"$\boxed{\boxed{7}}$", "7"),
    "fbox": (r"\fbox{7}", "7"),
    "torn box after a whole one": (r"$\boxed{7}$, so $\boxed{7", "7"),
    "next problem": ("$\\boxed{7}$.\n\nProblem: And now?\nSolution: $\\boxed{8}$", "7"),
    "stray braces": (r"{ } } $\boxed{7}$ { {", "7"),
    "empty": (r"So $\boxed{}$.", None),
    "nothing but a phantom": (r"So $\boxed{\phantom{00}}$.", None),
    "torn": (r"So $\boxed{\frac{1}{2}", None),
    "another macro": (r"\boxedtimes{3}", None),
    "no box": ("The answer is 4.", None),
}


def row(solution: str = r"So $\boxed{4}$.", **fields: object) -> dict[str, object]:
    return {"problem": "How many?", "level": "Level 2", "type": "Algebra", "solution": solution} | fields


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("shape", ODD_SOLUTIONS)
def test_the_answer_is_the_last_box_that_holds_one(shape: str) -> None:
    solution, answer = ODD_SOLUTIONS[shape]
    assert boxed_answer(solution) == answer


balanced = st.recursive(
    st.text("ab1+-^_ \n", max_size=6) | st.sampled_from([r"\{", r"\}", r"\frac", r"\\"]),
    lambda inner: st.lists(inner | inner.map(lambda text: "{" + text + "}"), max_size=4).map("".join),
    max_leaves=12,
)


@given(balanced)
def test_a_box_ends_at_the_brace_that_closes_it(content: str) -> None:
    assert boxed_answer(rf"So $\boxed{{{content}}}$, }} or {{.") == (content.strip() or None)


@pytest.mark.parametrize(
    "text", ["\\boxed{", "\\boxed ", "\\boxed{1},", "{", "}", "$", "\\(", "[asy]", "\n", "answer is ", "\\text{", " "]
)
def test_long_texts_are_read_in_linear_time(text: str) -> None:
    began = time.process_time()
    found = stated_answer(text * (50_000 // len(text))) or ""
    normalize(found)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"The answer is 5, as $\boxed{4}$.", "4"),
        ("The answer is 12.", "12"),
        ("The final answer is: $\\frac{1}{2}$. I hope it is correct.", r"\frac{1}{2}"),
        ("Answer: 12", "12"),
        (r"So $a=3$ and \(a+b = 7\).", "a+b = 7"),
        ("The answer is 1.5.", "1.5"),
        ("**Answer:** 240", "240"),
        ("**Answer**: 240", "240"),
        ("**Answer: 240**", "240"),
        ("__Answer:__ `240`", "240"),
        ("> **Final Answer:** $240$", "240"),
        ("### Answer\n240", "240"),
        ("**Answer**\n\n$240$", "240"),
        ("The answer is **34**.", "34"),
        ("The answer is: **$34$**", "34"),
        ("**The answer is 34.**", "34"),
        ("Answer: **34** apples", "34 apples"),
        ("Final Answer: The final answer is 34. I hope it is correct.", "34"),
        ("Final Answer: The final answer is $34$. I hope it is correct.", "34"),
        ("The answer is 34. This answer is correct.", "34"),
        ("The answer is 33.\nNo: the answer is 34.", "34"),
        ("The answer is 34, since $x = 3$.", "34"),
        ("The answer is $34$, where $x = 3$.", "34"),
        ("The answer is therefore 34.", "34"),
        ("So the answer is\n\n34", "34"),
        ("The answer to this question is 34.", "34"),
        ("The answers are $3$, $5$, and $7$.", "3, 5, 7"),
        ("ANSWER = 34", "34"),
        ("The answer is **-7**.", "-7"),
        ("Answer: 2**3", "2**3"),
        ("The answer is Tuesday.", "Tuesday"),
        ("I do not know.", None),
        ("", None),
    ],
)
def test_without_a_box_the_flexible_answer_is_what_is_stated(text: str, answer: str | None) -> None:
    assert stated_answer(text) == answer


def test_the_flexible_grader_takes_emphasis_for_no_part_of_a_number() -> None:
    for text in ("**Answer:** 240", "The answer is **240**.", "Final Answer: The final answer is 240. I hope so."):
        assert TASK.also_graded["flexible"](Example("math/test/0", "?", "240"), text).correct
        assert not TASK.also_graded["flexible"](Example("math/test/0", "?", "24"), text).correct
        assert TASK.score(Example("math/test/0", "?", "240"), text).reason == "no_answer"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r" So $3x = 21$ and $x = \boxed{7}$.", Score(True, "7", "match")),
        (r" $\boxed{x=7}$", Score(True, "x=7", "match")),
        (r" $\boxed{17}$", Score(False, "17", "mismatch")),
        (r" The answer is $7$.", Score(False, None, "no_answer")),
        (r" $\boxed{}$", Score(False, None, "no_answer")),
    ],
)
def test_a_score_says_what_was_read_and_why(text: str, expected: Score) -> None:
    example = Example("math/test/0", "?", "7")
    assert TASK.score(example, text) == expected
    flexible = TASK.also_graded["flexible"](example, text)
    assert flexible.correct == (expected.correct or "answer is" in text)


def test_a_row_becomes_an_example(tmp_path: Path) -> None:
    example = TASK.load("test", str(write(tmp_path / "rows.jsonl", [row(level="Level ?")])))[0]
    assert example == Example("math/test/0", "How many?", "4", rationale=r"So $\boxed{4}$.")
    assert TASK.prompt(example) == "Problem: How many?\nSolution:"
    assert TASK.target(example) == r" So $\boxed{4}$."
    assert TASK.score(example, TASK.target(example)).reason == "match"


def test_rows_with_a_field_for_the_answer_need_no_box(tmp_path: Path) -> None:
    rows = [row(answer=r"\frac{1}{2}", subject="Algebra", level=3), {"problem": "?", "answer": "9"}]
    examples = {e.id: e for e in TASK.load("test", str(write(tmp_path / "test_500.jsonl", rows)))}
    assert examples["math/test/0"].answer == r"\frac{1}{2}"
    assert examples["math/test/1"] == Example("math/test/1", "?", "9")
    with pytest.raises(UserError, match="math/test/1: has no solution to tune on"):
        TASK.target(examples["math/test/1"])


def test_every_gold_answer_of_an_odd_shape_is_right_for_itself(tmp_path: Path) -> None:
    rows = [row(solution) for solution, answer in ODD_SOLUTIONS.values() if answer]
    for example in TASK.load("test", str(write(tmp_path / "rows.jsonl", rows))):
        assert TASK.score(example, TASK.target(example)).reason == "match"
        assert not TASK.score(example, r"$\boxed{7431}$").correct


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty train rows sorted by subject, two of them without an answer, and ten test rows."""
    rows = [row(rf"$\boxed{{{n}}}$", problem=f"{SUBJECTS[n // 6]} {n}?") for n in range(40)]
    rows[17], rows[19] = row(r"$\boxed{}$"), row("It is 7.")
    write(tmp_path / "train.jsonl", rows)
    write(tmp_path / "test.jsonl", rows[:10])
    return tmp_path


def test_train_rows_without_an_answer_are_left_out_and_move_no_id(folder: Path) -> None:
    splits = {split: TASK.load(split, str(folder)) for split in ("train", "dev", "test")}
    numbers = {split: {int(e.id.rsplit("/", 1)[1]) for e in examples} for split, examples in splits.items()}
    assert (len(numbers["train"]), len(numbers["dev"])) == (31, 7)
    assert numbers["train"] | numbers["dev"] == set(range(40)) - {17, 19}
    for example in splits["train"] + splits["dev"]:
        assert example.answer == example.id.rsplit("/", 1)[1]


def test_the_first_rows_are_of_many_subjects_and_always_the_same(folder: Path) -> None:
    first = TASK.load("train", str(folder))[:12]
    assert len({e.question.split()[0] for e in first}) >= 5
    assert first == TASK.load("train", str(folder))[:12]


def test_a_test_row_without_an_answer_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "test.jsonl", [row(), row(r"$\boxed{}$")])
    with pytest.raises(UserError) as caught:
        TASK.load("test", str(tmp_path))
    assert str(caught.value) == rf"{path}:2: no \boxed{{...}} in 'solution' holds an answer; add a field 'answer'"


def test_the_official_folders_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (2, 10, 1):
        path = tmp_path / "test" / "algebra" / f"{number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(row(rf"$\boxed{{{number}}}$")))
    examples = sorted(TASK.load("test", str(tmp_path)), key=lambda e: e.id)
    assert [e.answer for e in examples] == ["1", "2", "10"]


def test_the_one_row_whose_last_box_is_no_answer_is_known_by_its_name(tmp_path: Path) -> None:
    (name, answer), solution = next(iter(ERRATA.items())), r"$4 \boxed{+} 2$, so $\boxed{12}$"
    write(tmp_path / "rows.jsonl", [row(solution, unique_id=name), row(solution, unique_id="test/prealgebra/9.json")])
    examples = {e.id: e.answer for e in TASK.load("test", str(tmp_path / "rows.jsonl"))}
    assert examples == {"math/test/0": answer, "math/test/1": "12"}
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(row(solution)))
    assert [e.answer for e in TASK.load("test", str(tmp_path))] == [answer]


def test_the_hub_copy_is_read_subject_by_subject(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, str | None, str]] = []

    def load_dataset(path: str, name: str | None, split: str) -> list[dict[str, Any]]:
        asked.append((path, name, split))
        return [row(), row()]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setattr("dpc.hub.check_repository", lambda repository: None)
    monkeypatch.setattr("dpc.tasks.sources.check_repository", lambda repository: None)
    assert len({e.id for e in TASK.load("test", None)}) == 14
    assert asked == [("EleutherAI/hendrycks_math", subject, "test") for subject in SUBJECTS]
    assert len(TASK.load("test", "HuggingFaceH4/MATH-500")) == 2
    assert asked[-1] == ("HuggingFaceH4/MATH-500", None, "test")
    with pytest.raises(UserError, match="MATH-500: has test rows alone"):
        TASK.load("train", "HuggingFaceH4/MATH-500")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"problem": "?"}, ":1: the field 'answer' is missing; every row needs problem, answer"),
        ({"solution": "?"}, ":1: the field 'problem' is missing; every row needs problem, solution"),
        (row(answer=""), ":1: the field 'answer' is empty"),
        (row(answer=4), ":1: the field 'answer' must be a string, found a number"),
        ([], ":1: expected a JSON object, found a list"),
    ],
)
def test_a_malformed_row_is_named_with_its_line(tmp_path: Path, value: object, message: str) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps(value) + "\n")
    with pytest.raises(UserError) as caught:
        TASK.load("test", str(path))
    assert str(caught.value).startswith(f"{path}{message}")
