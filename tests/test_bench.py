"""Benchmarks: how figures are measured, compared with their targets, kept and shown."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import dpc.cli
from benchmarks.figures import Figure, Measured, Point, Target, figures
from benchmarks.measure import Bench, Unavailable, alternate, load, run_alone
from benchmarks.plot import Series, log_chart
from benchmarks.points import POINTS, get_point
from benchmarks.saliency import growth
from benchmarks.table import keep_lines, markdown_lines, read_lines
from dpc.errors import UserError

BENCH = Bench(repeats=2, quick=True, prompt=None)


def point(value: float, gap: str = "it is slow") -> Point:
    def measure(bench: Bench) -> Iterator[Measured]:
        yield Measured("speed", value, {"repeats": bench.repeats})

    return Point({"speed": Target(">=", 2.0, gap)}, measure)


def test_subjects_are_measured_in_turn() -> None:
    order: list[str] = []
    taken = alternate({"a": lambda: order.append("a"), "b": lambda: (order.append("b"), time.sleep(0.02))}, 3)
    assert order == ["a", "b"] * 3
    assert max(taken["a"]) < 0.02 <= min(taken["b"])


def allocate(parameters: dict[str, Any]) -> Any:
    return lambda: torch.ones(parameters["bytes"] // 4).sum()


@pytest.mark.slow
def test_peak_memory_includes_memory_that_a_run_frees_again() -> None:
    size = 2**26
    alone = run_alone("tests.test_bench:allocate", {"bytes": size})
    assert size <= alone.extra_bytes < 1.2 * size


def test_a_figure_reports_whether_its_target_is_met_and_why_not() -> None:
    [fast] = figures("p", point(3.0), BENCH)
    [slow] = figures("p", point(1.0), BENCH)
    assert (fast.name, fast.measured, fast.holds, fast.reason) == ("p: speed", 3.0, True, "")
    assert (slow.holds, slow.reason) == (False, "it is slow")
    lines = json.loads(json.dumps(slow.to_json(BENCH)))
    assert {"name", "target", "measured", "holds", "reason", "raw", "repeats", "machine"} <= lines.keys()
    assert (lines["target"], lines["raw"], lines["machine"]["threads"]) == (2.0, {"repeats": 2}, 1)


def test_a_figure_that_cannot_be_measured_keeps_its_target_and_reports_the_reason() -> None:
    def measure(bench: Bench) -> Iterator[Measured]:
        yield Measured("first", 1.0)
        raise Unavailable("no GPU here")

    targets = {"first": None, "second": Target("<=", 0.5)}
    found = list(figures("p", Point(targets, measure), BENCH))
    assert found[1] == Figure("p: second", targets["second"], None, "no GPU here", {})
    assert found[1].holds is None


def test_a_target_may_depend_on_the_measurement() -> None:
    point = Point({"price": None}, lambda bench: iter([Measured("price", 1.0, {}, Target("<=", 1.1))]))
    assert [figure.holds for figure in figures("p", point, BENCH)] == [True]


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
@pytest.mark.parametrize("name", ["gpu-decode", "gpu-pipeline"])
def test_the_gpu_points_report_a_missing_gpu(name: str) -> None:
    found = list(figures(name, get_point(name), BENCH))
    assert {(figure.measured, figure.reason) for figure in found} == {(None, "no GPU here")}
    assert any(figure.target is not None for figure in found)


def test_every_point_loads_and_declares_targets() -> None:
    assert all(any(target is not None for target in get_point(name).targets.values()) for name in POINTS)


def test_the_subjects_of_memory_measurements_exist() -> None:
    for module in ("saliency", "pipeline"):
        subjects = import_module(f"benchmarks.{module}").SUBJECTS
        assert all(callable(load(subject)) for subject in subjects.values())


def test_an_unknown_point_is_refused_with_the_known_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert dpc.cli.run_command(["bench", "sped"]) == 2
    assert capsys.readouterr().err == f"error: unknown point 'sped': expected {', '.join(POINTS)}\n"


def lines_of(name: str, value: float) -> list[dict[str, Any]]:
    made_by = {"command": f"dpc bench {name}", "commit": "c0ffee"}
    return [figure.to_json(BENCH) | made_by for figure in figures(name, point(value), BENCH)]


def test_kept_figures_of_a_point_are_replaced_by_newer_ones(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    assert markdown_lines(read_lines(path)) == ["Not measured yet: `dpc bench --write`."]
    keep_lines(path, lines_of("tuning", 1.0))
    keep_lines(path, lines_of("decode", 3.0))
    keep_lines(path, lines_of("tuning", 1.5))
    kept = read_lines(path)
    assert [(line["name"], line["measured"]) for line in kept] == [("decode: speed", 3.0), ("tuning: speed", 1.5)]
    table = markdown_lines(kept)
    assert table[0] == "- command: `dpc bench decode`; `dpc bench tuning`"
    assert table[-3:] == [
        "|---|--:|--:|---|---|",
        "| decode: speed | ≥ 2 | 3 | yes |  |",
        "| tuning: speed | ≥ 2 | 1.5 | no | it is slow |",
    ]
    with pytest.raises(UserError, match="checkout"):
        keep_lines(tmp_path / "nowhere" / "results.jsonl", kept)
    path.write_text("{")
    with pytest.raises(UserError, match="measure again"):
        read_lines(path)


def test_growth_is_the_exponent_between_the_two_longest_lengths() -> None:
    assert growth({1: 5.0, 10: 1.0, 20: 4.0}) == pytest.approx(2.0)


def test_a_chart_has_a_line_per_series() -> None:
    svg = log_chart([Series("dpc", {256: 1.0, 512: 2.0}), Series("naive", {256: 3.0})], ("positions", "seconds"))
    assert svg.count("<polyline") == 2
    assert svg.count("<circle") == 3
    assert {"256", "512", "dpc", "naive", "seconds"} <= set(svg.replace("<", ">").split(">"))


def test_the_command_line_prints_one_json_object_per_figure() -> None:
    command = [sys.executable, "-m", "dpc", "bench", "gpu-decode", "--json", "--repeats", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["name"].split(":")[0] for line in lines] == ["gpu-decode"] * 5
