"""Texts that were generated elsewhere, read from JSON lines and matched with the rows that they answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpc.errors import UserError
from dpc.tasks.base import read_values
from dpc.tasks.choices import show_options
from dpc.types import Example

# Fields of lm-evaluation-harness's documents that hold the problem.
PROBLEM_FIELDS = ("problem", "question", "query", "input", "prompt", "context", "stem", "text")
LEAST_CONTAINED = 20  # characters of a problem that is looked for inside of a longer text


@dataclass(frozen=True, slots=True)
class Prediction:
    """One generated text.

    where: file and line. key: the example's id, the row's number, or None where the line's place in the file is the
    row's number. filter: the name of lm-evaluation-harness's filter. document: its copy of the row.
    """

    where: str
    key: str | int | None
    text: str
    filter: str | None = None
    document: Mapping[str, Any] | None = None


def read_predictions(path: Path) -> list[Prediction]:
    """The texts of a file of JSON lines.

    A line has ``text``, and ``id`` unless all lines are in the order of the rows. Or it is one of the samples of
    lm-evaluation-harness, with ``resps`` (or ``filtered_resps``), ``doc``, a copy of the row, and ``doc_id``.

    Raises:
        UserError: naming file and line, for a line without a text or without what says which row it answers.
    """
    return [_prediction(value, f"{path}:{number + 1}") for number, value in read_values(path)]


def _prediction(value: object, where: str) -> Prediction:
    if not isinstance(value, Mapping):
        raise UserError(f'{where}: expected an object such as {{"id": "...", "text": "..."}}')
    if "text" in value:
        return _own(value, where)
    if "resps" in value or "filtered_resps" in value:
        return _sample(value, where)
    raise UserError(f"{where}: has neither 'text' nor 'resps'; expected the text that was generated")


def _own(value: Mapping[str, Any], where: str) -> Prediction:
    text, key = value["text"], value.get("id")
    if not isinstance(text, str):
        raise UserError(f"{where}: 'text' must be a string; expected the text that was generated")
    if key is not None and not isinstance(key, str):
        raise UserError(f"{where}: 'id' must be a string; leave it out in all lines if they are in the rows' order")
    return Prediction(where, key, text)


def _sample(value: Mapping[str, Any], where: str) -> Prediction:
    name = "resps" if "resps" in value else "filtered_resps"
    text: Any = value[name]
    while isinstance(text, list) and len(text) == 1:
        text = text[0]
    if not isinstance(text, str):
        raise UserError(f"{where}: {name!r} must hold one string; expected one generated text a row")
    document, key = value.get("doc"), value.get("doc_id")
    if not isinstance(key, int) or isinstance(key, bool):
        key = None
    document = document if isinstance(document, Mapping) else None
    if key is None and document is None:
        raise UserError(f"{where}: 'doc_id' must be the number of a row, counted from 0")
    return Prediction(where, key, text, str(value.get("filter")), document)


def match_predictions(predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[int, Prediction]:
    """The prediction for each example that has one, by the example's place.

    A sample is matched by the id or the text of the problem in its document. Its ``doc_id`` counts only where the
    document has neither: harnesses restart it in every subject of a benchmark.

    Raises:
        UserError: naming file and line, for a text that belongs to no row or to one that has a text already.
    """
    keyed = [prediction.key is not None or prediction.document is not None for prediction in predictions]
    if any(keyed) and not all(keyed):
        without = predictions[keyed.index(False)].where
        raise UserError(f"{without}: has no id, and other lines have one; give every line its id, or none")
    rows = _Rows(examples)
    found: dict[int, Prediction] = {}
    for number, prediction in enumerate(predictions):
        place, name = rows.place_of(prediction, number)
        other = found.setdefault(place, prediction)
        # A samples file of several filters holds each text once a filter.
        repeated = other.filter != prediction.filter and other.text == prediction.text
        if other is not prediction and not repeated:
            raise UserError(f"{prediction.where}: answers {name!r} again, after {other.where}; keep one text a row")
    return found


class _Rows:
    """Rows that are found by id, number, or the text of their problem."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples
        self._places: dict[str | int, int] = {example.id: place for place, example in enumerate(examples)}
        self._places |= {place: place for place in range(len(examples))}
        self._names: dict[str, list[int]] = defaultdict(list)
        self._problems: dict[str, list[int]] = defaultdict(list)
        for place, example in enumerate(examples):
            self._names[example.id.split("/", 2)[-1]].append(place)
            for text in {_squeezed(example.question), _squeezed(_stem(example))}:
                self._problems[text].append(place)

    def place_of(self, prediction: Prediction, number: int) -> tuple[int, str | int]:
        """The place of the row that a prediction, the ``number``-th of its file, answers, and how it is called."""
        if prediction.document is not None:
            place = self._by_document(prediction, prediction.document)
            if place is not None:
                return place, self._examples[place].id
            if prediction.key is None:
                raise UserError(f"{prediction.where}: 'doc_id' must be the number of a row, counted from 0")
        key = number if prediction.key is None else prediction.key
        if key not in self._places:
            hint = f"; ids look like {self._examples[0].id!r}" if isinstance(key, str) else ""
            rows = len(self._examples)
            raise UserError(f"{prediction.where}: belongs to no row: {key!r} is not among {rows} rows{hint}")
        return self._places[key], key

    def _by_document(self, prediction: Prediction, document: Mapping[str, Any]) -> int | None:
        """The place of the document's row; None where it says neither id nor problem."""
        name = document.get("id")
        if isinstance(name, str) and name in self._places:
            return self._places[name]
        if isinstance(name, str) and len(self._names.get(name, ())) == 1 and not name.isdigit():
            return self._names[name][0]
        texts = {_squeezed(text) for text in _strings(document)}
        places = [place for text in texts for place in self._problems.get(text, ())] or self._inside(texts)
        if not places:
            asked = [document[field] for field in PROBLEM_FIELDS if isinstance(document.get(field), str)]
            asked = [text for text in asked if any(map(str.isalnum, text))]
            if asked:
                raise UserError(
                    f"{prediction.where}: belongs to no row: none asks {asked[0][:60]!r}; pass samples of this task "
                    "and split, or lines with 'id' and 'text'"
                )
            return None
        options = [place for place in places if {_squeezed(c) for c in self._examples[place].choices} <= texts]
        places = sorted(set(options or places))
        return prediction.key if isinstance(prediction.key, int) and prediction.key in places else places[0]

    def _inside(self, texts: set[str]) -> list[int]:
        """Rows with the longest problem that is part of one of ``texts``, as where a harness puts "Q: " before it."""
        problems = [problem for problem in self._problems if len(problem) >= LEAST_CONTAINED]
        inside = [problem for problem in problems if any(problem in text for text in texts)]
        return self._problems[max(inside, key=len)] if inside else []


def _stem(example: Example) -> str:
    return example.question.removesuffix(show_options("", example.choices))


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def _strings(value: object) -> Iterator[str]:
    """Every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)
