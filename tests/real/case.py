"""A real model, GSM8K questions after two worked ones, and a soft prompt: in the test and in processes of their own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import naive
from benchmarks.measure import Subject
from dpc.engine import Decoder, Request
from dpc.flow.shallow import shallow_layers
from dpc.model.lm import FrozenLM
from dpc.model.loading import load_lm
from dpc.prompt.soft_prompt import SoftPrompt, init_prompt
from dpc.prompt.target_loss import TokenRow, encode_rows
from dpc.tasks import get_task
from tests.paths import SHARED_DATA
from tests.test_naive import Case, our_answers

QUESTIONS, NEW_TOKENS, VIRTUAL = 50, 48, 16


@dataclass(frozen=True)
class Real:
    """questions: token ids. rows: question and target, for tuning. vectors: embeddings of a worked example, noised."""

    lm: FrozenLM
    questions: list[list[int]]
    rows: list[TokenRow]
    vectors: Tensor

    @property
    def prompt(self) -> SoftPrompt:
        return SoftPrompt.of(self.vectors, self.lm.name)

    def case(self, first: int, new_tokens: int) -> Case:
        """The first questions, one at a time, as the tests of naive DPC take them."""
        batches = [[question] for question in self.questions[:first]]
        return Case(self.lm, batches, self.vectors, shallow_layers(range(self.lm.layers)), new_tokens)


def real_case(path: Path) -> Real:
    lm, task = load_lm(str(path), dtype="float32", device="cpu"), get_task("gsm8k")
    train = task.load("train", str(SHARED_DATA / "gsm8k"))
    test = task.load("test", str(SHARED_DATA / "gsm8k"))[:QUESTIONS]
    # An instruct model often ends at once after a bare question; after worked ones it writes a rationale.
    shots = "".join(f"{task.prompt(row)}{task.target(row)}\n\n" for row in train[:2])
    questions = [lm.encode(shots + task.prompt(row)) for row in test]
    rows = encode_rows(lm, [(task.prompt(row), task.target(row)) for row in train[2:8]], VIRTUAL, None, "training")
    start = init_prompt(lm, VIRTUAL, "text", 0, task.prompt(train[8]) + task.target(train[8])).vectors
    noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(0))
    return Real(lm, questions, rows, start + 0.2 * start.std() * noise)


def answers_one_at_a_time(real: Real, folder: Path) -> list[tuple[int, ...]]:
    """Answers of transformers' ``generate``, one question at a time. They are kept, so that a next run goes on."""
    told = json.dumps([real.lm.revision, torch.__version__, real.vectors.tolist(), NEW_TOKENS])
    kept = folder / f"answers-{hashlib.sha256(told.encode()).hexdigest()[:16]}.jsonl"
    found = [tuple(json.loads(line)) for line in kept.read_text().splitlines()] if kept.exists() else []
    with kept.open("a") as file:
        for question in real.questions[len(found) :]:
            [answer] = naive.generate(real.lm.model, [question], [real.vectors], NEW_TOKENS, 1)
            found.append(answer)
            file.write(json.dumps(answer) + "\n")
            file.flush()
    return found


def ours(real: Real, count: int = QUESTIONS) -> list[tuple[int, ...]]:
    requests = [Request(question, real.prompt) for question in real.questions[:count]]
    return [answer.ids for answer in Decoder(real.lm).all(requests, NEW_TOKENS)]


def dpc_subject(parameters: Mapping[str, Any]) -> Subject:
    """The whole method by the package, for ``benchmarks.worker``."""
    case = real_case(Path(parameters["path"])).case(parameters["count"], NEW_TOKENS)
    return lambda: our_answers(case, 0.5)


def naive_subject(parameters: Mapping[str, Any]) -> Subject:
    """The whole method by naive DPC, in batches of the size that the package uses."""
    case = real_case(Path(parameters["path"])).case(parameters["count"], NEW_TOKENS)
    questions = [question for [question] in case.batches]
    options: dict[str, Any] = {"shallow": case.shallow, "tau": 0.5, "gamma": 10.0, "max_new_tokens": NEW_TOKENS}
    return lambda: naive.answer(case.lm.model, questions, case.vectors, batch_size=16, **options)
