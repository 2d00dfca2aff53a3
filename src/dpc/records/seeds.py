"""Several tuning seeds of one recipe: mean and between-seed interval of each method's accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dpc.stats import between_seeds

FORMAT = 1


def summarize_seeds(results: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """From each seed's ``results.json``: accuracies of every method that all seeds have, and their differences.

    accuracy: one a seed, shares of one, with mean and Student's t interval of the mean (None for one seed).
    difference: to prompt tuning of the same seed, where both are there. The interval says how far another tuning
    of the prompt would move the figure; each seed's own interval says how far other test rows would.
    """
    first = next(iter(results.values()))
    common = [name for name in first["methods"] if all(name in found["methods"] for found in results.values())]
    return {"format": FORMAT, "seeds": list(results), "methods": {name: _method(results, name) for name in common}}


def _method(results: Mapping[int, Mapping[str, Any]], name: str) -> dict[str, Any]:
    found = [each["methods"][name] for each in results.values()]
    versus = [each["versus_prompt_tuning"] for each in found]
    paired = all(each is not None for each in versus)
    return {
        "accuracy": _spread([each["accuracy"] for each in found]),
        "difference": _spread([each["difference"] for each in versus]) if paired else None,
    }


def _spread(values: Sequence[float]) -> dict[str, Any]:
    interval = between_seeds(values)
    return {
        "values": list(values),
        "mean": sum(values) / len(values),
        "interval": None if interval is None else [interval.low, interval.high],
    }
