"""docs/new-task.md, followed to the letter: its file is a task, its commands print what it says they print."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

import dpc.tasks
from dpc.cli import run_command
from dpc.errors import UserError
from dpc.tasks import TASKS, get_task
from dpc.types import Example
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "new-task.md").read_text("utf-8")
FILES = dict(re.findall(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
COMMANDS = re.findall(r"^```sh\n(.*?)\n```\n\n```text\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
TINY = """
from dpc.tasks import Task, graded, jsonl_loader
TASK = Task("tiny", "tiny", 8, jsonl_loader("tiny", "q", "a"), str, str, lambda example, text: graded(text, bool))
"""


@pytest.fixture
def followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the page, and the current directory."""
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_has_files_and_a_command() -> None:
    assert FILES.keys() == {"capitals.py", "capitals/test.jsonl", "answers.jsonl"}
    assert len(COMMANDS) == 1


def test_the_task_is_ten_lines() -> None:
    lines = [line for line in FILES["capitals.py"].splitlines() if line and not line.startswith('"""')]
    assert len(lines) == 10


def test_the_commands_print_what_the_page_says(followed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, expected in COMMANDS:
        program, *arguments = shlex.split(command)
        assert program == "dpc"
        assert run_command(arguments) == 0
        assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == expected.splitlines()


def test_the_file_is_a_task_whose_targets_are_right(followed: Path) -> None:
    task = get_task("capitals.py")
    examples = task.load("test", None)
    assert examples[0] == Example("capitals/test/0", "France", "Paris", "The government of France sits in Paris.")
    assert task.prompt(examples[0]) == "Question: What is the capital of France?\nAnswer:"
    for example in examples:
        assert task.score(example, task.target(example)).reason == "match"
        assert task.score(example, task.target(example).replace(example.answer, "Rome")).reason == "mismatch"


def test_the_line_in_the_registry_makes_it_a_task_by_name(
    followed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = re.search(r'^    "(capitals)": "([\w.:]+)",$', PAGE, re.MULTILINE)
    assert entry
    monkeypatch.setattr(dpc.tasks, "__path__", [*dpc.tasks.__path__, str(followed)])
    monkeypatch.setitem(TASKS, entry[1], entry[2])
    assert get_task("capitals").load("test", None) == get_task("capitals.py").load("test", None)
    command = ["score", "--task", "capitals", "--predictions", "answers.jsonl", "--json"]
    assert run_command(command) == 0
    assert json.loads(capsys.readouterr().out)["correct"] == 1


def test_a_row_of_the_wrong_form_is_named_with_its_line(followed: Path) -> None:
    with pytest.raises(UserError, match=r"capitals/train\.jsonl: cannot be read"):
        get_task("capitals.py").load("train", None)
    Path("capitals/train.jsonl").write_text('{"country": "Peru"}\n')
    with pytest.raises(UserError, match=r"capitals/train\.jsonl:1: the field 'capital' is missing"):
        get_task("capitals.py").load("train", None)
    with pytest.raises(UserError, match="unknown split 'all'"):
        get_task("capitals.py").load("all", None)


def test_a_task_may_have_no_rationales(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(TINY)
    (tmp_path / "rows.jsonl").write_text('{"q": "Q", "a": "A"}\n')
    assert get_task(str(tmp_path / "tiny.py")).load("dev", str(tmp_path / "rows.jsonl")) == [
        Example("tiny/dev/0", "Q", "A")
    ]


def test_a_file_may_define_dataclasses(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        f"@dataclass\nclass Row:\n    text: str\n{TINY}"
    )
    assert get_task(str(path)).name == "tiny"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "--task {path}: no such file; expected a Python file with TASK, as docs/new-task.md shows"),
        ("", "{path}: has no TASK; end the file with TASK = ..., as docs/new-task.md shows"),
        ("TASK = 1", "{path}: its TASK is no Task; end the file with TASK = Task(...), as docs/new-task.md shows"),
        ("x = 1\nTASK =\n", "{path}:2: does not run (SyntaxError: "),
        ("x = 1\n\n1 / 0\n", "{path}:3: does not run (ZeroDivisionError: division by zero); mend the file"),
        ("import nowhere_at_all", "{path}:1: does not run (ModuleNotFoundError: No module named 'nowhere_at_all')"),
    ],
)
def test_a_file_that_is_no_task_is_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, message: str
) -> None:
    path = tmp_path / "own.py"
    if content is not None:
        path.write_text(content)
    assert run_command(["score", "--task", str(path), "--predictions", "x.jsonl"]) == 2
    assert capsys.readouterr().err.startswith("error: " + message.format(path=path))
