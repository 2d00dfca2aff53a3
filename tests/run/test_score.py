"""dpc score: texts that were generated elsewhere are matched with their rows, graded, and counted, without a model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dpc.cli import run_command
from dpc.stats import wilson

GOLD = ["18", "3", "70000", "540", "-20"]
TEXTS = [" So 9 * 2 = 18.\n#### 18", " #### 13", " It is 70,000.", " #### $540.00", ""]
CORRECT, FLEXIBLE = [True, False, False, True, False], [True, False, True, True, False]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    lines = [json.dumps({"question": f"Question {n}?", "answer": f"#### {gold}"}) for n, gold in enumerate(GOLD)]
    (tmp_path / "test.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "test.jsonl"


def predictions(rows: Path, lines: list[Any]) -> Path:
    path = rows.with_name("predictions.jsonl")
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def score(rows: Path, lines: list[Any], *options: str) -> int:
    path = predictions(rows, lines)
    return run_command(["score", "--task", "gsm8k", "--data", str(rows), "--predictions", str(path), *options])


def by_id(ids: list[int], **more: object) -> list[dict[str, Any]]:
    return [{"id": f"gsm8k/test/{n}", "text": TEXTS[n]} | more for n in ids]


def samples(filters: list[str], **more: object) -> list[dict[str, Any]]:
    """Lines of a samples file: every text once a filter, in an order of its own."""
    return [
        {"doc_id": n, "doc": {"question": "?"}, "resps": [[TEXTS[n]]], "filtered_resps": ["[invalid]"], "filter": name}
        | more
        for name in filters
        for n in (3, 0, 1, 4, 2)
    ]


FORMS = {
    "ids, in any order": by_id([4, 2, 0, 1, 3]),
    "the order of the rows": [{"text": text} for text in TEXTS],
    "samples of lm-evaluation-harness": samples(["none"]),
    "samples with two filters": samples(["strict-match", "flexible-extract"]),
    "samples whose numbers restart, with the problem": [
        {
            "doc_id": n % 2,
            "doc": {"question": f" Question  {n}?", "answer": "?"},
            "resps": [[TEXTS[n]]],
            "filter": "none",
        }
        for n in (3, 0, 1, 4, 2)
    ],
    "samples without numbers": [
        {"doc": {"query": f"Question {n}?"}, "resps": [[text]]} for n, text in enumerate(TEXTS)
    ],
    "filtered answers alone": [{"doc_id": n, "filtered_resps": [text]} for n, text in enumerate(TEXTS)],
    "samples that name the row": [
        {"doc_id": 4 - n, "doc": {"id": f"gsm8k/test/{n}"}, "resps": [[text]]} for n, text in enumerate(TEXTS)
    ],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_predictions_gives_the_same_grades(
    rows: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = rows.with_name("grades.jsonl")
    assert score(rows, FORMS[form], "--json", "--output", str(output)) == 0
    found = json.loads(capsys.readouterr().out)
    interval = wilson(2, 5)
    assert (found["task"], found["split"], found["rows"]) == ("gsm8k", "test", 5)
    assert (found["correct"], found["accuracy"], found["no_answer"]) == (2, 0.4, 2)
    assert found["interval"] == pytest.approx([interval.low, interval.high])
    flexible = found["also_graded"]["flexible"]
    assert (flexible["correct"], flexible["no_answer"]) == (3, 1)
    grades = [json.loads(line) for line in output.read_text().splitlines()]
    assert [grade["id"] for grade in grades] == [f"gsm8k/test/{n}" for n in range(5)]
    assert [grade["correct"] for grade in grades] == CORRECT
    assert [grade["also_graded"]["flexible"]["correct"] for grade in grades] == FLEXIBLE
    assert [grade["extracted"] for grade in grades] == ["18", "13", None, "540.00", None]
    assert [grade["answer"] for grade in grades] == GOLD


def test_the_terminal_shows_both_graders_with_their_intervals(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(rows, FORMS["the order of the rows"]) == 0
    lines = [line.split("│") for line in capsys.readouterr().out.splitlines()]
    cells = {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines if len(line) > 1}
    assert cells["score"] == ["40.0", "11.8 to 76.9", "2 of 5", "2"]
    assert cells["flexible"] == ["60.0", "23.1 to 88.2", "3 of 5", "1"]


@pytest.mark.parametrize(
    ("lines", "correct"),
    [(by_id([3, 1, 0]), 2), ([{"text": text} for text in TEXTS[:3]], 1), (samples(["none"])[:2], 2)],
)
def test_some_of_the_rows_are_graded_where_that_is_asked_for(
    rows: Path, lines: list[Any], correct: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(rows, lines, "--partial", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["rows_of_split"], found["correct"]) == (len(lines), 5, correct)
    assert score(rows, lines, "--partial") == 0
    assert capsys.readouterr().out.startswith(f"gsm8k test, {len(lines)} of 5 rows\n")


def test_rows_are_in_the_order_of_their_file_however_a_task_loads_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, texts = tmp_path / "test.jsonl", tmp_path / "texts.jsonl"
    rows.write_text("".join(json.dumps({"problem": "?", "answer": str(n)}) + "\n" for n in range(30)))
    texts.write_text("".join(json.dumps({"text": rf"$\boxed{{{n}}}$"}) + "\n" for n in range(30)))
    command = ["score", "--task", "math", "--data", str(rows), "--predictions", str(texts), "--json"]
    assert run_command(command) == 0
    assert json.loads(capsys.readouterr().out)["correct"] == 30


def choice_rows(path: Path) -> Path:
    """Two questions of one wording, one inside of a longer text of the harness, and one with an id of its own."""
    stems = [
        "Which is a compound?",
        "Which is a compound?",
        "How do bees find the way to their hive?",
        "Why is ice cold?",
    ]
    rows = [
        {
            "id": f"X_{n}",
            "question": {"stem": stem, "choices": [{"text": f"{n} {label}", "label": label} for label in "AB"]},
            "answerKey": "AB"[n % 2],
        }
        for n, stem in enumerate(stems)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_samples_of_multiple_choice_are_matched_by_id_options_or_the_problem_in_a_longer_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = choice_rows(tmp_path / "test.jsonl")
    documents: list[dict[str, Any]] = [
        {"question": "Which is a compound?", "choices": {"text": ["1 A", "1 B"]}},
        {"question": "Which is a compound?", "choices": {"text": ["0 A", "0 B"]}},
        {"query": "Q: How do bees find the way to their hive? Answer Choices: (A) 2 A (B) 2 B\nA:", "gold": [0]},
        {"id": "X_3", "question": "Why is ice cold? "},
    ]
    texts = ["The answer is (B).", "The answer is (A).", "The answer is (A).", "The answer is (B)."]
    lines = [{"doc_id": 0, "doc": doc, "resps": [[text]]} for doc, text in zip(documents, texts, strict=True)]
    path = predictions(rows, lines)
    command = ["score", "--task", "arc_challenge", "--data", str(rows), "--predictions", str(path), "--json"]
    assert run_command(command) == 0
    assert json.loads(capsys.readouterr().out)["correct"] == 4


def test_samples_of_every_subject_are_matched_by_the_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Minerva's tasks count their documents from 0 in every subject; MATH has one file of all of them."""
    rows = [{"problem": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(20)]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [
        {"doc_id": n // 4, "doc": row, "resps": [[rf"It is $\boxed{{{row['answer']}}}$."]], "filter": "none"}
        for n, row in enumerate(rows)
    ]
    command = ["score", "--task", "math", "--data", str(path), "--predictions", str(predictions(path, lines)), "--json"]
    assert run_command(command) == 0
    assert json.loads(capsys.readouterr().out)["correct"] == 20


SURROGATES = ["#### 18 \ud800", "\udfff", "#### \ud83d", "\ud800 #### 540", " "]


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_halves_of_surrogate_pairs_are_graded_and_escaped(
    rows: Path, options: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    lines = [{"text": text} for text in SURROGATES]
    output = rows.with_name("grades.jsonl")
    assert score(rows, lines, *options, "--output", str(output)) == 0
    assert capfd.readouterr().err == ""
    grades = [json.loads(line) for line in output.read_bytes().splitlines()]
    assert [grade["correct"] for grade in grades] == [True, False, False, True, False]


def test_an_extracted_answer_that_utf8_cannot_encode_is_escaped(tmp_path: Path) -> None:
    rows = tmp_path / "test.jsonl"
    rows.write_text(json.dumps({"problem": "?", "answer": "3"}) + "\n")
    path, output = predictions(rows, [{"text": "$\\boxed{\ud800 3}$"}]), tmp_path / "grades.jsonl"
    command = ["score", "--task", "math", "--data", str(rows), "--predictions", str(path), "--output", str(output)]
    assert run_command(command) == 0
    assert rb"\ud800 3" in output.read_bytes()
    assert json.loads(output.read_bytes())["extracted"] == "\ud800 3"


@pytest.mark.parametrize("name", ["predictions.jsonl", "test.jsonl"])
@pytest.mark.parametrize("folder", [False, True])
def test_grades_never_replace_an_input(rows: Path, name: str, folder: bool, capsys: pytest.CaptureFixture[str]) -> None:
    path = predictions(rows, FORMS["the order of the rows"])
    before = rows.with_name(name).read_bytes()
    data, output = rows.parent if folder else rows, rows.with_name(name)
    command = ["score", "--task", "gsm8k", "--data", str(data), "--predictions", str(path), "--output", str(output)]
    assert run_command(command) == 2
    assert "is an input of this command, which would be lost" in capsys.readouterr().err
    assert rows.with_name(name).read_bytes() == before


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            [*by_id([0, 1, 2, 3]), {"id": "gsm8k/test/9", "text": ""}],
            ":5: belongs to no row: 'gsm8k/test/9' is not among",
        ),
        ([{"text": ""}] * 6, ":6: belongs to no row: 5 is not among 5 rows"),
        ([{"doc_id": -1, "resps": [[""]]}], ":1: belongs to no row: -1 is not among 5 rows"),
        (by_id([0, 1, 2]), ": has no text for 2 of 5 rows, first gsm8k/test/3; add them"),
        ([{"text": ""}] * 4, ": has no text for 1 of 5 rows, first gsm8k/test/4; add them (an empty text"),
        (by_id([0, 1, 0]), ":3: answers 'gsm8k/test/0' again, after "),
        (samples(["none", "none"]), ":6: answers 3 again, after "),
        ([{"doc_id": 0, "resps": [[t]], "filter": t} for t in "ab"], ":2: answers 0 again, after "),
        ([*by_id([0]), {"text": ""}], ":2: has no id, and other lines have one; give every line its id, or none"),
        ([{"id": 3, "text": ""}], ":1: 'id' must be a string"),
        ([{"id": "gsm8k/test/0"}], ":1: has neither 'text' nor 'resps'"),
        ([{"text": 3}], ":1: 'text' must be a string"),
        ([["text"]], ":1: expected an object such as"),
        ([{"doc_id": 0, "resps": [["a", "b"]]}], ":1: 'resps' must hold one string"),
        ([{"doc_id": 0, "resps": [[-1.5, False]]}], ":1: 'resps' must hold one string"),
        ([{"doc_id": 0, "filtered_resps": []}], ":1: 'filtered_resps' must hold one string"),
        ([{"doc_id": "0", "resps": [[""]]}], ":1: 'doc_id' must be the number of a row, counted from 0"),
        ([{"doc": {}, "resps": [[""]]}], ":1: 'doc_id' must be the number of a row, counted from 0"),
        (
            [{"doc_id": 0, "doc": {"question": "Another one?"}, "resps": [[""]]}],
            ":1: belongs to no row: none asks 'Another one?'; pass samples of this task and split, or lines with",
        ),
        (
            [{"doc_id": n, "doc": {"question": "Question 3?"}, "resps": [[str(n)]]} for n in (3, 0)],
            ":2: answers 'gsm8k/test/3' again, after ",
        ),
        ([], ": the file is empty"),
    ],
)
def test_bad_predictions_are_one_line_that_names_where(
    rows: Path, lines: list[Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(rows, lines) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {rows.with_name('predictions.jsonl')}{message}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "gsm9k"], "error: unknown task 'gsm9k'"),
        (["--split", "all"], "error: unknown split 'all'"),
        (["--data", "nowhere.jsonl"], "error: nowhere.jsonl: cannot be read"),
        (["--predictions", "nowhere.jsonl"], "error: nowhere.jsonl: cannot be read"),
        (["--set", "task.nothing=1"], "error: --set: task.nothing"),
        (["--output", "/dev/null/grades.jsonl"], "error: cannot write '/dev/null/grades.jsonl'"),
    ],
)
def test_bad_options_are_one_line(
    rows: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    defaults = {"--task": "gsm8k", "--data": str(rows), "--predictions": str(predictions(rows, [{"text": ""}] * 5))}
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert run_command(["score", *(word for pair in (defaults | given).items() for word in pair)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(message)
    assert printed.err.count("\n") == 1
    assert ("graded by" in printed.out) == ("--output" in given), "what was computed is shown before it is kept"


def test_grading_loads_no_model_library(rows: Path) -> None:
    path = predictions(rows, FORMS["the order of the rows"])
    program = (
        "import sys\nfrom dpc.cli import run_command\n"
        f"code = run_command(['score', '--task', 'gsm8k', '--data', {str(rows)!r}, '--predictions', {str(path)!r}])\n"
        "print(code, *({'torch', 'transformers', 'peft', 'datasets', 'accelerate'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout.splitlines()[-1], done.stderr) == ("0", "")
