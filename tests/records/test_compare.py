"""``dpc compare``: paired on the rows that both runs answered, or an error that says why not."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from dpc.cli import run_command
from dpc.records.compare import Side, compare_runs
from dpc.records.directory import RunDirectory
from dpc.stats import holm, mcnemar_exact, paired_bootstrap, paired_difference, wilson
from dpc.types import Record
from tests.made_up_runs import make_run, record, rows

N = 60
EXAMPLES = rows(N)


def grades(seed: int, share: float) -> list[bool]:
    draw = random.Random(seed)
    return [draw.random() < share for _ in range(N)]


def made(method: str, right: list[bool]) -> list[Record]:
    return [record(example, method, each) for example, each in zip(EXAMPLES, right, strict=True)]


FIRST = {"prompt_tuning": grades(1, 0.5), "dpc": grades(2, 0.5)}
SECOND = {"dpc": grades(3, 0.7), "prompt_tuning": grades(4, 0.9), "pretrained": grades(5, 0.1)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder / "a", EXAMPLES, {name: made(name, right) for name, right in FIRST.items()})
    # Records stand in the order in which they were made.
    shuffled = {name: random.Random(6).sample(made(name, right), N) for name, right in SECOND.items()}
    make_run(folder / "b", EXAMPLES, shuffled, {"tau": 0.75, "method": {"gamma": 20.0}})
    return folder / "a", folder / "b"


def as_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    assert run_command(["compare", *map(str, arguments), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_every_figure_follows_from_the_records_of_both(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    [pair] = as_json(capsys, *runs, "--method", "dpc")["pairs"]
    before, after = FIRST["dpc"], SECOND["dpc"]
    assert (pair["accuracy_a"], pair["accuracy_b"]) == (sum(before) / N, sum(after) / N)
    for side, right in (("interval_a", before), ("interval_b", after)):
        interval = wilson(sum(right), N)
        assert pair[side] == {"low": interval.low, "high": interval.high}
    found = pair["found"]
    assert (found["n"], found["difference"]) == (N, pytest.approx((sum(after) - sum(before)) / N))
    for name, wanted in (
        ("interval", paired_difference(before, after)),
        ("bootstrap", paired_bootstrap(before, after)),
    ):
        assert (found[name]["low"], found[name]["high"]) == (wanted.low, wanted.high)
    fixed = [e.id for e, a, b in zip(EXAMPLES, before, after, strict=True) if b and not a]
    broken = [e.id for e, a, b in zip(EXAMPLES, before, after, strict=True) if a and not b]
    assert (pair["fixed_ids"], pair["broken_ids"]) == (fixed, broken)
    assert (found["fixed"], found["broken"]) == (len(fixed), len(broken))
    assert found["p"] == pair["p_holm"] == mcnemar_exact(len(fixed), len(broken))


def test_without_a_name_every_method_of_both_is_compared(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found = as_json(capsys, *runs)["pairs"]
    assert [(pair["method_a"], pair["method_b"]) for pair in found] == [("prompt_tuning",) * 2, ("dpc",) * 2]
    assert [pair["p_holm"] for pair in found] == holm([pair["found"]["p"] for pair in found])


@pytest.mark.parametrize(
    ("a", "b", "method", "named"),
    [
        ("{a}:prompt_tuning", "{b}:pretrained", None, ("prompt_tuning", "pretrained")),
        ("{a}:prompt_tuning", "{b}", None, ("prompt_tuning", "prompt_tuning")),
        ("{a}", "{b}:dpc", None, ("dpc", "dpc")),
        ("{a}:prompt_tuning", "{b}", "dpc", ("prompt_tuning", "dpc")),
        ("{b}:prompt_tuning", "{b}:dpc", None, ("prompt_tuning", "dpc")),
    ],
)
def test_a_side_names_its_method_and_the_other_follows(
    runs: tuple[Path, Path], a: str, b: str, method: str | None, named: tuple[str, str]
) -> None:
    sides = [Side.parse(side.format(a=runs[0], b=runs[1])) for side in (a, b)]
    [pair] = compare_runs(sides[0], sides[1], method).pairs
    assert (pair.method_a, pair.method_b) == named


def test_sides_in_turn_give_the_mirrored_difference(runs: tuple[Path, Path]) -> None:
    a, b = (Side.parse(str(run)) for run in runs)
    for there, back in zip(compare_runs(a, b).pairs, compare_runs(b, a).pairs, strict=True):
        assert there.found.difference == -back.found.difference
        assert (there.fixed_ids, there.broken_ids) == (back.broken_ids, back.fixed_ids)
        assert (there.found.interval.low, there.found.p) == (-back.found.interval.high, back.found.p)


def test_settings_that_differ_are_shown_with_both_values(runs: tuple[Path, Path]) -> None:
    found = compare_runs(Side.parse(str(runs[0])), Side.parse(str(runs[1])))
    assert [(each.setting, each.a, each.b) for each in found.settings] == [
        ("eval.tau", 0.5, 0.75),
        ("eval.method.gamma", 10.0, 20.0),
    ]
    same = compare_runs(Side.parse(f"{runs[0]}:dpc"), Side.parse(f"{runs[0]}:prompt_tuning"))
    assert same.settings == []


def test_versions_and_stages_that_only_one_run_has_differ(runs: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(runs[0], tmp_path / "c")
    run = RunDirectory(tmp_path / "c")
    run.enter("tune", {"length": 8})
    manifest = run.manifest()
    manifest["stages"]["eval"]["versions"]["torch"] = "0.0.1"
    (tmp_path / "c" / "run.json").write_text(json.dumps(manifest))
    found = {
        each.setting: (each.a, each.b)
        for each in compare_runs(*map(Side.parse, (str(runs[0]), str(run.path)))).settings
    }
    assert found["eval.versions.torch"][1] == "0.0.1"
    assert found["tune"] == (None, "a stage of this run")
    assert not any(name.startswith("tune.") for name in found)
    run.enter("analyze", {"length": 8})
    other = RunDirectory(tmp_path / "d")
    shutil.copytree(runs[0], other.path)
    other.enter("analyze", {"width": 9})
    settings = compare_runs(Side(run, "dpc"), Side(other, None)).settings
    found = {each.setting: (each.a, each.b) for each in settings if each.setting.startswith("analyze")}
    assert found == {"analyze.length": (8, None), "analyze.width": (None, 9)}


def test_a_run_of_fewer_rows_is_compared_on_those(runs: tuple[Path, Path], tmp_path: Path) -> None:
    short = make_run(tmp_path, EXAMPLES[10:30], {"dpc": made("dpc", SECOND["dpc"])[10:30]})
    [pair] = compare_runs(Side.parse(str(runs[0])), Side(short, None)).pairs
    assert (pair.found.n, pair.only_a, pair.only_b) == (20, N - 20, 0)
    assert pair.found.difference == pytest.approx((sum(SECOND["dpc"][10:30]) - sum(FIRST["dpc"][10:30])) / 20)


def test_the_terminal_shows_what_was_found(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    [pair] = as_json(capsys, *runs, "--method", "dpc")["pairs"]
    assert run_command(["compare", *map(str, runs), "--method", "dpc"]) == 0
    shown = capsys.readouterr().out
    words = " ".join(shown.split())
    assert f"A {100 * pair['accuracy_a']:.1f}% right" in words
    assert f"fixed {len(pair['fixed_ids'])}: {', '.join(pair['fixed_ids'][:12])} and" in words
    assert "eval.method.gamma: 10.0, 20.0" in shown
    assert "Holm" not in shown
    assert run_command(["compare", *map(str, runs)]) == 0
    assert "adjusted by Holm over 2 pairs" in " ".join(capsys.readouterr().out.split())


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert run_command(["compare", *map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def test_what_cannot_be_compared_is_refused_in_one_line(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = runs
    assert "no such run directory; expected RUN or RUN:METHOD" in refusal(capsys, tmp_path / "nowhere", b)
    assert "has no records of dcp; it has prompt_tuning, dpc" in refusal(capsys, a, b, "--method", "dcp")
    assert "has no records of pretrained; it has prompt_tuning, dpc" in refusal(capsys, f"{a}:pretrained", b)
    assert "is compared with itself" in refusal(capsys, a, a)
    assert "is compared with itself" in refusal(capsys, f"{a}:dpc", f"{a}:dpc")
    assert "has no records of a method" in refusal(capsys, tmp_path, b)


def test_other_rows_are_refused(runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = rows(3, "gsm8k/train")
    make_run(tmp_path / "elsewhere", elsewhere, {"dpc": [record(example, "dpc", True) for example in elsewhere]})
    assert "no row in common" in refusal(capsys, runs[0], tmp_path / "elsewhere")
    altered = [rows(1)[0], *(example for example in rows(4)[2:])]
    altered[1] = type(altered[1])(altered[1].id, "Another question?", altered[1].answer)
    make_run(tmp_path / "altered", altered, {"dpc": [record(example, "dpc", True) for example in altered]})
    assert "gsm8k/test/2 is not the same row in both" in refusal(capsys, runs[0], tmp_path / "altered")
    only = make_run(tmp_path / "only", EXAMPLES, {"act": made("act", FIRST["dpc"])})
    assert "no method in common" in refusal(capsys, runs[0], only.path)
    (only.path / "run.json").unlink()
    assert "does not say what was evaluated" in refusal(capsys, runs[0], f"{only.path}:act", "--method", "dpc")
