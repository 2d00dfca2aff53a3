"""What the embedded model must be able to do: reason, but not too well, and be steered by a prompt that we tune."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dpc.cli import run_command


def test_without_a_prompt_it_is_right_on_30_to_70_percent(tmp_path: Path) -> None:
    command = ["eval", "--methods", "pretrained", "--limit", "200", "--output", str(tmp_path)]
    assert run_command(command) == 0
    found = json.loads((tmp_path / "results.json").read_text())["methods"]["pretrained"]
    assert 0.3 <= found["accuracy"] <= 0.7
    assert found["no_answer"] == 0


@pytest.mark.slow
def test_the_demo_tunes_a_prompt_that_raises_accuracy(tmp_path: Path) -> None:
    assert run_command(["run", "--output", str(tmp_path)]) == 0
    methods = json.loads((tmp_path / "results.json").read_text())["methods"]
    assert methods["pretrained"]["n"] >= 1000
    assert 0.3 <= methods["pretrained"]["accuracy"] <= 0.7
    assert methods["prompt_tuning"]["accuracy"] > methods["pretrained"]["accuracy"]
    assert methods["pretrained"]["versus_prompt_tuning"]["p"] < 0.01
