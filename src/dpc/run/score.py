"""Grade texts that were generated elsewhere: read them, find the row that each one answers, and count."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dpc.errors import UserError
from dpc.files import write_atomically
from dpc.run.predictions import match_predictions, read_predictions
from dpc.run.reporter import SILENT, Progress, Reporter
from dpc.settings import TaskSettings
from dpc.stats import wilson
from dpc.tasks import Task, data_sha256
from dpc.tasks.base import Grader
from dpc.tasks.sources import in_row_order
from dpc.types import Example, Score

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Grades:
    """The grades of all rows, in the order of the file of rows: by the task's grader, and by each of its others.

    described: what was graded, JSON types only.
    """

    described: dict[str, Any]
    examples: tuple[Example, ...]
    scores: Mapping[str, tuple[Score, ...]]

    def figures(self, grader: str) -> dict[str, Any]:
        """Accuracy of one grader as a share of one, Wilson's interval, and texts without an answer."""
        scores = self.scores[grader]
        correct = sum(score.correct for score in scores)
        interval = wilson(correct, len(scores), CONFIDENCE)
        return {
            "correct": correct,
            "accuracy": correct / len(scores),
            "interval": [interval.low, interval.high],
            "no_answer": sum(score.reason == "no_answer" for score in scores),
        }

    def summary(self) -> dict[str, Any]:
        """What was graded, and the figures of every grader."""
        figures = {name: self.figures(name) for name in self.scores}
        return self.described | {"confidence": CONFIDENCE} | figures.pop("score") | {"also_graded": figures}

    def as_json(self) -> str:
        """The summary as readable JSON, which can be printed whatever the names of files hold."""
        return json_text(self.summary(), indent=2)


def grade_file(
    task: Task,
    split: str,
    source: str | None,
    predictions: Path,
    settings: TaskSettings,
    *,
    partial: bool = False,
    reporter: Reporter = SILENT,
) -> Grades:
    """Grade the texts of a file of JSON lines against the rows of a split.

    Each line has ``text`` and, unless all lines are in the order of the file of rows, the row's ``id``; or it is a line
    of lm-evaluation-harness's samples (``read_predictions``). Every row must have a text, unless ``partial`` asks for
    those that have one.

    Raises:
        UserError: naming the file, and the line where there is one, for texts that cannot be read, belong to no row, or
            are there twice, and for rows without a text.
    """
    rows = in_row_order(task.load(split, source, settings))
    if not rows:
        raise UserError(f"--task {task.name} --data {source}: there are no rows to grade")
    found = match_predictions(read_predictions(predictions), rows)
    missing = [example.id for place, example in enumerate(rows) if place not in found]
    if missing and not partial:
        raise UserError(
            f"{predictions}: has no text for {len(missing)} of {len(rows)} rows, first {missing[0]}; "
            "add them (an empty text is no answer), or pass --partial to grade the others alone"
        )
    graders: dict[str, Grader] = {"score": task.score, **task.also_graded}
    examples, by_row = [], []
    for done, place in enumerate(sorted(found), start=1):
        examples.append(rows[place])
        by_row.append({name: grader(rows[place], found[place].text) for name, grader in graders.items()})
        reporter.progress(Progress("grade", done, len(found)))
    described = {
        "task": task.name,
        "split": split,
        "source": source or task.default_source,
        "rows": len(examples),
        "rows_of_split": len(rows),
        "data_sha256": data_sha256(examples),
        "predictions": str(predictions),
        "predictions_sha256": hashlib.sha256(predictions.read_bytes()).hexdigest(),
    }
    return Grades(described, tuple(examples), {name: tuple(row[name] for row in by_row) for name in graders})


def write_grades(grades: Grades, path: Path) -> None:
    """Write the grade of every row as a JSON line: its id and gold answer, then what each grader found."""
    lines = []
    for place, example in enumerate(grades.examples):
        found = {name: asdict(scores[place]) for name, scores in grades.scores.items()}
        row = {"id": example.id, "answer": example.answer, **found.pop("score"), "also_graded": found}
        lines.append(json_text(row) + "\n")
    write_atomically(path, "".join(lines).encode())


def json_text(value: Any, indent: int | None = None) -> str:
    r"""JSON with every character as it is but halves of surrogate pairs, which UTF-8 cannot encode: ``\ud800``."""
    return json.dumps(value, indent=indent, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
