"""The embedded model reasons, with accuracy far from 0 and 1, and a tuned prompt raises its accuracy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dpc.cli import run_command
from dpc.engine import Decoder, Request
from dpc.flow.saliency import prompt_saliency
from dpc.model.loading import load_lm
from dpc.prompt.soft_prompt import init_prompt
from dpc.tasks import get_task


def test_without_a_prompt_it_is_right_on_30_to_70_percent(tmp_path: Path) -> None:
    command = ["eval", "--methods", "pretrained", "--limit", "200", "--output", str(tmp_path)]
    assert run_command(command) == 0
    found = json.loads((tmp_path / "results.json").read_text())["methods"]["pretrained"]
    assert 0.3 <= found["accuracy"] <= 0.7
    assert found["no_answer"] == 0


def test_saliency_in_float32_is_near_float64_although_the_model_is_sure_of_its_tokens() -> None:
    single, double = load_lm("zoo"), load_lm("zoo", dtype="float64")
    prompt = init_prompt(single, 8, "sample-vocab", seed=0)
    task = get_task("zoo")
    questions = [single.encode(task.prompt(example)) for example in task.load("test", None)[:8]]
    rationales = [g.ids for g in Decoder(single).all([Request(q, prompt) for q in questions], 160)]
    pairs = zip(*(prompt_saliency(lm, prompt.vectors, questions, rationales) for lm in (single, double)), strict=True)
    errors = [float((a.scores.double() - b.scores).norm() / b.scores.norm()) for a, b in pairs]
    assert max(errors) < 1e-4


@pytest.mark.slow
def test_the_demo_tunes_a_prompt_that_raises_accuracy(tmp_path: Path) -> None:
    assert run_command(["run", "--output", str(tmp_path)]) == 0
    methods = json.loads((tmp_path / "results.json").read_text())["methods"]
    assert methods["pretrained"]["n"] >= 1000
    assert 0.3 <= methods["pretrained"]["accuracy"] <= 0.7
    assert methods["prompt_tuning"]["accuracy"] > methods["pretrained"]["accuracy"]
    assert methods["pretrained"]["versus_prompt_tuning"]["p"] < 0.01
