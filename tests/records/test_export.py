"""``dpc export``: every record again, as parquet and as lm-evaluation-harness lays out its samples."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
import pytest

from dpc.cli import run_command
from dpc.records.directory import RunDirectory
from dpc.tasks.gsm8k import TASK
from dpc.types import Decision, Evidence, Example
from tests.made_up_runs import make_run, record, rows, text

EXAMPLES = rows(6)
# First and second answers of DPC; None where it did not trigger.
PASSES: list[tuple[bool, bool | None]] = [
    *((True, None), (False, True), (True, False)),
    *((False, False), (False, None), (True, True)),
]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    own = [record(example, "dpc", *passes) for example, passes in zip(EXAMPLES, PASSES, strict=True)]
    base = [record(example, "prompt_tuning", a) for example, (a, _) in zip(EXAMPLES, PASSES, strict=True)]
    return make_run(tmp_path / "run", EXAMPLES, {"dpc": own[::-1], "prompt_tuning": base[:5]})


def test_rows_survive_the_way_to_disk(tmp_path: Path) -> None:
    odd = [
        Example("a/0", "Line\u2028break, \u2029, \x00, 🙂, שלום\nTwo?", "½", None, ("A) 1", "B) <b>")),
        Example("a/1", "?", "2", "So.\r\n#### 2"),
    ]
    run = RunDirectory(tmp_path)
    run.write_examples(odd)
    assert run.read_examples() == odd
    made = make_run(
        tmp_path / "run", odd, {"prompt_tuning": [record(example, "prompt_tuning", True) for example in odd]}
    )
    found = pyarrow.parquet.read_table(exported(made)).to_pylist()
    assert [(row["question"], row["gold"], tuple(row["choices"])) for row in found] == [
        (example.question, example.answer, example.choices) for example in odd
    ]


def exported(run: RunDirectory, *arguments: object) -> Path:
    output = run.path.parent / "out"
    assert run_command(["export", str(run.path), "--output", str(output), *map(str, arguments)]) == 0
    return output


def test_parquet_has_a_row_for_each_record(run: RunDirectory) -> None:
    table = pyarrow.parquet.read_table(exported(run))
    found = {(row["method"], row["example_id"]): row for row in table.to_pylist()}
    records = {(name, r.example_id): r for name in run.methods() for r in run.records(name).read()}
    assert len(table) == len(found) == 11
    assert found.keys() == records.keys()
    examples = {example.id: example for example in EXAMPLES}
    for key, row in found.items():
        made, example = records[key], examples[key[1]]
        answer, decision = made.answer, made.answer.decision
        assert (row["model"], row["task"], row["split"]) == ("org/tiny", "gsm8k", "test")
        assert (row["question"], row["gold"], row["choices"]) == (example.question, example.answer, [])
        assert (row["first_text"], tuple(row["first_ids"])) == (answer.first.text, answer.first.ids)
        assert row["second_text"] == (answer.second.text if answer.second else None)
        assert row["first_correct"] == made.score_first.correct
        assert (row["correct"], row["extracted"], row["reason"]) == (
            made.score_final.correct,
            made.score_final.extracted,
            made.score_final.reason,
        )
        assert row["correct_flexible"] == TASK.also_graded["flexible"](example, answer.final.text).correct
        assert (row["forward_passes"], row["seconds"]) == (answer.cost.forward_passes, answer.cost.seconds)
        for name in ("trigger", "judged", "triggered", "statistic", "threshold", "key_token"):
            assert row[name] == (None if decision is None else getattr(decision, name))
        evidence = Evidence() if decision is None else decision.evidence
        for name in ("beta", "late_flow", "accumulated", "corruption"):
            assert row[name] == getattr(evidence, name)
        for name in ("influence", "profile"):
            values = getattr(evidence, name)
            assert row[name] == (None if values is None else list(values))
        assert row["more"] == (None if decision is None else '{"odd": 1.5}')


def test_a_record_that_was_not_judged_says_why(tmp_path: Path) -> None:
    made = record(EXAMPLES[0], "dpc", True)
    short = Decision(False, None, 0.5, judged=False, evidence=Evidence(reason="rationale of 2 tokens"))
    short_record = replace(made, answer=replace(made.answer, decision=short))
    run = make_run(tmp_path / "run", EXAMPLES[:1], {"dpc": [short_record]})
    [row] = pyarrow.parquet.read_table(exported(run)).to_pylist()
    assert (row["judged"], row["statistic"], row["not_judged_because"]) == (False, None, "rationale of 2 tokens")


def test_an_export_never_overwrites_a_file_of_the_run(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    before = run.records("dpc").path.read_bytes()
    assert "is an input of this command" in refusal(capsys, run.path, "--output", run.records("dpc").path)
    assert run.records("dpc").path.read_bytes() == before


def test_parquet_says_what_it_was_made_from(run: RunDirectory) -> None:
    schema = pyarrow.parquet.read_schema(exported(run))
    assert json.loads(schema.metadata[b"dpc.eval"]) == run.evaluated()


def samples(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_samples_stand_where_the_harness_writes_them(run: RunDirectory) -> None:
    folder = exported(run, "--format", "lm-eval")
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert [name.rpartition("_")[0] for name in found] == [
        "org__tiny__dpc/samples_gsm8k",
        "org__tiny__prompt_tuning/samples_gsm8k",
    ]
    assert all(name.endswith(".jsonl") for name in found)
    again = exported(run, "--format", "lm-eval")
    assert sorted(path.relative_to(again).as_posix() for path in again.rglob("*") if path.is_file()) == found


def test_a_sample_holds_the_answer_that_counts_and_its_grade(run: RunDirectory) -> None:
    [path] = (exported(run, "--format", "lm-eval") / "org__tiny__dpc").iterdir()
    lines = samples(path)
    assert [line["filter"] for line in lines] == ["strict-match"] * 6 + ["flexible-extract"] * 6
    assert [line["doc_id"] for line in lines] == [*range(6)] * 2
    for line in lines:
        example, (first, second) = EXAMPLES[line["doc_id"]], PASSES[line["doc_id"]]
        final = text(example, first if second is None else second)
        strict = line["filter"] == "strict-match"
        score = TASK.score(example, final) if strict else TASK.also_graded["flexible"](example, final)
        assert line["resps"] == [[final]]
        assert line["filtered_resps"] == ["[invalid]" if score.extracted is None else score.extracted]
        assert (line["metrics"], line["exact_match"]) == (["exact_match"], float(score.correct))
        assert line["doc"]["question"] == example.question
        assert line["target"] == example.answer
        options = {"until": [], "do_sample": False, "temperature": 0.0, "max_gen_toks": 512}
        assert line["arguments"] == {"gen_args_0": {"arg_0": TASK.prompt(example), "arg_1": options}}
        hashed = {
            "doc_hash": json.dumps(line["doc"], indent=2, ensure_ascii=False),
            "prompt_hash": TASK.prompt(example),
            "target_hash": example.answer,
        }
        for name, content in hashed.items():
            assert line[name] == hashlib.sha256(content.encode()).hexdigest()
    accuracy = sum(line["exact_match"] for line in lines[:6]) / 6
    assert accuracy == sum(r.score_final.correct for r in run.records("dpc").read()) / 6


def test_other_tools_load_the_samples(run: RunDirectory, tmp_path: Path) -> None:
    [path] = (exported(run, "--format", "lm-eval") / "org__tiny__dpc").iterdir()
    loaded = datasets.Dataset.from_json(str(path), cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == 12
    assert {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "exact_match"} <= set(
        loaded.column_names
    )


TASK_OF_ONES_OWN = """
from dataclasses import replace
from dpc.tasks.gsm8k import TASK as GSM8K
TASK = replace(GSM8K, name="mine", also_graded={})
"""


def test_a_task_of_ones_own_is_exported_with_its_file(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {**run.evaluated()["data"], "task": "mine"}
    examples = run.read_examples()
    records = {"prompt_tuning": run.records("prompt_tuning").read()}
    mine = make_run(tmp_path / "mine", examples, records, {"data": data})
    output = ("--output", tmp_path / "out.parquet")
    assert "its task, mine, does not come with dpc; pass --task" in refusal(capsys, mine.path, *output)
    assert "is a run of 'mine'" in refusal(capsys, mine.path, *output, "--task", "zoo")
    (tmp_path / "mine.py").write_text(TASK_OF_ONES_OWN)
    [path] = (
        exported(mine, "--format", "lm-eval", "--task", tmp_path / "mine.py") / "org__tiny__prompt_tuning"
    ).iterdir()
    assert path.name.startswith("samples_mine_")
    # One grader alone is no filter.
    assert {line["filter"] for line in samples(path)} == {"none"}


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert run_command(["export", *map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    return printed.err


def test_what_cannot_be_exported_is_refused_in_one_line(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ("--output", tmp_path / "x")
    assert "does not say what was evaluated" in refusal(capsys, tmp_path / "nowhere", *output)
    assert "'csv' is not one of" in refusal(capsys, run.path, *output, "--format", "csv")
    assert "cannot write" in refusal(capsys, run.path, "--output", run.examples / "x")
    stray = record(rows(9)[8], "dpc", True)
    run.records("dpc").append([stray])
    assert "record gsm8k/test/8 of dpc is of no row in examples.jsonl" in refusal(capsys, run.path, *output)
    run.examples.write_text('{"id": 1}\n')
    assert "examples.jsonl:1: is not an example" in refusal(capsys, run.path, *output)
    run.examples.unlink()
    assert "no examples there" in refusal(capsys, run.path, *output)
    assert not (tmp_path / "x").exists()
