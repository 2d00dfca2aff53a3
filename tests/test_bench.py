"""Benchmarks: the opponent gives our answers, and a figure says what was measured, whether it holds, and why not."""

from __future__ import annotations

import ast
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
from benchmarks import naive
from benchmarks.figures import Figure, Measured, Point, Target, figures
from benchmarks.measure import FOLDER, Bench, Unavailable, alternate, load, run_alone
from benchmarks.plot import Series, log_chart
from benchmarks.points import POINTS, get_point
from benchmarks.saliency import growth
from benchmarks.table import keep_lines, markdown_lines, read_lines
from dpc.errors import UserError
from dpc.flow.measures import rationale_influence
from dpc.flow.saliency import prompt_saliency
from dpc.flow.trigger import affected_share
from dpc.model.lm import FrozenLM
from dpc.prompt.corruption import corrupt
from dpc.prompt.soft_prompt import init_prompt, save_adapter
from dpc.prompt.target_loss import encode_rows, target_loss
from tests.eager_oracle import instance, relative_error
from tests.tiny_models import tiny_lm

BENCH = Bench(repeats=2, quick=True, prompt=None)


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return tiny_lm("llama")


def point(value: float, gap: str = "it is slow") -> Point:
    def measure(bench: Bench) -> Iterator[Measured]:
        yield Measured("speed", value, {"repeats": bench.repeats})

    return Point({"speed": Target(">=", 2.0, gap)}, measure)


def test_the_opponent_knows_nothing_of_this_package() -> None:
    tree = ast.parse((FOLDER / "naive.py").read_text("utf-8"))
    imported = [
        name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    ]
    third_party = {name.split(".")[0] for name in imported} - set(sys.stdlib_module_names)
    assert third_party == {"torch", "transformers", "peft"}


def test_naive_saliency_is_ours(lm: FrozenLM) -> None:
    prompt, question, rationale = instance(lm)
    maps = naive.saliency(lm.model, prompt.float(), question, rationale, range(lm.layers))
    ours = prompt_saliency(lm, prompt, [question], [rationale])[0]
    theirs = torch.stack([matrix[len(prompt) :, : len(prompt)] for matrix in maps.values()])
    assert relative_error(ours.scores, theirs) < 1e-4
    influence = maps[lm.layers - 1][len(prompt) + len(question) :, : len(prompt)].mean(dim=1)
    assert naive.affected_share(influence) == affected_share(rationale_influence(ours)).ratio


@pytest.mark.parametrize("gamma", [0.0, 10.0, 50.0])
def test_naive_corruption_is_ours(gamma: float) -> None:
    vectors = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(naive.corrupt(vectors, 2, gamma), corrupt(vectors, 2, gamma))


@pytest.mark.parametrize("by_length", [True, False])
def test_naive_answers_in_batches_are_those_of_one_at_a_time(lm: FrozenLM, by_length: bool) -> None:
    prompt = init_prompt(lm, 3, "sample-vocab", 0).vectors
    questions = [lm.encode("x" * n) for n in (9, 1, 5, 30, 2)]
    together = naive.generate(lm.model, questions, [prompt] * 5, 6, 2, by_length)
    assert together == [naive.generate(lm.model, [question], [prompt], 6, 1)[0] for question in questions]


def test_naive_reads_the_prompt_of_an_adapter(lm: FrozenLM, tmp_path: Path) -> None:
    prompt = init_prompt(lm, 3, "sample-vocab", 0)
    save_adapter(prompt, lm, tmp_path, {})
    assert torch.equal(naive.read_prompt(tiny_lm("llama").model, tmp_path), prompt.vectors)


@pytest.mark.parametrize("by_length", [True, False])
def test_naive_tuning_lowers_the_loss(lm: FrozenLM, by_length: bool) -> None:
    rows = encode_rows(lm, [(f"{n} =", f" {n}{n}") for n in range(8)], 3, None, "training")
    start = init_prompt(lm, 3, "random", 0).vectors
    settings: dict[str, Any] = {"batch_size": 4, "learning_rate": 0.05, "warmup_steps": 1}
    tuned = naive.tune(lm.model, start, rows, steps=12, by_length=by_length, seed=0, **settings)
    assert target_loss(lm, tuned, rows) < 0.9 * target_loss(lm, start, rows)
    assert not lm.model.training


def test_things_are_measured_in_turn() -> None:
    order: list[str] = []
    taken = alternate({"a": lambda: order.append("a"), "b": lambda: (order.append("b"), time.sleep(0.02))}, 3)
    assert order == ["a", "b"] * 3
    assert max(taken["a"]) < 0.02 <= min(taken["b"])


def allocate(parameters: dict[str, Any]) -> Any:
    return lambda: torch.ones(parameters["bytes"] // 4).sum()


def test_peak_memory_counts_what_a_run_needs_and_gives_back() -> None:
    size = 2**26
    alone = run_alone("tests.test_bench:allocate", {"bytes": size})
    assert size <= alone.extra_bytes < 1.2 * size


def test_a_figure_says_whether_it_holds_and_why_not() -> None:
    [fast] = figures("p", point(3.0), BENCH)
    [slow] = figures("p", point(1.0), BENCH)
    assert (fast.name, fast.measured, fast.holds, fast.reason) == ("p: speed", 3.0, True, "")
    assert (slow.holds, slow.reason) == (False, "it is slow")
    lines = json.loads(json.dumps(slow.to_json(BENCH)))
    assert {"name", "target", "measured", "holds", "reason", "raw", "repeats", "machine"} <= lines.keys()
    assert (lines["target"], lines["raw"], lines["machine"]["threads"]) == (2.0, {"repeats": 2}, 1)


def test_a_figure_that_cannot_be_measured_keeps_its_target_and_says_why() -> None:
    def measure(bench: Bench) -> Iterator[Measured]:
        yield Measured("first", 1.0)
        raise Unavailable("no GPU here")

    targets = {"first": None, "second": Target("<=", 0.5)}
    found = list(figures("p", Point(targets, measure), BENCH))
    assert found[1] == Figure("p: second", targets["second"], None, "no GPU here", {})
    assert found[1].holds is None


def test_a_target_may_depend_on_what_was_measured() -> None:
    point = Point({"price": None}, lambda bench: iter([Measured("price", 1.0, {}, Target("<=", 1.1))]))
    assert [figure.holds for figure in figures("p", point, BENCH)] == [True]


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
@pytest.mark.parametrize("name", ["gpu-decode", "gpu-pipeline"])
def test_the_gpu_points_say_that_there_is_none(name: str) -> None:
    found = list(figures(name, get_point(name), BENCH))
    assert {(figure.measured, figure.reason) for figure in found} == {(None, "no GPU here")}
    assert any(figure.target is not None for figure in found)


def test_every_point_loads_and_declares_targets() -> None:
    assert all(any(target is not None for target in get_point(name).targets.values()) for name in POINTS)


def test_subjects_of_memory_are_where_they_are_said_to_be() -> None:
    for module in ("saliency", "pipeline"):
        subjects = import_module(f"benchmarks.{module}").SUBJECTS
        assert all(callable(load(subject)) for subject in subjects.values())


def test_an_unknown_point_is_refused_with_the_names_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert dpc.cli.run_command(["bench", "sped"]) == 2
    assert capsys.readouterr().err == f"error: unknown point 'sped': expected {', '.join(POINTS)}\n"


def lines_of(name: str, value: float) -> list[dict[str, Any]]:
    made_by = {"command": f"dpc bench {name}", "commit": "c0ffee"}
    return [figure.to_json(BENCH) | made_by for figure in figures(name, point(value), BENCH)]


def test_figures_are_kept_point_by_point_and_the_latest_counts(tmp_path: Path) -> None:
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


def test_growth_is_the_exponent_between_the_two_longest() -> None:
    assert growth({1: 5.0, 10: 1.0, 20: 4.0}) == pytest.approx(2.0)


def test_a_chart_has_a_line_a_series() -> None:
    svg = log_chart([Series("dpc", {256: 1.0, 512: 2.0}), Series("naive", {256: 3.0})], ("positions", "seconds"))
    assert svg.count("<polyline") == 2
    assert svg.count("<circle") == 3
    assert {"256", "512", "dpc", "naive", "seconds"} <= set(svg.replace("<", ">").split(">"))


def test_the_command_line_prints_one_json_object_a_figure() -> None:
    command = [sys.executable, "-m", "dpc", "bench", "gpu-decode", "--json", "--repeats", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["name"].split(":")[0] for line in lines] == ["gpu-decode"] * 5
