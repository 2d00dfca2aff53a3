"""Records are kept as they are made: a killed evaluation continues, and equals one that was never killed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dpc.engine import Decoder
from dpc.errors import UserError
from dpc.flow.thresholds import ALWAYS
from dpc.methods import get_method
from dpc.methods.method import Setup
from dpc.model.lm import FrozenLM
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.records.directory import RecordFile, RunDirectory
from dpc.records.results import CostSum
from dpc.records.summary import summarize
from dpc.run.evaluate import _few_at_a_time, evaluate_method
from dpc.run.reporter import Progress, Silent
from dpc.settings import DecodingSettings
from dpc.types import Answer, Cost, Decision, Evidence, Example, Generation, Record, Score
from tests.evidence import About
from tests.tiny_models import tiny_lm
from tests.tiny_rows import toy_examples, toy_task

EXAMPLES = toy_examples()
DECODING = DecodingSettings(batch_size=3, max_new_tokens=8)


@pytest.fixture(autouse=True)
def every_record_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpc.run.evaluate._MOMENT", 0.0)


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return tiny_lm("llama")


@pytest.fixture(scope="module")
def setup(lm: FrozenLM) -> Setup:
    vectors = torch.randn(4, lm.hidden_size, generator=torch.Generator().manual_seed(0))
    return Setup(SoftPrompt.of(vectors, lm.name), 0.5)


def without_neighbours(records: list[Record]) -> list[Record]:
    """Seconds, and how many drafts a pass checks, depend on who shares a pass; the last digits of evidence, too."""
    alike = []
    for record in records:
        answer = replace(record.answer, cost=Cost(0, 0, 0, 0.0))
        if answer.decision is not None:
            answer = replace(answer, decision=replace(answer.decision, evidence=Evidence()))
        alike.append(replace(record, answer=answer))
    return alike


def evidence(records: list[Record]) -> list[Evidence | None]:
    return [None if r.answer.decision is None else r.answer.decision.evidence for r in records]


class Watch(Silent):
    """Keeps what is reported; Ctrl-C once ``stop_after`` rows are done."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.seen: list[Progress] = []
        self._stop_after = stop_after

    def progress(self, progress: Progress) -> None:
        self.seen.append(progress)
        if self._stop_after is not None and progress.done >= self._stop_after:
            raise KeyboardInterrupt


def run(lm: FrozenLM, setup: Setup, file: RecordFile, watch: Watch | None = None) -> list[Record]:
    dpc = get_method("dpc")
    return evaluate_method(Decoder(lm, DECODING), toy_task(), EXAMPLES, dpc, setup, file, watch or Watch())


def test_a_killed_evaluation_goes_on_and_equals_one_that_ran_through(
    lm: FrozenLM, setup: Setup, tmp_path: Path
) -> None:
    whole = run(lm, setup, RecordFile(tmp_path / "whole.jsonl"))
    killed = RecordFile(tmp_path / "killed.jsonl")
    with pytest.raises(KeyboardInterrupt):
        run(lm, setup, killed, Watch(stop_after=4))
    kept = killed.read()
    assert 0 < len(kept) < len(EXAMPLES)
    with killed.path.open("ab") as file:
        file.write(b'{"example_id":"toy/9","meth')
    again = run(lm, setup, killed)
    assert without_neighbours(again) == without_neighbours(whole)
    assert evidence(again) == [found and About(found, 1e-4) for found in evidence(whole)]
    assert killed.read()[: len(kept)] == kept
    assert len(killed.read()) == len(EXAMPLES)


def test_answers_that_wait_to_be_written_are_kept_where_the_next_is_interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dpc.run.evaluate._MOMENT", 60.0)

    def answers() -> Iterator[Any]:
        yield from (0, 1)
        raise KeyboardInterrupt

    together = _few_at_a_time(answers())
    assert next(together) == [0, 1]
    with pytest.raises(KeyboardInterrupt):
        next(together)


def test_every_step_is_reported_with_the_share_that_is_right(lm: FrozenLM, setup: Setup, tmp_path: Path) -> None:
    watch, file = Watch(), RecordFile(tmp_path / "records.jsonl")
    made = run(lm, setup, file, watch)
    assert {(step.stage, step.total) for step in watch.seen} == {("dpc", 10)}
    assert [step.done for step in watch.seen] == list(range(11))
    right = [record.score_final.correct for record in file.read()]
    assert [step.note for step in watch.seen] == ["", *(f"{sum(right[:n]) / n:.1%} right" for n in range(1, 11))]
    assert {record.method for record in made} == {"dpc"}


def test_records_survive_the_round_trip(lm: FrozenLM, setup: Setup, tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "records.jsonl")
    made = run(lm, replace(setup, tau=ALWAYS), file)
    assert sorted(file.read(), key=lambda r: r.example_id) == sorted(made, key=lambda r: r.example_id)
    assert any(record.answer.second is not None for record in made)


def test_a_full_disk_keeps_what_was_there(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "records.jsonl").symlink_to(full)
    with pytest.raises(UserError, match="No space left"):
        RecordFile(tmp_path / "records.jsonl").append([made_up("toy/0", True, True)])


def test_a_file_that_can_not_be_opened_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = RecordFile(tmp_path / "records.jsonl")
    file.append([made_up("toy/0", True, True)])

    def refuse(*_: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        with pytest.raises(UserError, match="Too many open files"):
            file.append([made_up("toy/1", True, True)])
    assert [record.example_id for record in file.read()] == ["toy/0"]


def test_a_damaged_record_is_named_by_file_and_line(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "records.jsonl")
    file.append([made_up("toy/0", True, True)])
    with file.path.open("ab") as handle:
        handle.write(b'{"not": "a record"}\n')
    with pytest.raises(UserError, match=r"records\.jsonl:2"):
        file.read()


def test_records_of_other_rows_are_refused(lm: FrozenLM, setup: Setup, tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "records.jsonl")
    file.append([made_up("other/7", True, True)])
    with pytest.raises(UserError, match="other/7"):
        run(lm, setup, file)


def test_a_question_longer_than_the_context_is_named_before_anything_is_computed(
    lm: FrozenLM, setup: Setup, tmp_path: Path
) -> None:
    rows = [*EXAMPLES, Example("toy/long", "z" * 600, "x")]
    file = RecordFile(tmp_path / "records.jsonl")
    with pytest.raises(UserError, match="toy/long"):
        evaluate_method(Decoder(lm, DECODING), toy_task(), rows, get_method("dpc"), setup, file)
    assert not file.path.exists()


def test_a_run_never_mixes_two_settings(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path, "dpc eval")
    directory.enter("eval", {"method": {"gamma": 10.0}, "tau": 0.5})
    directory.enter("eval", {"method": {"gamma": 10.0}, "tau": 0.5})
    with pytest.raises(UserError, match=r"method\.gamma = 10\.0, now 20\.0"):
        directory.enter("eval", {"method": {"gamma": 20.0}, "tau": 0.5})
    stamp = directory.manifest()["stages"]["eval"]
    assert stamp["command"] == "dpc eval"
    assert {"python", "torch", "transformers"} <= stamp["versions"].keys()


def test_a_stage_that_another_version_goes_on_with_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = RunDirectory(tmp_path, "dpc eval")
    for version in ("1", "1", "2", "2", "1"):
        monkeypatch.setattr("dpc.records.directory.versions", lambda version=version: {"torch": version})
        directory.enter("eval", {"tau": 0.5})
    stage = directory.manifest()["stages"]["eval"]
    made = [stage["versions"], *(each["versions"] for each in stage["continued"])]
    assert made == [{"torch": "1"}, {"torch": "2"}, {"torch": "1"}]


def test_what_nothing_needed_yet_may_be_filled_and_then_stays(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    for tau in (None, 0.5, None, 0.5):
        directory.enter("eval", {"rows": 3, "tau": tau}, fillable=("tau",))
    assert directory.manifest()["stages"]["eval"]["from"] == {"rows": 3, "tau": 0.5}
    with pytest.raises(UserError, match=r"tau = 0\.5, now 0\.6"):
        directory.enter("eval", {"rows": 3, "tau": 0.6}, fillable=("tau",))
    with pytest.raises(UserError, match="gamma = nothing, now null"):
        directory.enter("eval", {"rows": 3, "tau": 0.5, "gamma": None}, fillable=("tau",))


def made_up(name: str, first: bool, final: bool, ratio: float = 0.5, tau: float = 0.4) -> Record:
    generation = Generation((1, 2, 3, 4), "text", "eos")
    score = {True: Score(True, "1", "match"), False: Score(False, "2", "mismatch")}
    decision = Decision(ratio > tau, ratio, tau, 0)
    second = generation if ratio > tau else None
    return Record(
        name, "dpc", Answer(generation, decision, second, Cost(9, 1, 8, 0.5, 20.0, 2.5)), score[first], score[final]
    )


def test_the_summary_counts_what_the_records_say() -> None:
    before = [made_up(str(i), ok, ok, ratio=0.1) for i, ok in enumerate([True, True, False, False, False, True])]
    after = [
        made_up("0", True, True, ratio=0.1),
        made_up("1", True, False, ratio=0.9),
        made_up("2", False, True, ratio=0.8),
        made_up("3", False, True, ratio=0.7),
        made_up("4", False, False, ratio=0.2),
        made_up("5", True, True, ratio=0.3),
    ]
    summary = summarize({"prompt_tuning": before, "dpc": after})["dpc"]
    assert (summary.correct, summary.n) == (4, 6)
    versus = summary.versus_prompt_tuning
    assert versus is not None
    assert (versus.fixed, versus.broken) == (2, 1)
    assert versus.difference == pytest.approx(1 / 6)
    assert versus.p == pytest.approx(1.0)
    trigger = summary.trigger
    assert trigger is not None
    assert (trigger.rate, trigger.precision, trigger.recall) == pytest.approx((3 / 6, 2 / 3, 2 / 3))
    assert trigger.auc == pytest.approx(5 / 9)
    assert summary.cost == CostSum(
        seconds=3.0,
        forward_passes=54,
        backward_passes=6,
        generated_tokens=48,
        forward_tokens=120.0,
        backward_tokens=15.0,
    )


def test_methods_on_different_instances_are_not_compared() -> None:
    with pytest.raises(ValueError, match="different instances"):
        summarize({"prompt_tuning": [made_up("0", True, True)], "dpc": [made_up("1", True, True)]})
