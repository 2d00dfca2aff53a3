r"""AQuA-RAT: algebraic word problems with five options and a rationale (Ling et al. 2017, arXiv:1705.04146).

Row 43 of the test file::

    {"question": "I know a 5 digit number having a property that with a 1 after it, it is three times as large as it"
                 " would be with a 1 before it.\nWhat is that number?",
     "options": ["A)42857", "B)32456", "C)76523", "D)24567", "E)43566"],
     "rationale": "Let the number be x\n10x +1 = 3(100,000 + x)\n=> x = 42857.", "correct": "A"}

License: Apache 2.0. Source: https://github.com/google-deepmind/AQuA/blob/6e99097ff2e05b406f4ddca8cbf25e7e9efb7cb5/README.md
There is no official grader: a prediction is a letter, right or wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from dpc.errors import UserError
from dpc.settings import TaskSettings
from dpc.tasks.base import NearDuplicate, Task, check_fields, check_split, read_values
from dpc.tasks.choices import LETTERS, check_choices, end_with_answer, prompt, score, show_options, target
from dpc.tasks.duplicates import LATER, split_without
from dpc.tasks.rows import first_of, read_cells
from dpc.tasks.sources import hub_rows, local_path
from dpc.types import Example

HUB_ID = "deepmind/aqua_rat"
HUB_CONFIG = "raw"
HUB_SPLITS = {"train": "train", "dev": "validation", "test": "test"}
FILES = {
    "train": ("train.jsonl", "train.json", "train_flan_cot.tsv", "aqua_train.tsv"),
    "dev": ("dev.jsonl", "dev.json", "validation.jsonl"),
    "test": ("test.jsonl", "test.json"),
}

_FLAN_OPTION = re.compile(r"\n\(([A-E])\)")


def make_example(row: dict[str, Any], example_id: str, where: str) -> Example:
    """An example of a row in the official format; ``UserError`` starting with ``where`` if it is malformed.

    Options lose their letters, also a doubled one (``A)A)59``). The rationale ends with ``The answer is (A).``, in
    place of what it ended with: ``ANSWER:A``, ``Ans is A.``, ``A is correct``, a number for the letter, or nothing.
    """
    fields = check_fields(row, ("question", "correct"), where)
    options, rationale = row.get("options"), row.get("rationale")
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise UserError(f"{where}: the field 'options' must be a list of strings")
    if not isinstance(rationale, str):
        raise UserError(f"{where}: the field 'rationale' must be a string")
    check_choices(options, fields["correct"], where)
    texts = [_without_label(option, letter, where) for letter, option in zip(LETTERS, options, strict=False)]
    return _example(example_id, fields["question"], texts, fields["correct"], rationale)


def _without_label(option: str, letter: str, where: str) -> str:
    text = re.sub(rf"^(?:\s*{letter}\))+", "", option).strip()
    other = re.match(rf"\s*(?!{letter})([{LETTERS}])\)", option)
    if other:
        raise UserError(f"{where}: the option {option!r} stands in the place of {letter}; put options in order")
    return text


def _example(example_id: str, question: str, options: list[str], letter: str, rationale: str) -> Example:
    gold = options[LETTERS.index(letter)]
    body = rationale.rstrip()
    numbered = re.search(r"(?:^|\n) *(?i:answer|ans) ?[:=] ?([1-5])\W*$", body)
    if numbered and numbered[1] != gold:
        body = body[: numbered.start()]
    shown = show_options(question.strip(), options)
    return Example(example_id, shown, letter, end_with_answer(body, letter), tuple(options))


def _flan_example(cells: list[str], example_id: str, where: str) -> Example:
    r"""An example of a row of FLAN's file: question with options, answer, rationale; ``\n`` is a backslash and an n."""
    if len(cells) != 3:
        raise UserError(f"{where}: has {len(cells)} columns; expected question with options, (letter), rationale")
    asked, answer, rationale = (cell.replace("\\n", "\n") for cell in cells)
    question, _, listed = asked.rpartition("\nOptions:")
    _, *labelled = _FLAN_OPTION.split(listed)
    options = [text.strip() for text in labelled[1::2]]
    if not question or labelled[::2] != list(LETTERS[: len(options)]) or not re.fullmatch(r"\([A-E]\)", answer):
        raise UserError(rf"{where}: expected a question, '\nOptions:\n(A) ...', and an answer such as (A)")
    check_choices(options, answer[1], where)
    return _example(example_id, question, options, answer[1], rationale)


def _from_file(path: Path, split: str) -> list[Example]:
    prefix = f"aqua/{split}"
    if path.suffix == ".tsv":
        return [_flan_example(row, f"{prefix}/{n}", f"{path}:{n + 1}") for n, row in read_cells(path)]
    return [make_example(row, f"{prefix}/{n}", f"{path}:{n + 1}") for n, row in read_values(path)]


def _from_hub(source: str, split: str) -> Iterator[Example]:
    name = HUB_SPLITS[split]
    instead = "a folder with train, dev and test.jsonl, or one .jsonl or .tsv file"
    for number, row in enumerate(hub_rows(source, HUB_CONFIG, name, instead)):
        yield make_example(dict(row), f"aqua/{split}/{number}", f"{source} {name} row {number}")


def _split(split: str, source: str | None) -> tuple[list[Example], list[NearDuplicate]]:
    """The rows of a split, and those left out as near duplicates of a later split. A file is the split itself."""
    check_split(split)
    source = HUB_ID if source is None else source
    path = local_path(source, (".jsonl", ".json", ".tsv"))
    if path is not None and not path.is_dir():
        return _from_file(path, split), []

    @cache
    def rows_of(name: str) -> list[Example]:
        if path is None:
            return list(_from_hub(source, name))
        there = name == split or any((path / file).is_file() for file in FILES[name])
        return _from_file(first_of(path, FILES[name]), name) if there else []

    examples, near = split_without(split, rows_of)
    asked = {_asked(example): example.id for name in LATER[split] for example in rows_of(name)}
    again = [NearDuplicate(row.id, asked[_asked(row)], 1.0) for row in examples if _asked(row) in asked]
    names = {duplicate.row for duplicate in again}
    return [example for example in examples if example.id not in names], near + again


def load(split: str, source: str | None = None, settings: TaskSettings = TaskSettings()) -> list[Example]:
    """Examples of an official split: a hub id, a folder, or one file (``.jsonl``, ``.json`` of lines, FLAN's ``.tsv``).

    Train is the folder's ``train.jsonl`` (or ``train.json``), or, where it has none, the 2,728 train rows as the Flan
    Collection cleaned them (``train_flan_cot.tsv``). Ids count all rows of the file. A single file is the split itself.
    No setting is used.

    Left out of train are near duplicates (``duplicates.py``) of dev and test rows, and rows with the question of a dev
    or test row and other options; left out of dev are such rows of test. These are nine of FLAN's rows and none of the
    official dev rows. ``left_out`` names them.

    Raises:
        UserError: for an unknown split, a source that cannot be loaded, or a malformed row.
    """
    return _split(split, source)[0]


def left_out(split: str, source: str | None = None) -> list[NearDuplicate]:
    """The rows of a split that ``load`` leaves out as near duplicates of rows of a later split."""
    return _split(split, source)[1]


def _asked(example: Example) -> str:
    """Letters and digits of the question alone, without its options: copies differ in spaces and signs (4√3 cm^2)."""
    options = show_options("", example.choices)
    return re.sub(r"[\W_]+", "", example.question.removesuffix(options)).casefold()


TASK = Task(
    name="aqua",
    default_source=HUB_ID,
    max_new_tokens=400,  # the longest gold target of all files here has 873 characters, many of them digits
    load=load,
    prompt=prompt,
    target=target,
    score=score,
    left_out=left_out,
)
