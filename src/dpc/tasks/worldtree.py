"""WorldTree V2.1: science exam questions, each with the facts that explain its answer (Xie et al. 2020, LREC).

Four of the 16 columns of row 35 of the train questions (those that are not Mercury's), tabs shown as line ends, and
the facts in ``tables/*.tsv`` that its uids name::

    QuestionID   NYSEDREGENTS_2007_8_26
    AnswerKey    3
    explanation  e682-f47d-cc9c-a67c|CENTRAL 406d-464a-cfa5-7b67|GROUNDING
    question     The length of a year is equivalent to the time it takes for one (1) rotation of Earth (2) rotation of
                 the Sun (3) revolution of Earth around the Sun (4) revolution of the Sun around Earth

    a complete revolution or orbit of the Earth around the sun takes 1 or one year or solar year or Earth year
    years are a kind of unit for measuring time

License: tables and explanations CC BY-SA 4.0; questions of the Mercury set may not be passed on. So the hub has no
complete copy: get the release from http://www.cognitiveai.org/explanationbank and pass its folder.
Official code, which ranks facts and counts every fact of an explanation, whatever its role:
https://github.com/cognitiveailab/tg2020task/blob/39b3a17fb8e51222cd3bfc3dfd8238825e786d3b/evaluate.py
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from dpc.errors import UserError
from dpc.settings import TaskSettings
from dpc.tasks.base import NearDuplicate, Task, check_ids, check_split
from dpc.tasks.choices import LETTERS, answer_sentence, check_choices, prompt, score, show_options, target
from dpc.tasks.duplicates import split_without
from dpc.tasks.rows import read_cells, read_table
from dpc.types import Example

QUESTION_COLUMNS = ("QuestionID", "AnswerKey", "explanation", "question")
QUESTION_FILES = ("questions.{}.tsv", "questions.{}.non_mercury.tsv")
RELEASE = "http://www.cognitiveai.org/explanationbank"

_ALTERNATIVES = re.compile(r" *; *")


def to_letter(label: str) -> str:
    """The letter of a choice: some exams number theirs from 1, and models are asked with letters alone."""
    return LETTERS[int(label) - 1] if label in ("1", "2", "3", "4", "5") else label


def split_choices(text: str, key: str) -> tuple[str, list[str]]:
    """Stem and option texts of a question that has its options in line: ``Which ...? (A) ... (B) ...``.

    Labels are digits where the answer ``key`` is one. They are looked for in their order, from the last first label on,
    so that ``(Ca)``, ``(I)`` or ``(S)`` in the text of an option ends none.
    """
    labels = [f"({label})" for label in ("12345" if key.isdigit() else LETTERS)]
    stem, first, rest = text.rpartition(labels[0])
    if not first:
        return text, []
    options = []
    for label in labels[1:]:
        option, found, rest = rest.partition(label)
        options.append(option.strip())
        if not found:
            return stem.strip(), options
    return stem.strip(), [*options, rest.strip()]


def read_facts(folder: Path, uids: Collection[str]) -> dict[str, str]:
    """The facts of ``uids`` in a tablestore, every table in a folder ``tables`` of the release, without withdrawn rows.

    A fact is its row's cells joined by spaces, without the columns that are marked ``[SKIP]``. Alternatives in a cell
    (``matter; a substance``) are joined by "or". Of two rows with one uid, the first that stands counts.
    """
    tables = sorted(folder.rglob("tables/*.tsv"))
    if not tables:
        raise UserError(f"{folder}: has no tables/*.tsv; pass the folder of the WorldTree release ({RELEASE})")
    facts: dict[str, str] = {}
    for path in tables:
        for uid, fact in _table_facts(path, uids):
            facts.setdefault(uid, fact)
    return facts


def _table_facts(path: Path, uids: Collection[str]) -> Iterator[tuple[str, str]]:
    lines = read_cells(path)
    header = [name.strip() for name in next(lines)[1]]
    if "[SKIP] UID" not in header:
        raise UserError(f"{path}:1: the column '[SKIP] UID' is missing; take the table as it was released")
    key = header.index("[SKIP] UID")
    withdrawn = [column for column, name in enumerate(header) if name == "[SKIP] DEP"]
    shown = [column for column, name in enumerate(header) if not name.startswith("[SKIP]")]
    for number, cells in lines:
        if len(cells) != len(header):
            raise UserError(f"{path}:{number + 1}: has {len(cells)} columns, its header {len(header)}; mend the row")
        if cells[key].strip() in uids and not any(cells[column].strip() for column in withdrawn):
            yield cells[key].strip(), _sentence([cells[column] for column in shown])


def _sentence(cells: list[str]) -> str:
    parts = (_ALTERNATIVES.sub(" or ", cell.strip(" ;")) for cell in cells)
    text = re.sub(r" +", " ", " ".join(part for part in parts if part))
    return re.sub(r" (?=[,)])|(?<=\() ", "", text)


def join_explanation(cell: str, facts: Mapping[str, str]) -> str | None:
    """The facts that a cell of ``uid|ROLE`` pairs names, one a line, in its order; None where it names none.

    Every role counts, as in the official evaluation; a fact that is named twice stands once. Uids that no standing row
    has are left out: the release cites a single row that it has withdrawn itself.
    """
    lines = [facts[uid] for uid in _uids([cell]) if uid in facts]
    return "\n".join(lines) if lines else None


def _uids(cells: Iterable[str]) -> dict[str, None]:
    """What ``uid|ROLE`` pairs name, each once, in order."""
    return dict.fromkeys(pair.partition("|")[0] for cell in cells for pair in cell.split())


def read_explanations(folder: Path, split: str) -> dict[str, str]:
    """Explanations of a split by QuestionID, for the questions that have one.

    Read from ``explanations.SPLIT.tsv``, where the release was cut down to that, or from the questions.

    Raises:
        UserError: where the folder is no WorldTree release, or names no explanation whose facts it has.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: is no folder; pass that of the WorldTree release ({RELEASE})")
    path = _file_of(folder, split, ("explanations.{}.tsv", "questions.{}.tsv", "questions.{}.non_mercury.tsv"))
    cells: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, row in read_table(path, ("QuestionID", "explanation")):
        name, line = row["QuestionID"], number + 2
        if lines.setdefault(name, line) != line:
            raise UserError(f"{path}:{line}: explains {name!r} again, after line {lines[name]}; keep one of them")
        cells[name] = row["explanation"]
    facts = read_facts(folder, _uids(cells.values()))
    joined = {name: join_explanation(cell, facts) for name, cell in cells.items()}
    if not any(joined.values()):
        raise UserError(f"{path}: none of its explanations names a fact of {folder}; pass a folder with both")
    return {name: explanation for name, explanation in joined.items() if explanation}


def _file_of(folder: Path, split: str, names: tuple[str, ...]) -> Path:
    wanted = [name.format(split) for name in names]
    for name in wanted:
        found = sorted(folder.rglob(name), key=lambda path: (len(path.parts), path))
        if found:
            return found[0]
    raise UserError(f"{folder}: has none of {', '.join(wanted)}; pass the folder of the WorldTree release ({RELEASE})")


def explained(explanation: str | None, letter: str) -> str | None:
    """A rationale: the facts, one a line, and the sentence with the answer; None without facts."""
    return f"{explanation}\n{answer_sentence(letter)}" if explanation else None


def make_example(row: Mapping[str, str], split: str, facts: Mapping[str, str], where: str) -> Example:
    """An example of a row of the questions; ``UserError`` starting with ``where`` if it is malformed."""
    stem, options = split_choices(row["question"], row["AnswerKey"])
    letter = to_letter(row["AnswerKey"])
    check_choices(options, letter, where)
    if not row["QuestionID"] or not stem:
        raise UserError(f"{where}: has no QuestionID or no question; mend or delete the row")
    rationale = explained(join_explanation(row["explanation"], facts), letter)
    name = f"worldtree/{split}/{row['QuestionID']}"
    return Example(name, show_options(stem, options), letter, rationale, tuple(options))


def _examples(folder: Path, path: Path, split: str) -> list[Example]:
    """Every row of a file of questions, with the explanations of the release in ``folder``."""
    rows = list(read_table(path, QUESTION_COLUMNS))
    facts = read_facts(folder, _uids(row["explanation"] for _, row in rows))
    places = [f"{path}:{number + 2}" for number, _ in rows]
    examples = [make_example(row, split, facts, where) for (_, row), where in zip(rows, places, strict=True)]
    check_ids(examples, places)
    return examples


def _split(split: str, source: str | None) -> tuple[list[Example], list[NearDuplicate]]:
    """The rows of a split, and those left out as near duplicates of a later split. A file is the split itself."""
    check_split(split)
    path = Path(source).expanduser() if source else None
    if path is None or not path.exists():
        missing = "is not on the hub, part of it may not be passed on" if path is None else f"{source!r} is not there"
        raise UserError(f"worldtree: {missing}: pass as data the folder of the release ({RELEASE})")
    folder = path
    if not folder.is_dir():
        return _examples(folder.parent, folder, split), []

    def rows_of(name: str) -> list[Example]:
        there = name == split or any(True for pattern in QUESTION_FILES for _ in folder.rglob(pattern.format(name)))
        return _examples(folder, _file_of(folder, name, QUESTION_FILES), name) if there else []

    return split_without(split, rows_of)


def load(split: str, source: str | None = None, settings: TaskSettings = TaskSettings()) -> list[Example]:
    """Examples of an official split: the folder of a release, or one file of questions with ``tables`` beside it.

    In the folder or below it are ``questions.SPLIT.tsv`` (or ``questions.SPLIT.non_mercury.tsv``, the rows that may be
    passed on) and ``tables/*.tsv``. Questions without an explanation are left out of train and dev; test is whole. Near
    duplicates (``duplicates.py``) of dev and test rows are left out of train, and those of test rows out of dev: five
    train rows of those that may be passed on. ``left_out`` names them. No setting is used.

    Raises:
        UserError: for an unknown split, a source that is not there, a malformed row, or two rows with one id.
    """
    examples, _ = _split(split, source)
    return [example for example in examples if split == "test" or example.rationale]


def left_out(split: str, source: str | None = None) -> list[NearDuplicate]:
    """The rows of a split that ``load`` leaves out as near duplicates of rows of a later split."""
    return _split(split, source)[1]


TASK = Task(
    name="worldtree",
    default_source="",
    max_new_tokens=400,  # the longest explanation of all has 22 facts
    load=load,
    prompt=prompt,
    target=target,
    score=score,
    left_out=left_out,
)
