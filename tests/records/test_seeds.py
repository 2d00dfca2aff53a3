"""Several tuning seeds: Student's t interval of the mean, within what is possible, and none for fewer than three."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from scipy import stats

from dpc.records.results import MethodResult, Results
from dpc.records.seeds import parse_seeds, summarize_seeds, write_seeds
from dpc.records.summary import summarize_run
from dpc.report.seeds_table import markdown_table, rich_table
from tests.made_up_runs import record, rows

EXAMPLES = rows(40)


def results(right: int, baseline: int) -> Results:
    """Of one seed, with so many right answers of DPC and of prompt tuning."""
    records = {
        name: [record(example, name, i < count) for i, example in enumerate(EXAMPLES)]
        for name, count in (("prompt_tuning", baseline), ("dpc", right))
    }
    made_by = {"command": "", "versions": {}, "source": {}}
    return summarize_run(
        records, EXAMPLES, {}, model="m", task="gsm8k", split="test", calibration=None, made_by=made_by
    )


def test_means_and_intervals_are_those_of_scipy() -> None:
    found = summarize_seeds({0: results(20, 18), 1: results(24, 19), 5: results(22, 20)})
    assert found.seeds == [0, 1, 5]
    for spread, values in (
        (found.methods["dpc"].accuracy, [0.5, 0.6, 0.55]),
        (found.methods["dpc"].difference, [0.05, 0.125, 0.05]),
    ):
        assert spread is not None
        assert spread.values == pytest.approx(values)
        assert spread.mean == pytest.approx(sum(values) / 3)
        expected = stats.t.interval(0.95, 2, loc=sum(values) / 3, scale=stats.sem(values))
        assert spread.interval == pytest.approx(expected)
    assert found.methods["prompt_tuning"].difference is None


def test_intervals_stay_within_0_and_100_percent() -> None:
    found = summarize_seeds({0: results(40, 0), 1: results(20, 38), 2: results(40, 20)}).methods["dpc"]
    assert found.accuracy.interval is not None
    assert found.difference is not None
    assert found.difference.interval is not None
    assert found.accuracy.interval[1] == 1.0
    assert found.accuracy.interval[0] >= 0.0
    assert found.difference.interval[0] >= -1.0
    assert found.difference.interval[1] == 1.0


@pytest.mark.parametrize(("count", "words"), [(1, "1 seed is too few"), (2, "2 seeds are too few")])
def test_fewer_than_three_seeds_have_no_interval_and_are_said_to_be_too_few(count: int, words: str) -> None:
    found = summarize_seeds({seed: results(10 + 20 * seed, 15) for seed in range(count)})
    assert found.methods["dpc"].accuracy.interval is None
    text = markdown_table(found)
    assert words in text
    assert "(" not in text.splitlines()[2]
    console = Console(width=100)
    with console.capture() as capture:
        console.print(rich_table(found))
    assert words in capture.get()
    assert "CI" not in capture.get()


def test_a_method_that_one_seed_lacks_is_left_out() -> None:
    short = results(20, 18)
    methods: dict[str, MethodResult] = {name: m for name, m in short.methods.items() if name == "dpc"}
    found = summarize_seeds({0: results(20, 18), 1: replace(short, methods=methods)})
    assert list(found.methods) == ["dpc"]


def test_the_summary_survives_the_way_to_disk(tmp_path: Path) -> None:
    found = summarize_seeds({seed: results(20 + seed, 18) for seed in range(3)})
    write_seeds(tmp_path / "seeds.json", found)
    assert parse_seeds(json.loads((tmp_path / "seeds.json").read_text())) == found
