"""Every configuration of the table does what its own code does, or is refused; never anything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.architectures import TABLE
from tests.architectures.known import KNOWN
from tests.architectures.record import DTYPES, entry

# The tests of single parts run on ten more.
QUICK = ("llama3", "gemma3_text", "cohere2", "olmoe", "deepseek_v3")


def wrong(found: dict[str, Any]) -> list[str]:
    """What neither equals the model's own nor is refused, and refusals that are not alike everywhere."""
    verdicts = [f"{dtype} {key}: {value}" for dtype in DTYPES for key, value in found.get(dtype, {}).items()]
    return [each for each in verdicts if ": wrong: " in each] + ["not refused alike"] * (
        not found.get("refused_alike", 1)
    )


@pytest.mark.parametrize("name", QUICK)
def test_a_model_of_the_default_run_equals_its_own_code_in_float32(name: str, tmp_path: Path) -> None:
    assert wrong(entry(name, tmp_path, ["float32"])) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
def test_a_model_equals_its_own_code_or_is_refused(name: str, tmp_path: Path) -> None:
    found = wrong(entry(name, tmp_path))
    assert bool(found) == (name in KNOWN), (found, KNOWN.get(name))


def test_what_is_known_to_be_wrong_is_in_the_table() -> None:
    assert set(KNOWN) <= set(TABLE)
