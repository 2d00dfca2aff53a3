"""Every configuration of the table does what its own code does, or is refused; never anything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models_table import DTYPES, WRONG
from tests.architectures import TABLE
from tests.architectures.record import RESULTS, entry

# The tests of single parts run on ten more.
QUICK = ("llama3", "gemma3_text", "cohere2", "olmoe", "deepseek_v3")
RECORDED: dict[str, Any] = json.loads(RESULTS.read_text("utf-8"))["configurations"]


def wrong(found: dict[str, Any]) -> list[str]:
    """What neither equals the model's own nor is refused, and refusals that are not alike everywhere."""
    verdicts = [(dtype, key, value) for dtype in DTYPES for key, value in found.get(dtype, {}).items()]
    mistakes = [f"{dtype} {key}: {value}" for dtype, key, value in verdicts if value.startswith(WRONG)]
    return mistakes + ["not the same line everywhere"] * (not found.get("refused_alike", True))


def outcomes(found: dict[str, Any], dtype: str) -> dict[str, str]:
    """Verdicts without their numbers, which depend on the processor."""
    return {
        key: "equal" if value.startswith("equal") else "close" if value[:1].isdigit() else value
        for key, value in found.get(dtype, {"refused": found.get("refused", "")}).items()
    }


@pytest.mark.parametrize("name", QUICK)
def test_a_model_of_the_default_run_equals_its_own_code_in_float32(name: str, tmp_path: Path) -> None:
    found = entry(name, tmp_path, ["float32"])
    assert wrong(found) == []
    assert outcomes(found, "float32") == outcomes(RECORDED[name], "float32")


def test_a_refused_model_ends_every_command_with_the_same_line(tmp_path: Path) -> None:
    found = entry("gemma4_text_per_layer", tmp_path)
    assert "per-layer embeddings" in found["refused"]
    assert found == RECORDED["gemma4_text_per_layer"]
    assert wrong(found) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
def test_a_model_equals_its_own_code_or_is_refused(name: str, tmp_path: Path) -> None:
    found, recorded = entry(name, tmp_path), RECORDED.get(name, {})
    # What is wrong is at least said in docs/models.md.
    assert wrong(found) == [] or wrong(recorded) != []
    assert not recorded or outcomes(found, "float32") == outcomes(recorded, "float32")


def test_the_results_in_the_documents_are_those_of_the_table() -> None:
    assert list(RECORDED) == [name for name in TABLE if name in RECORDED]
    assert len(RECORDED) >= 70
    assert {name: (each["model_type"], each["models"]) for name, each in RECORDED.items()} == {
        name: (TABLE[name].model_type, TABLE[name].models) for name in RECORDED
    }
