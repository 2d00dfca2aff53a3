"""Results of a plausible evaluation, for every test of the report."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dpc.records.results import MethodResult, results_json
from dpc.records.summary import summarize
from dpc.types import Record
from tests.report.examples import calibration, results, thousand


@pytest.fixture(scope="module")
def records() -> dict[str, list[Record]]:
    return thousand()


@pytest.fixture(scope="module")
def methods(records: dict[str, list[Record]]) -> dict[str, MethodResult]:
    return summarize(records)


@pytest.fixture(scope="module")
def document(methods: dict[str, MethodResult]) -> str:
    return json.dumps(results_json(results(methods)) | {"calibration": calibration()})


@pytest.fixture
def full(document: str) -> dict[str, Any]:
    """The content of a ``results.json``, to be changed."""
    value: dict[str, Any] = json.loads(document)
    return value
