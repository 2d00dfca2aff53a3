"""Run directories without a model: rows, records and a description, as an evaluation would leave them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dpc.records.directory import RunDirectory
from dpc.tasks import data_sha256
from dpc.tasks.gsm8k import TASK
from dpc.types import Answer, Cost, Decision, Evidence, Example, Generation, Record


def rows(count: int, prefix: str = "gsm8k/test") -> list[Example]:
    return [Example(f"{prefix}/{i}", f"How many are {i} and 1?", str(i + 1), "So.\n#### 0") for i in range(count)]


def text(example: Example, right: bool) -> str:
    """An answer that the strict grader calls ``right``; the flexible one finds a number in either."""
    return f"That is {example.answer}.\n#### {example.answer}" if right else f"It may be {example.answer}."


def record(example: Example, method: str, first: bool, second: bool | None = None) -> Record:
    texts = [text(example, right) for right in (first, second) if right is not None]
    passes = [Generation((1, 2, 3 + index), each, "eos") for index, each in enumerate(texts)]
    scores = [TASK.score(example, each) for each in texts]
    decision = None
    if method == "dpc":
        evidence = Evidence(beta=0.25, influence=(0.1, 0.4, 0.2), late_flow=0.3, more={"odd": 1.5})
        triggered = second is not None
        if triggered:
            evidence = replace(evidence, accumulated=True, profile=(0.5, 0.125), corruption="largest S_acc: masked")
        statistic, key = (0.75, 1) if triggered else (0.25, None)
        decision = Decision(triggered, statistic, 0.5, key, evidence=evidence)
    answer = Answer(passes[0], decision, passes[1] if len(passes) > 1 else None, Cost(7, 1, 6, 0.125))
    return Record(example.id, method, answer, scores[0], scores[-1])


def make_run(
    path: Path,
    examples: Sequence[Example],
    records: Mapping[str, Sequence[Record]],
    described: Mapping[str, Any] | None = None,
) -> RunDirectory:
    """Write a run of GSM8K; ``described`` changes what its evaluation was made from."""
    run = RunDirectory(path, "dpc eval")
    data = {"task": "gsm8k", "split": "test", "source": "here", "rows": len(examples), "sha256": data_sha256(examples)}
    made_from = {
        "model": {"name": "org/tiny", "revision": None, "dtype": "float32"},
        "tau": 0.5,
        "data": data,
        "method": {"gamma": 10.0},
        "decoding": {"max_new_tokens": 512},
    }
    run.enter("eval", made_from | dict(described or {}))
    run.write_examples(examples)
    for name, made in records.items():
        run.records(name).append(made)
    return run
