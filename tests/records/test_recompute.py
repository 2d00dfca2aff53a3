"""Results are computed again from the records: an edited figure is noticed, and what cannot be checked is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dpc.records.directory import RunDirectory
from dpc.records.recompute import recompute
from dpc.records.results import Results, read_results, results_json, write_results
from dpc.records.summary import summarize_run
from dpc.tasks.gsm8k import TASK
from dpc.types import Answer, Cost, Decision, Generation, Record, Score
from tests.made_up_runs import make_run, record, rows

EXAMPLES = rows(12)
RIGHT = {
    "prompt_tuning": [i % 3 == 0 for i in range(12)],
    "dpc": [i % 2 == 0 for i in range(12)],
    "attenuate": [i < 5 for i in range(12)],
}
MADE_BY = {"command": "dpc eval", "versions": {}, "source": {}}


def made(run: RunDirectory, calibration: dict[str, Any] | None = None, task: str = "gsm8k") -> Results:
    return summarize_run(
        {name: sorted(run.records(name).read(), key=_place) for name in RIGHT},
        EXAMPLES,
        TASK.also_graded,
        model="org/tiny",
        task=task,
        split="test",
        calibration=calibration,
        made_by=MADE_BY,
    )


def _place(made: Record) -> int:
    return int(made.example_id.rpartition("/")[2])


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    records = {
        name: [
            record(example, name, not right if name == "dpc" else right, right if name == "dpc" else None)
            for example, right in zip(EXAMPLES, grades, strict=True)
        ]
        for name, grades in RIGHT.items()
    }
    # In the order in which they were done.
    found = make_run(tmp_path / "run", EXAMPLES, {name: own[::-1] for name, own in records.items()})
    write_results(found.results, made(found))
    return found


def edited(run: RunDirectory, *path: str, to: Any) -> Results:
    """The stored results with one value changed by hand."""
    value = results_json(read_results(run.results))
    inside = value
    for name in path[:-1]:
        inside = inside[name]
    inside[path[-1]] = to
    run.results.write_text(json.dumps(value))
    return read_results(run.results)


def test_results_that_follow_from_the_records_are_left_as_they_are(run: RunDirectory) -> None:
    stored = read_results(run.results)
    assert recompute(run, stored) == recompute(run, made(run))
    assert recompute(run, stored).notes == ()
    assert recompute(run, stored).results == stored


@pytest.mark.parametrize(
    ("path", "to", "words"),
    [
        (("methods", "dpc", "accuracy"), 0.99, "methods.dpc.accuracy = 0.99, the records give 0.5"),
        (("methods", "dpc", "also_graded", "flexible", "correct"), 3, "methods.dpc.also_graded.flexible.correct = 3"),
        (("methods", "attenuate", "versus_prompt_tuning", "p_holm"), 0.01, "versus_prompt_tuning.p_holm = 0.01"),
        (("methods", "dpc", "trigger", "recall"), 0.1, "methods.dpc.trigger.recall = 0.1"),
        (("methods", "dpc", "cost", "seconds"), 0.0, "methods.dpc.cost.seconds = 0, the records give 1.5"),
        (("test_curve", "oracle"), 0.2, "test_curve.oracle = 0.2"),
        (("n",), 1200, "n = 1200, the records give 12"),
        (("split",), "train", "split = train, the records give test"),
    ],
)
def test_an_edited_figure_is_named_with_both_values(
    path: tuple[str, ...], to: Any, words: str, run: RunDirectory
) -> None:
    correct = read_results(run.results)
    found = recompute(run, edited(run, *path, to=to))
    assert found.results == correct
    [note] = found.notes
    assert words in note
    assert "\n" not in note


def test_a_method_that_was_removed_from_the_results_is_shown_again(run: RunDirectory) -> None:
    value = results_json(read_results(run.results))
    del value["methods"]["dpc"], value["test_curve"]
    run.results.write_text(json.dumps(value | {"test_curve": None}))
    found = recompute(run, read_results(run.results))
    assert list(found.results.methods) == ["prompt_tuning", "attenuate", "dpc"]
    assert found.results.test_curve is not None
    assert "methods.dpc = nothing" in found.notes[0]
    assert "figures differ" in found.notes[0]


def test_a_method_without_records_keeps_its_figures_with_a_note_and_counts_in_the_correction(run: RunDirectory) -> None:
    stored = read_results(run.results)
    run.records("attenuate").path.unlink()
    found = recompute(run, stored)
    assert found.results == stored
    assert found.notes == ("attenuate has no records: its figures are those of results.json, not checked",)


def test_records_of_an_interrupted_evaluation_are_not_taken_for_whole_ones(run: RunDirectory) -> None:
    stored = read_results(run.results)
    lines = run.records("dpc").path.read_bytes().splitlines(keepends=True)
    run.records("dpc").path.write_bytes(b"".join(lines[:7]))
    notes = recompute(run, stored).notes
    assert any("dpc has no 5 of 12 records" in note for note in notes)
    run.examples.unlink()
    assert recompute(run, stored).notes == ("examples.jsonl is missing: no figure was checked against the records",)


def test_a_run_of_which_only_the_results_are_left_is_believed(tmp_path: Path, run: RunDirectory) -> None:
    stored = edited(run, "methods", "dpc", "accuracy", to=0.99)
    assert recompute(RunDirectory(tmp_path / "elsewhere"), stored).results == stored


def test_further_graders_of_a_task_in_a_file_are_kept_with_a_note(run: RunDirectory) -> None:
    manifest = run.manifest()
    manifest["stages"]["eval"]["from"]["data"]["task"] = "mine"
    (run.path / "run.json").write_text(json.dumps(manifest))
    stored = made(run, task="mine")
    found = recompute(run, stored)
    assert found.results == stored
    assert found.notes == ("task mine does not come with dpc: the figures of its further graders were not checked",)


def calibration_record(index: int, ratio: float, first: bool, second: bool) -> Record:
    scores = [Score(right, "1", "match" if right else "mismatch") for right in (first, second)]
    text = Generation((1, 2, 3, 4), "1", "eos")
    answer = Answer(text, Decision(True, ratio, -1.0), text, Cost(1, 1, 8, 0.1))
    return Record(f"dev/{index}", "dpc", answer, *scores)


def test_the_calibration_is_checked_where_the_run_has_its_records(run: RunDirectory) -> None:
    made_from = {"data": {"rows": 2}}
    curve = [
        {"tau": -1.0, "accuracy": 0.5, "trigger_rate": 1.0},
        {"tau": 0.5, "accuracy": 1.0, "trigger_rate": 0.5},
        {"tau": 1.0, "accuracy": 0.5, "trigger_rate": 0.0},
    ]
    calibration = {"tau": 0.5, "n": 2, "curve": curve, "from": made_from}
    stored = made(run, calibration)
    # The records lie beside a prompt elsewhere.
    assert recompute(run, stored).notes == ()
    run.enter("calibrate", made_from)
    run.records("calibration").append([calibration_record(0, 0.25, True, False)])
    assert recompute(run, stored).notes == ()
    run.records("calibration").append([calibration_record(1, 0.75, False, True)])
    assert recompute(run, stored).notes == ()
    assert stored.calibration is not None
    better = replace(stored, calibration=replace(stored.calibration, tau=1.0))
    [note] = recompute(run, better).notes
    assert "calibration.tau = 1, the records give 0.5" in note
