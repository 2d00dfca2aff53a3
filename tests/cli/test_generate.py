"""``dpc generate``: questions of one's own in, answers out, in the order in which they were asked."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dpc.cli import run_command
from dpc.run.generate import in_order
from dpc.run.questions import read_questions
from dpc.tasks import get_task
from dpc.types import Answer, Cost, Example, Generation
from tests.tiny_rows import write_rows

PENS = "Tom has 8 pens. In January Tom buys 5 pens. How many pens does Tom have now?"
ASKED = [
    PENS,
    "<b>שלום 🙂</b>",
    "Tom has 3 pens. " * 8 + "How many?",
    "Ann has 2 cups. How many cups does Ann have now?",
]


def questions(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return questions(tmp_path, [{"question": question, "id": f"q{i}"} for i, question in enumerate(ASKED)])


def generated(capsys: pytest.CaptureFixture[str], *command: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert run_command(["generate", *command]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_questions_in_answers_out(run: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = generated(capsys, str(source), "--prompt", str(run / "prompt"), "--tau", "-1")
    assert [(line["id"], line["question"]) for line in lines] == [(f"q{i}", asked) for i, asked in enumerate(ASKED)]
    one = lines[0]
    assert one["decision"]["triggered"]
    assert one["text"] == one["second"]["text"]
    assert one["first"]["finish"] in ("eos", "length")
    assert one["answer"] == get_task("zoo").score(Example("q0", PENS, ""), one["text"]).extracted
    assert {"forward_passes", "generated_tokens"} <= one["cost"].keys()


def test_answers_come_in_the_order_asked_though_others_are_done_first(
    run: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(source), "--prompt", str(run / "prompt"), "--tau", "0.4", "--set", "decoding.batch_size=2"]
    ordered, unordered = generated(capsys, *command), generated(capsys, *command, "--unordered")
    assert [line["id"] for line in ordered] == ["q0", "q1", "q2", "q3"]
    # The longest questions are answered first.
    assert [line["id"] for line in unordered] != ["q0", "q1", "q2", "q3"]
    texts = [{line["id"]: line["text"] for line in lines} for lines in (ordered, unordered)]
    assert texts[0] == texts[1]


def test_each_answer_is_given_as_soon_as_all_before_it_are_there() -> None:
    made = [Answer(Generation((i,), str(i), "eos"), None, None, Cost(1, 0, 1, 0.0)) for i in range(4)]
    seen: list[int] = []

    def done() -> Iterator[tuple[int, Answer]]:
        for index, expected in [(2, []), (0, []), (1, [0]), (3, [0, 1, 2])]:
            assert seen == expected
            yield index, made[index]

    for index, answer in in_order(done()):
        assert answer is made[index]
        seen.append(index)
    assert seen == [0, 1, 2, 3]


def test_answers_go_to_a_file_and_a_limit_takes_the_first_questions(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "answers.jsonl"
    target.write_text("from before\n")
    command = [str(source), "--method", "pretrained", "--limit", "2"]
    printed = generated(capsys, *command)
    assert generated(capsys, *command, "--output", str(target)) == []
    written = [json.loads(line) for line in target.read_text("utf-8").splitlines()]
    assert [line["id"] for line in written] == ["q0", "q1"]
    assert [line["text"] for line in written] == [line["text"] for line in printed]
    assert written[0]["decision"] is written[0]["second"] is None


def test_standard_input_is_read(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = b'{"question": "How many?"}\n\n{"question": "Why?", "id": 7}\n'
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines), "utf-8"))
    found = generated(capsys, "-", "--method", "pretrained", "--set", "decoding.max_new_tokens=4")
    # Without an id it is the number of the line.
    assert [(line["id"], line["question"]) for line in found] == [("1", "How many?"), ("7", "Why?")]


def test_options_reach_the_model_and_the_grader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_rows("aqua", tmp_path / "rows")
    lines = (rows / "test.jsonl").read_text().splitlines()
    given = [json.loads(line) for line in lines]
    source = questions(
        tmp_path,
        [{"question": row["question"], "choices": [option[2:] for option in row["options"]]} for row in given],
    )
    asked: list[Example] = []
    for name in ("aqua", "arc_challenge", "worldtree"):
        task = get_task(name)

        def watched(example: Example, prompt: Callable[[Example], str] = task.prompt) -> str:
            asked.append(example)
            return prompt(example)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(f"dpc.tasks.{name}.TASK", replace(task, prompt=watched))
            command = [str(source), "--task", name, "--method", "pretrained", "--set", "decoding.max_new_tokens=3"]
            assert len(generated(capsys, *command)) == len(given)
    # The same as if they were rows of the benchmark.
    expected = [(example.question, example.choices) for example in get_task("aqua").load("test", str(rows))]
    assert [(example.question, example.choices) for example in asked] == expected * 3
    assert "(E) 104" in asked[0].question


WRONG: dict[str, tuple[list[str], str]] = {
    "no JSON": (["How many?"], "questions.jsonl:1: is not JSON"),
    "no question": (['{"question": "a"}', '{"text": "b"}'], 'questions.jsonl:2: has no text under "question"'),
    "an empty question": (['{"question": " "}'], 'questions.jsonl:1: has no text under "question"'),
    "an id twice": (
        ['{"question": "a", "id": "x"}', '{"question": "b"}', '{"question": "c", "id": "x"}'],
        "questions.jsonl:3: has the id 'x', as line 1 has; change one",
    ),
    "a number that is an id": (
        ['{"question": "a", "id": 2}', '{"question": "b"}'],
        "questions.jsonl:2: has the id '2', as line 1 has; change one",
    ),
    "options that are no list": (['{"question": "a", "choices": "A) b"}'], '"choices" must be a list of texts'),
    "options that are no texts": (['{"question": "a", "choices": [1]}'], '"choices" must be a list of texts'),
    "one option": (['{"question": "a", "choices": ["b"]}'], "questions.jsonl:1: has 1 options; expected 2 to 5"),
    "six options": (['{"question": "a", "choices": ["b", "c", "d", "e", "f", "g"]}'], "has 6 options"),
    "half a character": (['{"question": "a\\ud800"}'], "questions.jsonl:1: character 2 is no whole character"),
    "half a character in an option": (['{"question": "a", "choices": ["b", "\\ud800"]}'], "is no whole character"),
    "nothing": (["", " "], "questions.jsonl: holds no questions"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_line_that_is_no_question_is_named(mistake: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines, message = WRONG[mistake]
    source = tmp_path / "questions.jsonl"
    source.write_text("\n".join(lines) + "\n")
    assert run_command(["generate", str(source), "--method", "pretrained"]) == 2
    printed = capsys.readouterr()
    assert (printed.out, len(printed.err.strip().splitlines())) == ("", 1)
    assert message in printed.err


def test_ids_beyond_the_limit_may_occur_twice(tmp_path: Path) -> None:
    source = questions(tmp_path, [{"question": "a", "id": 1}, {"question": "b", "id": 1}])
    assert [example.question for example in read_questions(str(source), 1)] == ["a"]


def test_an_output_that_would_lose_something_is_refused(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = source.read_bytes()
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    for target, message in [
        (source, "is an input of this command"),
        (tmp_path / "." / "questions.jsonl", "is an input of this command"),
        (tmp_path, "is a folder"),
        (tmp_path / "model.safetensors", "belongs to an adapter, a model or a run"),
    ]:
        assert run_command(["generate", str(source), "--method", "pretrained", "--output", str(target)]) == 2
        assert f"--output {target}: {message}" in capsys.readouterr().err
    assert source.read_bytes() == before
    assert (tmp_path / "model.safetensors").read_bytes() == b"weights"


def test_a_question_beyond_the_context_is_named_before_anything_is_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = questions(tmp_path, [{"question": "a", "id": "short"}, {"question": "why " * 3000, "id": "long"}])
    assert run_command(["generate", str(source), "--method", "pretrained"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "question long: " in printed.err
