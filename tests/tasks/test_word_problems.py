"""The embedded benchmark: generated rows in GSM8K's format, graded as GSM8K is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dpc.errors import UserError
from dpc.tasks import gsm8k, word_problems
from dpc.zoo.corpus import benchmark_rows

SPLITS = ("train", "dev", "test")


ROWS = 12


@pytest.fixture(scope="module")
def generated() -> dict[str, list[dict[str, str]]]:
    return {split: list(benchmark_rows(split, ROWS)) for split in SPLITS}


@pytest.fixture(scope="module")
def directory(generated: dict[str, list[dict[str, str]]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("zoo")
    for split, rows in generated.items():
        (path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("split", SPLITS)
def test_every_generated_row_is_loaded_and_its_own_answer_is_right(
    generated: dict[str, list[dict[str, str]]], directory: Path, split: str
) -> None:
    examples = word_problems.TASK.load(split, str(directory))
    assert [e.id for e in examples] == [f"zoo/{split}/{i}" for i in range(ROWS)]
    for example, row in zip(examples, generated[split], strict=True):
        assert row["answer"].endswith(f"\n#### {example.answer}")
        assert word_problems.TASK.prompt(example) == f"Question: {row['question']}\nAnswer:"
        assert word_problems.TASK.target(example) == f" {row['answer']}"
        assert word_problems.TASK.score(example, word_problems.TASK.target(example)).reason == "match"
        assert word_problems.TASK.score(example, f"#### 7{example.answer}").reason == "mismatch"
        assert word_problems.TASK.score(example, row["answer"].rsplit("\n", 1)[0]).reason == "no_answer"


@pytest.mark.parametrize("source", [None, "embedded"])
def test_the_default_source_is_the_data_shipped_with_the_package(
    directory: Path, monkeypatch: pytest.MonkeyPatch, source: str | None
) -> None:
    assert Path(word_problems.__file__).parents[1] / "zoo" / "data" == word_problems.DATA
    monkeypatch.setattr(word_problems, "DATA", directory)
    assert word_problems.TASK.load("dev", source) == word_problems.TASK.load("dev", str(directory))
    assert word_problems.TASK.default_source == "embedded"


def test_a_single_file_is_the_split_that_was_asked_for(directory: Path) -> None:
    examples = word_problems.TASK.load("dev", str(directory / "test.jsonl"))
    assert examples[3].question == word_problems.TASK.load("test", str(directory))[3].question
    assert examples[3].id == "zoo/dev/3"


def test_train_and_dev_are_files_of_their_own(directory: Path) -> None:
    questions = [{e.question for e in word_problems.TASK.load(split, str(directory))} for split in SPLITS]
    assert len(set.union(*questions)) == 3 * ROWS


def test_the_grader_is_that_of_gsm8k() -> None:
    assert word_problems.TASK.score is gsm8k.TASK.score
    assert word_problems.TASK.also_graded == gsm8k.TASK.also_graded


@pytest.mark.parametrize(
    ("split", "source", "message"),
    [
        ("dev", "nowhere", "'nowhere' does not exist: pass 'embedded', a directory with dev.jsonl, or a file"),
        ("all", "embedded", "unknown split 'all': use one of train, dev, test"),
    ],
)
def test_bad_input_is_one_line(split: str, source: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        word_problems.TASK.load(split, source)
    assert str(caught.value) == message
