"""Rows, and a run of the whole pipeline, that tests of commands share. They are read or copied, never changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpc.cli import run_command
from tests.cli.commands import SMALL
from tests.tiny_rows import write_zoo_rows


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zoo_rows(tmp_path_factory.mktemp("rows"), train=100, dev=24, test=40)


@pytest.fixture(scope="session")
def run(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run") / "demo"
    assert run_command(["run", "--output", str(output), "--data", str(rows), "--no-analyze", *SMALL]) == 0
    return output
