"""What tests of pages share: a record's decision, the choice of an instance, numbers as the page writes them."""

from __future__ import annotations

import re

from dpc.types import Decision, Record
from tests.browser.conftest import Browser


def decision(record: Record) -> Decision:
    assert record.answer.decision is not None
    return record.answer.decision


def fired(record: Record) -> bool:
    return decision(record).triggered


def choose(browser: Browser, record: Record) -> None:
    """Look at one instance, by its address."""
    browser.run("location.hash = 'instance=' + encodeURIComponent(arguments[0])", record.example_id)
    browser.wait("$('.instance h3 .foreign')?.textContent === arguments[0]", record.example_id)


def spelled(text: str) -> float:
    """A number as the page writes it."""
    found = re.search(r"([\d.]+)(?:\s×\s10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+))?$", text)
    assert found is not None, text
    exponent = (found[2] or "0").translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    return float(found[1]) * 10.0 ** int(exponent)
