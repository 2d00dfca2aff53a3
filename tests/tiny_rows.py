"""A handful of made-up rows of every benchmark, in the formats that its file names, and a tiny model on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from dpc.tasks import Task
from dpc.types import Example, Score
from tests.paths import PACKAGE
from tests.tiny_models import tiny_lm

TRAIN, TEST = 12, 4
# How the questions begin that the paper starts its prompts from.
FIRST = {"gsm8k": "Natalia sold clips to 48 of her friends.", "math": "What is the degree of the polynomial $x$?"}


def write_model(folder: Path, architecture: str = "llama", weights: bool = True) -> Path:
    """A tiny model in Hugging Face format; without its weights, only what a plan may look at."""
    lm = tiny_lm(architecture)
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    if not weights:
        (folder / "model.safetensors").unlink()
    return folder


def toy_examples(count: int = 10) -> list[Example]:
    """Rows without a file."""
    return [Example(f"toy/{i}", "ab" * (i % 5 + 1) + "xyz"[i // 5 % 3], "x", "x") for i in range(count)]


def toy_task(name: str = "toy", examples: Sequence[Example] = ()) -> Task:
    """Right where the answer holds a letter of the first half of the alphabet: about as often right as wrong."""

    def score(example: Example, text: str) -> Score:
        right = any("a" <= c <= "m" for c in text)
        return Score(right, text[:1], "match" if right else "mismatch")

    return Task(name, "none", 8, lambda *_: list(examples), lambda e: e.question, lambda e: " x", score)


def write_zoo_rows(folder: Path, **counts: int) -> Path:
    """The first rows of splits of the embedded benchmark, so that commands are over in seconds."""
    for split, count in counts.items():
        lines = (PACKAGE / "zoo" / "data" / f"{split}.jsonl").read_text("utf-8").splitlines()[:count]
        (folder / f"{split}.jsonl").write_text("".join(line + "\n" for line in lines), "utf-8")
    return folder


def write_rows(task: str, folder: Path) -> Path:
    """Rows of ``task`` in ``folder``, which can be passed as its data."""
    folder.mkdir(parents=True, exist_ok=True)
    WRITERS[task](folder)
    return folder


def _lines(path: Path, rows: Iterable[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def _gsm8k(folder: Path) -> None:
    def row(asked: str, number: int) -> dict[str, str]:
        return {"question": asked, "answer": f"{number} + 1\n#### {number + 1}"}

    _lines(folder / "train.jsonl", [row(FIRST["gsm8k"], 0), *(row(f"{n} and 1?", n) for n in range(1, TRAIN))])
    _lines(folder / "test.jsonl", [row(f"{n} and 1?", n) for n in range(100, 100 + TEST)])


def _math(folder: Path) -> None:
    def row(asked: str, number: int) -> dict[str, str]:
        return {"problem": asked, "level": "Level 1", "type": "Algebra", "solution": rf"$\boxed{{{number}}}$"}

    _lines(folder / "train.jsonl", [row(FIRST["math"], 1), *(row(f"${n}+0$?", n) for n in range(2, TRAIN + 1))])
    _lines(folder / "test.jsonl", [row(f"${n}+0$?", n) for n in range(100, 100 + TEST)])


def _aqua(folder: Path) -> None:
    def row(number: int) -> dict[str, Any]:
        options = [f"{letter}){number + place}" for place, letter in enumerate("ABCDE")]
        return {"question": f"{number}+0?", "options": options, "rationale": "It is A.", "correct": "A"}

    for split, start, count in (("train", 0, TRAIN), ("dev", 50, TEST), ("test", 100, TEST)):
        _lines(folder / f"{split}.jsonl", [row(number) for number in range(start, start + count)])


def _prontoqa(folder: Path) -> None:
    def row(number: int) -> dict[str, Any]:
        name = f"Max{number}"
        facts = {"question": f"{name} is red.", "query": f"True or false: {name} is red."}
        return facts | {"chain_of_thought": [f"{name} is red."], "answer": "True"}

    made = {
        f"example{n}": {
            "test_example": row(100 + n),
            **{f"in_context_example{part}": row(3 * n + part) for part in range(3)},
        }
        for n in range(TEST)
    }
    (folder / "345hop_random_true.json").write_text(json.dumps(made), "utf-8")


def _arc_challenge(folder: Path) -> None:
    def row(number: int) -> dict[str, Any]:
        choices = [{"text": f"{number + place}", "label": letter} for place, letter in enumerate("ABCD")]
        return {"id": f"r{number}", "question": {"stem": f"{number}+0?", "choices": choices}, "answerKey": "A"}

    for split, start, count in (("train", 0, TRAIN), ("validation", 50, TEST), ("test", 100, TEST)):
        _lines(folder / f"{split}.jsonl", [row(number) for number in range(start, start + count)])


def _worldtree(folder: Path) -> None:
    for split, start, count in (("train", 0, TRAIN), ("dev", 50, TEST), ("test", 100, TEST)):
        rows = [
            f"r{n}\tA\tf{n}|CENTRAL\t{n}+0? (A) {n} (B) {n + 1} (C) {n + 2} (D) {n + 3}"
            for n in range(start, start + count)
        ]
        header = "QuestionID\tAnswerKey\texplanation\tquestion"
        (folder / f"questions.{split}.tsv").write_text("\n".join([header, *rows]) + "\n", "utf-8")
    (folder / "tables").mkdir(exist_ok=True)
    facts = [f"{n}\tis itself\tf{n}\t" for n in range(200)]
    text = "\n".join(["NUMBER\tFACT\t[SKIP] UID\t[SKIP] DEP", *facts])
    (folder / "tables" / "NUMBERS.tsv").write_text(text + "\n", "utf-8")


WRITERS: dict[str, Callable[[Path], None]] = {
    "gsm8k": _gsm8k,
    "math": _math,
    "aqua": _aqua,
    "prontoqa": _prontoqa,
    "arc_challenge": _arc_challenge,
    "worldtree": _worldtree,
}
