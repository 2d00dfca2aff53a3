"""A plan says what is there and what is left, without weights, and its estimates follow from the model's shape."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from dpc.cli import run_command
from dpc.model.loading import load_lm, load_outline
from dpc.prompt.target_loss import target_loss
from dpc.run.estimate import Lengths, Shape, Speed, Work, decoding_bytes, generation, tracing, tuning, tuning_bytes
from dpc.run.plan import make_plan
from dpc.run.preflight import prepare
from dpc.run.recipes import draft_recipe, shipped_recipes
from dpc.settings import DecodingSettings, TuningSettings
from tests.tiny_models import ARCHITECTURES, tiny_lm
from tests.tiny_rows import TEST, write_model, write_rows

SMALL = ("--set", "tuning.steps=4", "--set", "tuning.length=6", "--set", "decoding.max_new_tokens=6")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows("gsm8k", tmp_path_factory.mktemp("rows"))


def planned(capsys: pytest.CaptureFixture[str], *command: str) -> dict[str, Any]:
    capsys.readouterr()
    assert run_command([*command, "--dry-run", "--json"]) == 0
    plan: dict[str, Any] = json.loads(capsys.readouterr().out)
    return plan


def states(plan: dict[str, Any]) -> dict[str, tuple[str, int, int]]:
    return {stage["name"]: (stage["state"], stage["done"], stage["total"]) for stage in plan["stages"]}


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_recipe_of_the_paper_is_planned_for_a_tiny_model_without_its_weights(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_model(tmp_path / "model", "llama", weights=False)
    task = name.rpartition("-")[2]
    data = write_rows(task, tmp_path / "rows")
    command = ["run", name, "--model", str(folder), "--data", str(data), "--output", str(tmp_path / "run")]
    plan = planned(capsys, *command)
    recipe = draft_recipe(name, {}, []).recipe
    needed = ["tune", "calibrate", *(["search heads"] if "act" in recipe.methods else [])]
    assert list(states(plan)) == [*needed, *recipe.methods, "analyze"]
    assert plan["recipe"]["task"] == task
    assert plan["recipe"]["settings"] == recipe.settings.model_dump(mode="json")
    assert all(stage["state"] == "to do" and stage["work"]["seconds"] > 0 for stage in plan["stages"])
    assert states(plan)["dpc"] == ("to do", 0, TEST)
    assert not (tmp_path / "run").exists()


def test_a_plan_says_what_is_done_and_what_was_begun(
    model: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", "--model", str(model), "--task", "gsm8k", "--data", str(rows), "--output", str(tmp_path), *SMALL]
    command += ["--no-analyze"]
    assert set(states(planned(capsys, *command)).values()) == {("to do", 0, 4), ("to do", 0, 2)}
    assert run_command(command) == 0
    done = planned(capsys, *command)
    assert {state for state, _, _ in states(done).values()} == {"done"}
    assert done["left"]["seconds"] == done["left"]["tokens"] == 0

    lines = (tmp_path / "records" / "dpc.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "records" / "dpc.jsonl").write_bytes(b"".join(lines[:1]))
    begun = planned(capsys, *command)
    assert states(begun) == states(done) | {"dpc": ("begun", 1, TEST)}
    more = planned(capsys, *command, "--methods", "prompt_tuning,dpc,all_corruption")
    assert states(more)["all_corruption"] == ("to do", 0, TEST)

    (tmp_path / "prompt" / "calibration.json").write_text(
        (tmp_path / "prompt" / "calibration.json").read_text().replace('"tau"', '"tau" ')
    )
    assert states(planned(capsys, *command))["calibrate"][0] == "begun"
    assert run_command([*command, "--dry-run", "--set", "method.gamma=20"]) == 2
    assert "method.gamma = 10.0, now 20.0" in capsys.readouterr().err


def test_a_plan_for_the_terminal_names_its_assumptions(
    model: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", "--model", str(model), "--task", "gsm8k", "--data", str(rows), "--output", str(tmp_path), *SMALL]
    assert run_command([*command, "--dry-run", "--seeds", "2"]) == 0
    shown = capsys.readouterr().out
    assert "estimates, not measurements" in shown
    assert re.search(r"measured just now by one matrix product.*assumed to reach 50%", shown)
    assert re.search(r"^ +0 +tune +4 updates", shown, re.MULTILINE)
    assert re.search(r"^ +1 +DPC +4 rows", shown, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


def test_json_without_a_plan_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["run", "--output", str(tmp_path), "--json"]) == 2
    assert "--dry-run" in capsys.readouterr().err


def test_an_outline_is_the_model_without_its_numbers(model: Path) -> None:
    outline, lm = load_outline(str(model)), load_lm(str(model))
    assert Shape.of(outline) == Shape.of(lm)
    assert (outline.context, outline.end_ids, outline.dtype) == (lm.context, lm.end_ids, lm.dtype)
    assert outline.encode("12 and 1?") == lm.encode("12 and 1?")
    assert {parameter.device.type for parameter in outline.model.parameters()} == {"meta"}
    assert outline.revision != lm.revision


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_operations_and_cache_are_those_of_a_real_pass(architecture: str) -> None:
    lm = tiny_lm(architecture)
    # Fused attention is not counted.
    lm.model.set_attn_implementation("eager")
    shape, tokens = Shape.of(lm), 40
    # Without its config, a cache keeps all positions of layers with a sliding window too.
    cache = DynamicCache()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        lm.model(torch.ones(1, tokens, dtype=torch.long), past_key_values=cache, use_cache=True)
    # Attention of every row over every column is what is computed; rows that look back are half of it.
    expected = 2 * shape.multiplied * tokens + 4 * shape.layers * shape.attention * tokens * tokens
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.03)
    kept = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert kept == shape.kv_bytes * tokens
    assert shape.weight_bytes == sum(parameter.nbytes for parameter in lm.model.parameters())


def test_the_way_back_to_a_prompt_costs_what_the_way_there_did() -> None:
    lm = tiny_lm("llama")
    vectors = torch.zeros(6, lm.hidden_size, requires_grad=True)
    row = (lm.encode("12 and 1?"), lm.encode(" 13"))
    with FlopCounterMode(display=False) as there:
        loss = target_loss(lm, vectors, [row] * 4)
    with FlopCounterMode(display=False) as back:
        loss.backward()
    assert back.get_total_flops() == pytest.approx(there.get_total_flops(), rel=0.2)


SHAPE = Shape.of(tiny_lm("llama"))
# A device on which one second is one operation of a whole model's product for one token, and nothing else costs.
UNIT = Speed("unit", 2 * SHAPE.multiplied / 0.5, 1e30, 0.0, 2**40)


def test_tokens_and_steps_are_counted_by_hand() -> None:
    decoding = DecodingSettings(batch_size=3)
    lengths = Lengths.of(7, [10, 20], [4, 6], otherwise=99)
    assert lengths == Lengths(7, 15.0, 20, 5.0)
    assert Lengths.of(7, [10, 20], [], otherwise=99).answer == 99
    work = generation(replace(SHAPE, attention=0), UNIT, lengths, 6, decoding)
    # 7 questions and answers and the prompt, once; 35 tokens written in 12 steps of 3 slots.
    assert (work.tokens, work.written) == (7 * 15 + 7 * 5 + 6, 35)
    assert work.seconds == pytest.approx(7 * 15 + 12 * 3)
    traced = tracing(replace(SHAPE, attention=0), UNIT, lengths, 6, 4)
    assert (traced.tokens, traced.seconds) == (7 * 20, pytest.approx(2 * 7 * 20))
    settings_ = TuningSettings(length=6, batch_size=3, gradient_accumulation=2, evaluate_every=5, dev_limit=2)
    tuned = tuning(replace(SHAPE, attention=0), UNIT, lengths, lengths, 10, settings_, decoding)
    looks = 2 * (2 * 20 + (2 * 20 + 6))
    assert tuned.tokens == pytest.approx(10 * 2 * (3 * 20 + 6) + looks)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 500),
    st.floats(1, 300),
    st.floats(1, 300),
    st.integers(0, 100),
    st.integers(1, 64),
    st.integers(1, 9),
)
def test_more_rows_longer_texts_and_slower_devices_never_cost_less(
    rows: int, question: float, answer: float, prompt: int, slots: int, more: int
) -> None:
    decoding = DecodingSettings(batch_size=slots)
    speed = Speed("some", 1e12, 1e11, 1e-6, 2**40)
    lengths = Lengths(rows, question, int(question), answer)

    def cost(lengths: Lengths, prompt: int, speed: Speed) -> Work:
        return generation(SHAPE, speed, lengths, prompt, decoding)

    base = cost(lengths, prompt, speed)
    for other in (
        cost(replace(lengths, rows=rows + more), prompt, speed),
        cost(replace(lengths, question=question + more), prompt, speed),
        cost(replace(lengths, answer=answer + more), prompt, speed),
        cost(lengths, prompt + more, speed),
        cost(lengths, prompt, replace(speed, flops=speed.flops / (1 + more), bytes=speed.bytes / (1 + more))),
    ):
        assert other.seconds >= base.seconds * (1 - 1e-9)
        assert other.tokens >= base.tokens


def test_memory_grows_with_what_is_held_together() -> None:
    lengths = Lengths(1000, 50, 80, 30)
    few, many = DecodingSettings(batch_size=8), DecodingSettings(batch_size=64)
    assert decoding_bytes(SHAPE, lengths, 6, 100, few) < decoding_bytes(SHAPE, lengths, 6, 100, many)
    # No longer than the context, and no more slots than rows.
    assert decoding_bytes(SHAPE, lengths, 6, 10**6, few) == decoding_bytes(SHAPE, lengths, 6, SHAPE.context, few)
    assert decoding_bytes(SHAPE, lengths.first(8), 6, 9, few) == decoding_bytes(SHAPE, lengths.first(8), 6, 9, many)
    assert tuning_bytes(SHAPE, 100, TuningSettings(batch_size=4)) < tuning_bytes(SHAPE, 100, TuningSettings())


def test_a_model_too_large_for_the_device_is_said(
    model: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpc.run.estimate._memory", lambda device: 1000)
    options = {"model": str(model), "task": "gsm8k", "data": str(rows)}
    plan = make_plan(prepare(draft_recipe(None, options, ["tuning.length=6"]), tmp_path), tmp_path)
    assert any("more than the 0.0 GiB here" in note for note in plan.notes)


def test_a_plan_takes_the_widest_of_heads_that_differ_between_layers() -> None:
    lm = tiny_lm("gemma4_text")
    heads = {layer.head_dim for layer in lm.config.per_layer_config}
    assert len(heads) > 1
    assert Shape.of(lm).attention == lm.config.num_attention_heads * max(heads)
