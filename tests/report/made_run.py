"""A whole run directory without a model: rows, records with evidence, vocabulary, maps, results, description."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dpc.records.directory import RunDirectory
from dpc.records.results import CalibrationResult, write_results
from dpc.records.summary import summarize, threshold_curve
from dpc.tasks import get_task
from dpc.types import Answer, Cost, Decision, Evidence, Example, Generation, Record, Score
from tests.report.examples import MENDED, STEPS, calibration, results

P = 16
TAU = 0.5
LAYERS = 5


def tokens_of(text: str) -> list[str]:
    return re.findall(r"\n| ?[^\W\d_]+| ?\d| ?[^\w\s]+|\s+", text)


class Vocabulary:
    """Ids of tokens, given as they come."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.ids.setdefault(token, len(self.ids)) for token in tokens_of(text))


def question(index: int) -> str:
    return f"Tom has {index} pens. Tom buys 3 pens and loses 2 pens. How many pens does Tom have now?"


def rows(count: int, said: Sequence[str] = ()) -> list[Example]:
    """Questions; the first ones are ``said``."""
    texts = [*said, *(question(i) for i in range(len(said), count))]
    return [Example(f"test/{i}", text, str(i % 50)) for i, text in enumerate(texts)]


def judged(draw: random.Random, length: int, wrong: bool) -> Decision:
    """A decision with its evidence: R is counted from the influences, so every figure can be checked."""
    half = length // 2
    influence = [float(f"{draw.lognormvariate(-9 + (wrong and i >= half) * 0.25, 0.6):.4g}") for i in range(length)]
    beta = sum(influence[:half]) / half
    ratio = sum(value > beta for value in influence[half:]) / (length - half)
    evidence = Evidence(beta=beta, influence=tuple(influence), late_flow=sum(influence[half:]) / half)
    if ratio <= TAU:
        return Decision(False, ratio, TAU, evidence=evidence)
    profile = [float(f"{draw.lognormvariate(-8, 0.4):.4g}") for _ in range(P)]
    key = draw.randrange(P)
    profile[key] = 2.5e-3
    more = replace(evidence, profile=tuple(profile), accumulated=True, corruption="largest S_acc: masked")
    return Decision(True, ratio, TAU, key, evidence=more)


def score(example: Example, right: bool, found: bool = True) -> Score:
    if not found:
        return Score(False, None, "no_answer")
    return Score(right, example.answer if right else "none of these", "match" if right else "mismatch")


def records(examples: Sequence[Example], vocabulary: Vocabulary) -> dict[str, list[Record]]:
    """Pretrained, prompt tuning and DPC on every row; some answers can't be read, some rationales are too short."""
    draw = random.Random(11)
    made: dict[str, list[Record]] = {"pretrained": [], "prompt_tuning": [], "dpc": []}
    for index, example in enumerate(examples):
        right, found = draw.random() < 0.6, index % 19 != 5
        short = index % 41 == 7
        text = "Yes." if short else STEPS.replace("Tom", f"Tom {index}")
        first = Generation(vocabulary.encode(text), text, "length" if index % 53 == 9 else "eos")
        graded = score(example, right, found)
        cost = Cost(40, 0, 40, 0.05, 120.5, 8.25)
        before = draw.random() < 0.4
        made["pretrained"].append(
            Record(
                example.id,
                "pretrained",
                Answer(first, None, None, cost),
                score(example, before),
                score(example, before),
            )
        )
        made["prompt_tuning"].append(
            Record(example.id, "prompt_tuning", Answer(first, None, None, cost), graded, graded)
        )
        decision = judged(draw, len(first.ids), not graded.correct)
        if short:
            reason = Evidence(reason="rationale of 2 tokens, shorter than 4")
            decision = Decision(False, None, TAU, judged=False, evidence=reason)
        second = Generation(vocabulary.encode(MENDED), MENDED, "eos") if decision.triggered else None
        final = graded if second is None else score(example, draw.random() < (0.6 if graded.correct else 0.3), found)
        spent = Cost(80 if second else 41, 1, 80 if second else 40, 0.08)
        made["dpc"].append(Record(example.id, "dpc", Answer(first, decision, second, spent), graded, final))
    return made


def arrays(question_tokens: Sequence[str], rationale_tokens: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Maps in which soft token 3 is read most by everyone in layer 1."""
    draw = np.random.default_rng(seed)
    q, r = len(question_tokens), len(rationale_tokens)
    rows_, columns = q + r, P + q + r
    visible = np.tri(rows_, columns, P, dtype=np.float32)
    saliency = np.exp(draw.normal(-9, 2.5, (LAYERS, rows_, columns))).astype(np.float32) * visible
    saliency[1, :, 3] *= 400
    attention = draw.random((LAYERS, rows_, columns), dtype=np.float32) ** 4 * visible
    attention /= attention.sum(-1, keepdims=True)
    return {
        "saliency": saliency,
        "attention": attention,
        "tokens": np.array([*(f"p{j}" for j in range(P)), *question_tokens, *rationale_tokens]),
        "spans": np.array([[0, P], [P, P + q], [P + q, columns]]),
        "layers": np.arange(LAYERS),
    }


def write_history(path: Path, updates: int = 300) -> None:
    """A tuning curve: the loss falls, the dev rows are measured every 50 updates."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for step in range(1, updates + 1):
        measured = step % 50 == 0
        dev = {"dev_loss": 0.9 / step + 0.2, "dev_accuracy": 0.5 + step / 1000} if measured else {}
        blank = {"dev_loss": None, "dev_accuracy": None}
        lines.append({"step": step, "loss": 1.0 / step + 0.1, "learning_rate": 1e-3} | blank | dev)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path.parent / "dpc.json").write_text(json.dumps({"tuning": {"best_step": updates}}))


def write_run(path: Path, examples: Sequence[Example]) -> dict[str, list[Record]]:
    """Write the run directory of an evaluation of ``examples``, maps of the first two triggered rows with it."""
    run, vocabulary = RunDirectory(path, "dpc run --output runs/made-up"), Vocabulary()
    made = records(examples, vocabulary)
    for name, own in made.items():
        run.records(name).append(own)
    run.write_examples(examples)
    run.vocabulary.write_text(json.dumps({str(i): token for token, i in vocabulary.ids.items()}), encoding="utf-8")
    run.enter("eval", {"method": {"accumulation_k": 2.0}, "data": {"sha256": "0" * 64}})
    write_history(run.history)
    by_id = {example.id: example for example in examples}
    (path / "maps").mkdir()
    for place, record in enumerate([r for r in made["dpc"] if r.answer.second is not None][:2]):
        own = arrays(tokens_of(by_id[record.example_id].question), tokens_of(record.answer.first.text), place)
        np.savez(path / "maps" / f"{place}.npz", **own, example_id=np.array(record.example_id))
    graders = get_task("zoo").also_graded
    found = results(summarize(made, examples, graders), len(examples))
    chosen = CalibrationResult.of(calibration())
    write_results(run.results, replace(found, test_curve=threshold_curve(made), calibration=chosen))
    return made


def retold(examples: Sequence[Example], text: str) -> list[Example]:
    """The same rows with ``text`` wherever a row holds text, ids kept apart by their place."""
    return [replace(e, id=f"{text} {i}", question=text, choices=(text,)) for i, e in enumerate(examples)]
