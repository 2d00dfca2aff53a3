"""What all tasks share: lookup by name, reading of JSON lines, the digest of the data, and freedom from torch."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from dpc.errors import UserError
from dpc.tasks import TASKS, Task, data_sha256, get_task
from dpc.tasks.gsm8k import TASK
from dpc.types import Example

LINE_SEPARATOR = "\u2028"
ROW = {"question": "How many?", "answer": "#### 2"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the file is empty"),
        (b'{"question": "?"}\n', ":1: the field 'answer' is missing"),
        (b'{"question": "", "answer": "#### 1"}\n', ":1: the field 'question' is empty"),
        (b'{"question": "?", "answer": "#### 1"}\n{"question": " \\n"}\n', ":2: the field 'question' is empty"),
        (b'{"question": "?", "answer": 1}\n', ":1: the field 'answer' must be a string, found a number"),
        (b'{"question": "?", "answer": null}\n', ":1: the field 'answer' must be a string, found null"),
        (b'{"question": "\\ud800", "answer": "#### 1"}\n', ":1: the field 'question' has half of a surrogate pair"),
        (b'{"question": "?", "answer": "#### 1"}\n["?"]\n', ":2: expected a JSON object, found a list"),
        (b'{"question": "?", "answer": "#### 1"}\n{oops}\n', ":2: not JSON"),
        (b'{"question": "?", "answer": "#### 1"}\n\n', ":2: the line is blank"),
        (b'{"question": "?", "answer": "#### 1"}\n{"question": "\xff"}\n', ":2: byte 15 is not UTF-8"),
        (b'\xef\xbb\xbf{"question": "?", "answer": "#### 1"}\n', ":1: starts with a byte order mark"),
        (b"9" * 5000, ":1: JSON beyond any benchmark row"),
        (b"[" * 100_000, ":1: JSON beyond any benchmark row"),
        (b'{"question": "?", "answer": "2"}\n', ":1: the answer has no '#### N'"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        TASK.load("test", str(path))
    message = str(caught.value)
    assert message.startswith(str(path))
    assert expected in message
    assert "\n" not in message


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\.jsonl: cannot be read \(No such file or directory\)"):
        TASK.load("test", str(tmp_path / "missing.jsonl"))
    with pytest.raises(UserError, match=r"test\.jsonl: cannot be read"):
        TASK.load("test", str(tmp_path))


def test_a_row_with_an_unescaped_line_separator_stays_one_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [ROW | {"question": f"A box.{LINE_SEPARATOR}How many?"}, ROW]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert LINE_SEPARATOR.encode() in path.read_bytes()
    assert [e.question for e in TASK.load("test", str(path))] == [f"A box.{LINE_SEPARATOR}How many?", "How many?"]


def test_carriage_returns_and_a_missing_final_newline_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\r\n".join([json.dumps(ROW).encode()] * 3))
    assert len(TASK.load("test", str(path))) == 3


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_found_by_its_name(name: str) -> None:
    assert get_task(name).name == name


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("gsm8", "; did you mean 'gsm8k'?"),
        ("GSM8K", "; did you mean 'gsm8k'?"),
        ("xyz", ""),
    ],
)
def test_an_unknown_task_names_the_known_ones(name: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        get_task(name)
    assert str(caught.value) == f"unknown task {name!r}: known are {', '.join(TASKS)}, and files that end in .py{hint}"


def test_tasks_and_statistics_load_no_torch() -> None:
    code = (
        "import sys, dpc.stats, dpc.tasks\n"
        "[dpc.tasks.get_task(name) for name in dpc.tasks.TASKS]\n"
        "print([m for m in ('torch', 'transformers', 'datasets', 'scipy.stats') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_the_data_digest_covers_every_field_and_the_order() -> None:
    examples = [Example("a/0", "One?", "1", "1\n#### 1"), Example("a/1", "Two\u2212?", "2", None, ("1", "2"))]
    lines = b"".join(json.dumps(asdict(e), sort_keys=True).encode() + b"\n" for e in examples)
    digest = data_sha256(examples)
    assert digest == hashlib.sha256(lines).hexdigest()
    changes = ({"id": "b"}, {"question": "?"}, {"answer": "3"}, {"rationale": "r"}, {"choices": ("1", "3")})
    altered = [[examples[0], replace(examples[1], **change)] for change in changes]
    assert len({digest, *map(data_sha256, [*altered, examples[::-1], examples[:1]])}) == 8


def task_of(*ids: str) -> Task:
    rows = [Example(name, "How many?", "2") for name in ids]
    return Task("mine", "rows", 8, lambda *_: rows, str, str, TASK.score)


def test_no_task_loads_two_rows_with_one_id() -> None:
    assert [example.id for example in task_of("a", "b").load("test", None)] == ["a", "b"]
    with pytest.raises(UserError) as caught:
        task_of("a", "b", "c", "b").load("test", "mine.jsonl")
    message = str(caught.value)
    assert message.startswith("mine.jsonl test row 4: has the id 'b', as mine.jsonl test row 2 has")
    assert "\n" not in message
    with pytest.raises(UserError, match="rows dev row 2: has the id"):
        replace(task_of("a", "a"), name="other").load("dev", None)


def test_tasks_made_from_templates_say_so() -> None:
    assert [name for name in TASKS if get_task(name).templated] == ["zoo", "prontoqa"]
    assert [name for name in TASKS if get_task(name).left_out] == ["aqua", "arc_challenge", "worldtree"]
