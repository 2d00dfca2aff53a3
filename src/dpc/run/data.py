"""Rows of one split of a task, and the checks that keep splits apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from dpc.errors import UserError
from dpc.settings import Settings, TaskSettings
from dpc.tasks import Task, data_sha256
from dpc.tasks.duplicates import near_duplicates
from dpc.types import NO_SHOTS, Example, Shot, Shots


@dataclass(frozen=True, slots=True)
class Data:
    """Rows of one split of a task, and their source."""

    task: Task
    split: str
    source: str
    examples: tuple[Example, ...]

    @classmethod
    def load(
        cls,
        task: Task,
        split: str,
        source: str | None,
        limit: int | None = None,
        settings: TaskSettings | None = None,
    ) -> Data:
        """Load the split, or its first ``limit`` rows. Raises ``UserError`` for rows that cannot be read."""
        examples = task.load(split, source, settings or TaskSettings())
        return cls(task, split, source or task.default_source, tuple(examples[:limit]))

    def describe(self) -> dict[str, Any]:
        """What identifies these rows."""
        return {
            "task": self.task.name,
            "split": self.split,
            "source": self.source,
            "rows": len(self.examples),
            "sha256": data_sha256(self.examples),
        }

    def left_out(self) -> str | None:
        """Which rows the task leaves out of this split as near duplicates of later splits, in a line; None for none."""
        if self.task.left_out is None or self.split == "test":
            return None
        source = None if self.source == self.task.default_source else self.source
        found = self.task.left_out(self.split, source)
        if not found:
            return None
        named = ", ".join(f"{pair.row} (like {pair.other})" for pair in found[:5])
        more = ", ..." if len(found) > 5 else ""
        return f"{len(found)} rows are left out of {self.split} as near duplicates of dev or test rows: {named}{more}"

    def pairs(self) -> list[tuple[str, str]]:
        """Question and target text of each row, as a prompt is tuned on them."""
        return [(self.task.prompt(example), self.task.target(example)) for example in self.examples]


def load_shots(
    task: Task, source: str | None, settings: TaskSettings, asked: Data | None = None, train: Data | None = None
) -> Shots:
    """The first ``settings.shots`` rows of the train split, as worked examples before questions.

    source: of the rows, None for the task's own. asked: rows that will be answered. train: the train split, where it
    was read before. Raises ``UserError`` where there are fewer rows, one of them is to be answered, or one has no
    target.
    """
    count = settings.shots
    if count == 0:
        return NO_SHOTS
    train = train or Data.load(task, "train", source, None, settings)
    first = train.examples[:count]
    if len(first) < count:
        raise UserError(f"task.shots={count}: {train.source} has {len(first)} train rows; set at most that many")
    if asked is not None and (shared := row_keys(replace(train, examples=first)).keys() & row_keys(asked).keys()):
        raise UserError(
            f"task.shots={count}: {row_keys(asked)[min(shared)]} is among the worked examples and among the rows to "
            "answer; pass as data a folder with a train split beside the rows"
        )
    rows = tuple(Shot(each.id, task.prompt(each), task.target(each)) for each in first)
    return Shots(rows, rows[0].question.partition(first[0].question)[0].strip())


def init_text(train: Data, dev: Data, settings: Settings) -> str | None:
    """Question and target of the example for ``tuning.init=text``; None where that is the first train row.

    Raises ``UserError`` where ``tuning.init_question`` is set and no row's question begins so.
    """
    beginning = settings.tuning.init_question
    if beginning is None or settings.tuning.init != "text":
        return None
    for part in (train, dev):
        for example, pair in zip(part.examples, part.pairs(), strict=True):
            if example.question.startswith(beginning):
                return "".join(pair)
    raise UserError(
        f"tuning.init_question: no question among {train.source}'s train and dev rows begins with {beginning!r}; "
        "give another beginning, or none for the first train row"
    )


def row_keys(data: Data) -> dict[str, str]:
    """A short digest of each row's question and answer, with the row's id: splits must not share one."""
    texts = {example.id: json.dumps([example.question, example.answer]) for example in data.examples}
    return {hashlib.sha256(text.encode()).hexdigest()[:16]: name for name, text in texts.items()}


def refuse_shared_rows(data: Data, others: Collection[str], used_for: str) -> None:
    """Raise ``UserError`` where a row of ``data`` is among ``others`` (keys): an accuracy on it would be no test."""
    shared = [name for key, name in row_keys(data).items() if key in others]
    if shared:
        raise UserError(
            f"{data.source} {data.split}: {len(shared)} of its rows, first {shared[0]}, were used to {used_for}; "
            "evaluate on other rows"
        )


def check_near_duplicates(data: Data, test: Data) -> str | None:
    """A line about rows of ``data`` that are near duplicates of test rows; None where there are none.

    Tasks whose questions are made from templates are exempt: most of their rows resemble others.
    Raises ``UserError`` where a question and its options are the same but for order and punctuation: an accuracy there
    would be no test.
    """
    if data.task.templated:
        return None
    found = near_duplicates(data.examples, test.examples)
    same = [pair for pair in found if pair.similarity == 1]
    if same:
        raise UserError(
            f"{data.source} {data.split}: {len(same)} of its rows ask what test rows ask, first {same[0].row} as "
            f"{same[0].other}; take them out of {data.split}, or set templated=True in the TASK if questions are made "
            "from templates"
        )
    if not found:
        return None
    named = ", ".join(f"{pair.row} (like {pair.other})" for pair in found[:5]) + (", ..." if len(found) > 5 else "")
    return f"{len(found)} rows of {data.split} resemble test rows: {named}"
