"""``dpc analyze`` on the shipped model: every number is computed again from the files that it leaves."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import scipy.stats

from dpc.analysis import collect
from dpc.analysis.analyze import analyze_run
from dpc.analysis.figures import FIGURES
from dpc.analysis.instances import read_evaluation
from dpc.cli import run_command
from dpc.flow.measures import (
    accumulation_profile,
    late_flow,
    prompt_to_question,
    prompt_to_rationale,
    rationale_influence,
)
from dpc.flow.saliency import prompt_saliency
from dpc.model.loading import load_lm
from dpc.prompt.soft_prompt import init_prompt, load_adapter, save_adapter
from dpc.records.directory import RecordFile, RunDirectory
from dpc.tasks import get_task

pytestmark = pytest.mark.xdist_group("analyze")

ROWS, DRAWN = 24, 12
MAPS = ("2b", "3", "6")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with DPC's records on few rows, the prompt not tuned, so that it errs; then analysed."""
    folder = tmp_path_factory.mktemp("run")
    lm = load_lm("zoo")
    prompt = init_prompt(lm, 4, "sample-vocab", seed=0)
    save_adapter(prompt, lm, folder / "prompt", {})
    command = ["eval", "--output", str(folder), "--prompt", str(folder / "prompt"), "--methods", "prompt_tuning,dpc"]
    assert run_command([*command, "--limit", str(ROWS), "--tau", "0.1"]) == 0
    assert run_command(["analyze", str(folder), "--instances", str(DRAWN)]) == 0
    return folder


def said(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "analysis" / "analysis.json").read_text())
    return found


def rows(run: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pyarrow.parquet.read_table(run / "analysis" / f"{name}.parquet").to_pylist()
    return found


def test_every_figure_has_its_picture_its_data_and_its_words(run: Path) -> None:
    words = said(run)
    assert list(words["figures"]) == list(FIGURES)
    for name, figure in words["figures"].items():
        assert figure["files"] == [f"{name}.svg", f"{name}.pdf", f"{name}.parquet"]
        assert all((run / "analysis" / file).stat().st_size for file in figure["files"])
        assert figure["title"]
        assert figure["finding"]
        assert figure["caption"]
        assert (run / "analysis" / f"{name}.svg").stat().st_size < 300_000
    assert (
        words["from"]["prompt_sha256"]
        == json.loads((run / "run.json").read_text())["stages"]["eval"]["from"]["prompt_sha256"]
    )
    assert words["instances"]["judged"] + words["instances"]["too_short"] == ROWS
    assert words["not_drawn"] == {}
    assert all(figure["from"] == words["from"] for figure in words["figures"].values())
    assert words["from"]["instances"] == DRAWN


def test_the_numbers_of_an_instance_follow_from_its_saliency(run: Path) -> None:
    lm = load_lm("zoo")
    prompt, row = load_adapter(lm, run / "prompt"), rows(run, "instances")[0]
    record = next(r for r in RecordFile(run / "records" / "dpc.jsonl").read() if r.example_id == row["example_id"])
    example = next(e for e in RunDirectory(run).read_examples() if e.id == row["example_id"])
    question = lm.encode(get_task("zoo").prompt(example))
    [saliency] = prompt_saliency(lm, prompt.vectors, [question], [record.answer.first.ids])
    influence, profile = rationale_influence(saliency), accumulation_profile(saliency, [0, 1])
    half = len(influence) // 2
    assert row["to_question"] == pytest.approx(prompt_to_question(saliency).tolist(), rel=1e-3)
    assert row["to_rationale"] == pytest.approx(prompt_to_rationale(saliency).tolist(), rel=1e-3)
    assert row["profile"] == pytest.approx(profile.tolist(), rel=1e-3)
    assert row["concentration"] == pytest.approx(float(profile.max() / profile.mean()), rel=1e-3)
    assert row["accumulated"] == (row["concentration"] > 2)
    assert row["late_flow"] == pytest.approx(late_flow(influence), rel=1e-3)
    assert row["early_flow"] == pytest.approx(float(influence[:half].mean()), rel=1e-3)
    assert row["R"] == pytest.approx(float((influence[half:] > influence[:half].mean()).float().mean()))
    assert row["correct"] == record.score_first.correct


def test_what_is_measured_agrees_with_what_the_evaluation_recorded(run: Path) -> None:
    assert said(run)["difference_from_recorded_late_flow"] < 1e-3
    for row in rows(run, "instances"):
        assert row["late_flow"] == pytest.approx(row["recorded_late_flow"], rel=2e-2)


def test_layer_curves_are_means_over_instances(run: Path) -> None:
    measured = rows(run, "instances")
    for group in ("all", "right", "wrong"):
        members = [row for row in measured if row["in_drawn" if group == "all" else f"in_{group}"]]
        for name in ("question", "rationale"):
            curve = [row for row in rows(run, "2a") if (row["flow"], row["group"]) == (name, group)]
            means = np.mean([row[f"to_{name}"] for row in members], axis=0)
            assert [row["mean"] for row in curve] == pytest.approx(means.tolist())
            assert all(row["low"] <= row["mean"] <= row["high"] for row in curve)
            assert {row["instances"] for row in curve} == {len(members)}
    every = [row for row in measured if row["in_drawn"]]
    peak = np.argmax(np.mean([row["to_question"] for row in every], axis=0))
    assert said(run)["figures"]["2a"]["numbers"]["question"]["peak_layer"] == peak


def test_tests_are_recomputed_from_the_data_beside_the_figures(run: Path) -> None:
    numbers = said(run)["figures"]
    late = {
        group: [row["late_flow"] for row in rows(run, "4b") if row["group"] == group] for group in ("right", "wrong")
    }
    test = scipy.stats.mannwhitneyu(late["wrong"], late["right"])
    pairs = len(late["wrong"]) * len(late["right"])
    assert numbers["4b"]["numbers"]["mann_whitney"]["p"] == pytest.approx(test.pvalue)
    assert numbers["4b"]["numbers"]["mann_whitney"]["rank_biserial"] == pytest.approx(2 * test.statistic / pairs - 1)
    recorded: dict[bool, list[float]] = {True: [], False: []}
    for instance in read_evaluation(RunDirectory(run)).instances:
        recorded[instance.correct].append(instance.late_flow)
    whole = scipy.stats.mannwhitneyu(recorded[False], recorded[True])
    assert numbers["4b"]["numbers"]["all_records"]["p"] == pytest.approx(whole.pvalue)
    means = {row["group"]: row["mean"] for row in rows(run, "4c")}
    assert means == pytest.approx({group: np.mean(values) for group, values in late.items()})
    for definition, found in numbers["4a"]["numbers"]["definitions"].items():
        table = [[0, 0], [0, 0]]
        for row in (row for row in rows(run, "instances") if row["in_drawn"]):
            table[not row["accumulated"]][not row["changed"][definition]] += 1
        assert found["accumulated"] == {"changed": table[0][0], "instances": sum(table[0])}
        assert found["not_accumulated"] == {"changed": table[1][0], "instances": sum(table[1])}
        assert found["p"] == pytest.approx(scipy.stats.fisher_exact(table).pvalue)


def test_prompt_columns_of_a_map_average_to_the_profile(run: Path) -> None:
    chosen = said(run)["figures"]["2b"]["numbers"]
    row = next(row for row in rows(run, "instances") if row["example_id"] == chosen["example_id"])
    cells = rows(run, "2b")
    profile = np.zeros(4)
    for cell in cells:
        if cell["column_group"] == "prompt":
            profile[cell["column"]] += cell["value"]
    profile /= len({cell["row"] for cell in cells})
    assert profile.tolist() == pytest.approx(row["profile"], rel=1e-3)
    assert int(profile.argmax()) == chosen["virtual_token"]
    assert max(r["concentration"] for r in rows(run, "instances") if r["in_drawn"]) == row["concentration"]


def test_attention_rows_of_a_map_sum_to_one(run: Path) -> None:
    cells = [cell for cell in rows(run, "6") if cell["quantity"] == "attention"]
    sums: dict[tuple[str, int], float] = {}
    for cell in cells:
        key = (cell["map"], cell["row"])
        sums[key] = sums.get(key, 0.0) + cell["value"]
    assert list(sums.values()) == pytest.approx([1.0] * len(sums), rel=1e-4)


def test_the_instances_of_figure_3_have_the_median_late_flow(run: Path) -> None:
    measured = rows(run, "instances")
    for group, found in said(run)["figures"]["3"]["numbers"].items():
        late = sorted(row["late_flow"] for row in measured if row[f"in_{group}"])
        assert found["late_flow"] == late[(len(late) - 1) // 2]


def test_the_same_again_loads_no_model_and_draws_the_same_bytes(run: Path) -> None:
    names = ("2a", "4c")
    before = {name: [(run / "analysis" / f"{name}.{kind}").read_bytes() for kind in ("svg", "pdf")] for name in names}
    command = ["analyze", str(run), "--instances", str(DRAWN), "--figures", ",".join(names), "--model", "no-such-model"]
    assert run_command(command) == 0
    for name in names:
        assert [(run / "analysis" / f"{name}.{kind}").read_bytes() for kind in ("svg", "pdf")] == before[name]
    assert set(MAPS) < set(said(run)["figures"])


def test_only_what_is_not_there_is_measured(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    real = collect.measure_flows

    def counting(lm: Any, prompt: Any, questions: Any, *more: Any) -> Any:
        measured.append(len(questions))
        return real(lm, prompt, questions, *more)

    monkeypatch.setattr(collect, "measure_flows", counting)
    kept = sorted((run / "analysis" / "measured").iterdir(), key=lambda path: path.stat().st_size)
    # Flows are smaller than maps.
    kept[0].unlink()
    assert run_command(["analyze", str(run), "--instances", str(DRAWN), "--figures", "4c"]) == 0
    assert measured == [1]


def copy_without_figures(run: Path, to: Path) -> Path:
    for name in ("run.json", "examples.jsonl", "records/dpc.jsonl", "analysis/analysis.json"):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        (to / name).write_bytes((run / name).read_bytes())
    for path in (run / "analysis" / "measured").iterdir():
        (to / "analysis" / "measured").mkdir(exist_ok=True)
        (to / "analysis" / "measured" / path.name).write_bytes(path.read_bytes())
    return to


def test_figures_drawn_with_other_settings_stay_and_say_what_they_were_made_from(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    before = {path.name: path.read_bytes() for path in (copy / "analysis").glob("*.*") if path.stem in FIGURES}
    capsys.readouterr()
    assert run_command(["analyze", str(copy), "--instances", "6", "--figures", "4c"]) == 0
    words = said(copy)
    assert list(words["figures"]) == list(FIGURES)
    assert {name: figure["from"]["instances"] for name, figure in words["figures"].items()} == {
        name: 6 if name == "4c" else DRAWN for name in FIGURES
    }
    after = {path.name: path.read_bytes() for path in (copy / "analysis").glob("*.*") if path.stem in FIGURES}
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {"4c.svg", "4c.pdf", "4c.parquet"}
    kept = ", ".join(name for name in FIGURES if name != "4c")
    printed = capsys.readouterr().err
    assert f"note: kept {kept}: drawn with instances {DRAWN}, seed 0, dtype float32" in " ".join(printed.split())


def test_a_figure_of_other_answers_is_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    records = RecordFile(copy / "records" / "dpc.jsonl").read()
    (copy / "records" / "dpc.jsonl").unlink()
    RecordFile(copy / "records" / "dpc.jsonl").append(records[1:])
    capsys.readouterr()
    assert run_command(["analyze", str(copy), "--instances", "6", "--figures", "4c"]) == 0
    printed = " ".join(capsys.readouterr().err.split())
    assert "note: kept 2a, 2b, 3, 4a, 4b, 6: other answers than the run has now; draw them again" in printed
    assert set(said(copy)["figures"]) == set(FIGURES)


def test_a_figure_whose_files_are_gone_is_no_longer_described(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "analysis" / "2b.svg").unlink()
    assert run_command(["analyze", str(copy), "--instances", str(DRAWN), "--figures", "4c"]) == 0
    assert set(said(copy)["figures"]) == set(FIGURES) - {"2b"}


def test_python_callers_get_the_same_figures(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    seen: list[tuple[int, int]] = []
    found = analyze_run(
        RunDirectory(copy, "a notebook"),
        lambda *_: pytest.fail("everything was measured before"),
        names=["4c"],
        instances=DRAWN,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert found["figures"] == said(run)["figures"]
    assert found["made_by"]["command"] == "a notebook"
    assert found == said(copy)


def test_a_run_that_another_process_writes_is_not_analysed(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def held(*arguments: object) -> None:
        raise BlockingIOError

    monkeypatch.setattr("dpc.records.lock.fcntl.flock", held)
    assert "is writing it" in complaint(capsys, str(run), "--figures", "4c")


def test_a_run_without_wrong_answers_says_so_and_draws_the_rest(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy_without_figures(run, tmp_path)
    records = [json.loads(line) for line in (run / "records" / "dpc.jsonl").read_text().splitlines()]
    for record in records:
        record["score_first"]["correct"] = True
    (tmp_path / "records" / "dpc.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert (
        run_command(
            ["analyze", str(tmp_path), "--instances", str(DRAWN), "--figures", "4a,4b", "--prompt", str(run / "prompt")]
        )
        == 0
    )
    assert said(tmp_path)["not_drawn"] == {"4b": "no answer of the run is wrong"}
    assert list(said(tmp_path)["figures"]) == ["4a"]
    assert "4b      not drawn: no answer of the run is wrong" in capsys.readouterr().out


def test_a_figure_that_cannot_be_drawn_now_stays_as_it_was(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    records = RecordFile(copy / "records" / "dpc.jsonl").read()
    right = [replace(record, score_first=replace(record.score_first, correct=True)) for record in records]
    (copy / "records" / "dpc.jsonl").unlink()
    RecordFile(copy / "records" / "dpc.jsonl").append(right)
    assert run_command(["analyze", str(copy), "--instances", str(DRAWN), "--figures", "4b"]) == 0
    assert f"the figure from before stays (instances {DRAWN}, seed 0" in " ".join(capsys.readouterr().out.split())
    assert (copy / "analysis" / "4b.svg").read_bytes() == (run / "analysis" / "4b.svg").read_bytes()


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert run_command(["analyze", *arguments]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    return line.removeprefix("error: ")


def test_what_the_user_can_mend_is_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert complaint(capsys, str(tmp_path)).startswith(f"{tmp_path}: has no evaluation; expected a run directory")
    copied = copy_without_figures(run, tmp_path / "copy")
    assert "--figures 7: expected some of" in complaint(capsys, str(copied), "--figures", "7")
    more = (str(copied), "--instances", str(ROWS), "--figures", "4c")
    assert "no prompt there; pass --prompt DIR" in complaint(capsys, *more)
    prompt = ("--prompt", str(run / "prompt"))
    assert "no-such-model: can't be loaded" in complaint(capsys, *more, *prompt, "--model", "./no-such-model")
    lm = load_lm("zoo")
    save_adapter(init_prompt(lm, 4, "sample-vocab", seed=1), lm, tmp_path / "other", {})
    said_of_prompt = complaint(capsys, *more, "--prompt", str(tmp_path / "other"))
    assert said_of_prompt.startswith("--prompt: is not the prompt that the run was evaluated with")
    (copied / "records" / "dpc.jsonl").unlink()
    assert "has no records of the method dpc" in complaint(capsys, str(copied))
