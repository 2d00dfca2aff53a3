"""ARC-Challenge: science exam questions that simple methods get wrong (Clark et al. 2018, arXiv:1803.05457).

Row 16 of the train file::

    {"id": "NYSEDREGENTS_2004_8_31",
     "question": {"stem": "A chemical property of a mineral is evident if the mineral",
                  "choices": [{"text": "breaks easily when struck with a hammer", "label": "1"},
                              {"text": "bubbles when acid is placed on it", "label": "2"},
                              {"text": "is easily scratched by a fingernail", "label": "3"},
                              {"text": "reflects light from its surface", "label": "4"}]},
     "answerKey": "2"}

The hub's copy is flat: ``question`` is the stem, ``choices`` holds two lists, ``text`` and ``label``.

ARC has no rationales. What a prompt is tuned on is the setting ``task.arc_rationale``: ``answer``, the sentence with
the answer alone; or ``worldtree``, the facts of WorldTree's explanation before that sentence.

License: CC BY-SA 4.0. Official leaderboard, where a prediction is a label, right or wrong:
https://github.com/allenai/aristo-leaderboard/blob/831c3139e5480085be1650c3627ddbbac284d5f7/arc/data-challenge/README.md
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dpc.errors import UserError
from dpc.settings import TaskSettings
from dpc.tasks.base import NearDuplicate, Task, check_fields, check_ids, check_split, read_values
from dpc.tasks.choices import LETTERS, answer_sentence, check_choices, prompt, score, show_options, target
from dpc.tasks.duplicates import split_without
from dpc.tasks.rows import first_of
from dpc.tasks.sources import hub_rows, local_path
from dpc.tasks.worldtree import explained, read_explanations, to_letter
from dpc.types import Example

HUB_ID = "allenai/ai2_arc"
HUB_CONFIG = "ARC-Challenge"
HUB_SPLITS = {"train": "train", "dev": "validation", "test": "test"}
FILES = {
    "train": ("train.jsonl", "ARC-Challenge-Train.jsonl"),
    "dev": ("validation.jsonl", "dev.jsonl", "ARC-Challenge-Dev.jsonl"),
    "test": ("test.jsonl", "ARC-Challenge-Test.jsonl"),
}


def make_example(row: object, split: str, where: str) -> Example:
    """An example of a row, official or flat, with the answer sentence as its rationale.

    Labels ``1`` to ``5`` become letters, as the options are shown. ``UserError`` starting with ``where`` for a row
    that is malformed.
    """
    fields = check_fields(row, ("id", "answerKey"), where)
    stem, labels, texts = _question(row if isinstance(row, Mapping) else {}, where)
    letters = [to_letter(label) for label in labels]
    if letters != list(LETTERS[: len(letters)]):
        raise UserError(f"{where}: labels its choices {', '.join(labels)}; expected A, B, C ... or 1, 2, 3 ...")
    letter = to_letter(fields["answerKey"])
    check_choices(texts, letter, where)
    name = f"arc_challenge/{split}/{fields['id']}"
    return Example(name, show_options(stem, texts), letter, answer_sentence(letter), tuple(texts))


def _question(row: Mapping[str, Any], where: str) -> tuple[str, list[str], list[str]]:
    """Stem, labels and texts of the choices."""
    question = row.get("question")
    if isinstance(question, Mapping):
        stem, choices = question.get("stem"), question.get("choices")
    else:
        stem, choices = question, row.get("choices")
    if isinstance(choices, Mapping):
        labels, texts = choices.get("label"), choices.get("text")
        if not isinstance(labels, list) or not isinstance(texts, list) or len(labels) != len(texts):
            raise UserError(f"{where}: expected as many labels as texts of choices")
        choices = [{"label": label, "text": text} for label, text in zip(labels, texts, strict=True)]
    if not isinstance(choices, list):
        raise UserError(f"{where}: expected choices with a label and a text each")
    pairs = [check_fields(choice, ("label", "text"), where) for choice in choices]
    asked = check_fields({"question": stem}, ("question",), where)["question"]
    return asked, [pair["label"] for pair in pairs], [pair["text"] for pair in pairs]


def _rows(split: str, source: str, path: Path | None) -> Iterator[tuple[object, str]]:
    if path is None:
        instead = "a folder with train, validation and test.jsonl, or one .jsonl file"
        rows = enumerate(hub_rows(source, HUB_CONFIG, HUB_SPLITS[split], instead))
        yield from ((dict(row), f"{source} {HUB_SPLITS[split]} row {number}") for number, row in rows)
    else:
        path = first_of(path, FILES[split]) if path.is_dir() else path
        yield from ((row, f"{path}:{number + 1}") for number, row in read_values(path))


def _examples(split: str, source: str, path: Path | None) -> list[Example]:
    pairs = [(make_example(row, split, where), where) for row, where in _rows(split, source, path)]
    examples = [example for example, _ in pairs]
    check_ids(examples, [where for _, where in pairs])
    return examples


def _split(split: str, source: str | None) -> tuple[list[Example], list[NearDuplicate]]:
    """The rows of a split, and those left out as near duplicates of a later split. A file is the split itself."""
    check_split(split)
    source = HUB_ID if source is None else source
    path = local_path(source)
    if path is not None and not path.is_dir():
        return _examples(split, source, path), []

    def rows_of(name: str) -> list[Example]:
        there = path is None or name == split or any((path / file).is_file() for file in FILES[name])
        return _examples(name, source, path) if there else []

    return split_without(split, rows_of)


def load(split: str, source: str | None = None, settings: TaskSettings = TaskSettings()) -> list[Example]:
    """Examples of an official split: a hub id, a folder, or one ``.jsonl`` file; dev is called validation there.

    Near duplicates (``duplicates.py``) of dev and test rows are left out of train, and those of test rows out of dev:
    four train rows and one dev row of the official files. ``left_out`` names them.

    With ``arc_rationale=worldtree``, explanations are joined by id from the same split of the release in the folder
    ``worldtree``. About three questions in five have one. Train and dev leave out the others, so that a prompt is tuned
    and chosen on one kind of target. Test is whole, so the reported rows do not depend on how a prompt was tuned.

    Raises:
        UserError: for an unknown split, a source that cannot be loaded, a malformed row, or two rows with one id.
    """
    examples, _ = _split(split, source)
    if settings.worldtree is None:
        return examples
    explanations = read_explanations(Path(settings.worldtree).expanduser(), split)
    joined = [_explained(example, explanations) for example in examples]
    return [example for example in joined if split == "test" or example.rationale]


def left_out(split: str, source: str | None = None) -> list[NearDuplicate]:
    """The rows of a split that ``load`` leaves out as near duplicates of rows of a later split."""
    return _split(split, source)[1]


def _explained(example: Example, explanations: Mapping[str, str]) -> Example:
    explanation = explanations.get(example.id.split("/", 2)[2])
    return replace(example, rationale=explained(explanation, example.answer))


TASK = Task(
    name="arc_challenge",
    default_source=HUB_ID,
    max_new_tokens=400,  # the longest explanation joined has 22 facts
    load=load,
    prompt=prompt,
    target=target,
    score=score,
    left_out=left_out,
)
