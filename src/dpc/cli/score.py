"""Grade texts that were generated elsewhere: read them, match them with the rows of a task, and count."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from dpc.errors import UserError
from dpc.files import write_atomically
from dpc.report.formats import percent
from dpc.settings import TaskSettings
from dpc.stats import wilson
from dpc.tasks import Task, data_sha256
from dpc.tasks.base import Grader, read_values
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

    def summary(self) -> dict[str, Any]:
        """What ``--json`` prints: accuracy as a share of one, with Wilson's interval, for every grader."""
        figures = {name: _figures(scores) for name, scores in self.scores.items()}
        return self.described | {"confidence": CONFIDENCE} | figures.pop("score") | {"also_graded": figures}

    def as_json(self) -> str:
        """The summary as readable JSON."""
        return json.dumps(self.summary(), indent=2, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class _Prediction:
    """One generated text. key: the example's id, the row's number, or None where its place in the file says it."""

    where: str
    key: str | int | None
    text: str
    filter: str | None = None


def grade_file(
    task: Task, split: str, source: str | None, predictions: Path, settings: TaskSettings, *, partial: bool = False
) -> Grades:
    """Grade the texts of a file of JSON lines against the rows of a split.

    Each line has ``text`` and, unless all lines are in the order of the file of rows, the row's ``id``; or it is a line
    of lm-evaluation-harness's samples, with ``doc_id``, the number of its row, and ``resps`` (or ``filtered_resps``).
    Every row must have a text, unless ``partial`` asks for those that have one.

    Raises:
        UserError: naming the file, and the line where there is one, for texts that cannot be read, belong to no row, or
            are there twice, and for rows without a text.
    """
    rows = in_row_order(task.load(split, source, settings))
    if not rows:
        raise UserError(f"--task {task.name} --data {source}: there are no rows to grade")
    found = _match(list(_read(predictions, {example.id for example in rows})), rows)
    missing = [example.id for place, example in enumerate(rows) if place not in found]
    if missing and not partial:
        raise UserError(
            f"{predictions}: has no text for {len(missing)} of {len(rows)} rows, first {missing[0]}; "
            "add them (an empty text is no answer), or pass --partial to grade the others alone"
        )
    examples = [rows[place] for place in sorted(found)]
    texts = [found[place].text for place in sorted(found)]
    graders: dict[str, Grader] = {"score": task.score, **task.also_graded}
    pairs = list(zip(examples, texts, strict=True))
    shown = track(pairs, "grading", console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    by_row = [{name: grader(example, text) for name, grader in graders.items()} for example, text in shown]
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


def _read(path: Path, ids: Collection[str]) -> Iterator[_Prediction]:
    for number, value in read_values(path):
        where = f"{path}:{number + 1}"
        if not isinstance(value, Mapping):
            raise UserError(f'{where}: expected an object such as {{"id": "...", "text": "..."}}')
        if "text" in value:
            yield _own(value, where)
        elif "resps" in value or "filtered_resps" in value:
            yield _sample(value, where, ids)
        else:
            raise UserError(f"{where}: has neither 'text' nor 'resps'; expected the text that was generated")


def _own(value: Mapping[str, Any], where: str) -> _Prediction:
    text, key = value["text"], value.get("id")
    if not isinstance(text, str):
        raise UserError(f"{where}: 'text' must be a string; expected the text that was generated")
    if key is not None and not isinstance(key, str):
        raise UserError(f"{where}: 'id' must be a string; leave it out in all lines if they are in the rows' order")
    return _Prediction(where, key, text)


def _sample(value: Mapping[str, Any], where: str, ids: Collection[str]) -> _Prediction:
    name = "resps" if "resps" in value else "filtered_resps"
    text: Any = value[name]
    while isinstance(text, list) and len(text) == 1:
        text = text[0]
    if not isinstance(text, str):
        raise UserError(f"{where}: {name!r} must hold one string; expected one generated text a row")
    doc, key = value.get("doc"), value.get("doc_id")
    if isinstance(doc, Mapping) and isinstance(doc.get("id"), str) and doc["id"] in ids:
        key = doc["id"]
    elif not isinstance(key, int) or isinstance(key, bool):
        raise UserError(f"{where}: 'doc_id' must be the number of a row, counted from 0")
    return _Prediction(where, key, text, str(value.get("filter")))


def _match(predictions: Sequence[_Prediction], examples: Sequence[Example]) -> dict[int, _Prediction]:
    """The prediction for each example that has one, by the example's place."""
    keyed = [prediction.key is not None for prediction in predictions]
    if any(keyed) and not all(keyed):
        without = predictions[keyed.index(False)].where
        raise UserError(f"{without}: has no id, and other lines have one; give every line its id, or none")
    places: dict[str | int | None, int] = {example.id: place for place, example in enumerate(examples)}
    places |= {place: place for place in range(len(examples))}
    found: dict[int, _Prediction] = {}
    for number, prediction in enumerate(predictions):
        key = number if prediction.key is None else prediction.key
        if key not in places:
            hint = f"; ids look like {examples[0].id!r}" if isinstance(key, str) else ""
            raise UserError(f"{prediction.where}: belongs to no row: {key!r} is not among {len(examples)} rows{hint}")
        other = found.setdefault(places[key], prediction)
        # A samples file of several filters holds each text once a filter.
        repeated = other.filter != prediction.filter and other.text == prediction.text
        if other is not prediction and not repeated:
            raise UserError(f"{prediction.where}: answers {key!r} again, after {other.where}; keep one text a row")
    return found


def _figures(scores: Sequence[Score]) -> dict[str, Any]:
    correct = sum(score.correct for score in scores)
    interval = wilson(correct, len(scores), CONFIDENCE)
    return {
        "correct": correct,
        "accuracy": correct / len(scores),
        "interval": [interval.low, interval.high],
        "no_answer": sum(score.reason == "no_answer" for score in scores),
    }


def write_grades(grades: Grades, path: Path) -> None:
    """Write the grade of every row as a JSON line: its id and gold answer, then what each grader found."""
    lines = []
    for place, example in enumerate(grades.examples):
        found = {name: asdict(scores[place]) for name, scores in grades.scores.items()}
        row = {"id": example.id, "answer": example.answer, **found.pop("score"), "also_graded": found}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_atomically(path, "".join(lines).encode())


def print_grades(grades: Grades) -> None:
    """Print accuracy, interval and texts without an answer, a line for each grader."""
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("graded by")
    for heading in ("accuracy %", "95% interval", "correct", "no answer"):
        table.add_column(heading, justify="right")
    for name, scores in grades.scores.items():
        figures = _figures(scores)
        low, high = figures["interval"]
        table.add_row(
            name,
            percent(figures["accuracy"]),
            f"{percent(low)} to {percent(high)}",
            f"{figures['correct']} of {len(scores)}",
            str(figures["no_answer"]),
        )
    console = Console()
    named, rows, of = grades.described, len(grades.examples), grades.described["rows_of_split"]
    count = f"{rows} rows" if rows == of else f"{rows} of {of} rows"
    console.print(f"{named['task']} {named['split']}, {count}", highlight=False)
    console.print(table)
