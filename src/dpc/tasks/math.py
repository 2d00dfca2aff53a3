r"""MATH: competition mathematics (Hendrycks et al. 2021, arXiv:2103.03874).

A row in the format of the official files, made up::

    {"problem": "If $3x - 4 = 17$, what is $x$?", "level": "Level 1", "type": "Algebra",
     "solution": "Adding $4$ gives $3x = 21$, so $x = \\boxed{7}$."}

and in that of the 500 test problems of Lightman et al. 2023 (arXiv:2305.20050), the hub's HuggingFaceH4/MATH-500, which
names the answer as well: ``{"problem", "solution", "answer": "7", "subject": "Algebra", "level": 1, "unique_id"}``.

The authors' copy on the hub, hendrycks/competition_math, was taken down in January 2025 after a copyright notice. The
default here, EleutherAI/hendrycks_math, was another copy at that time. If it is gone as well, pass a folder or a file.
The authors published the data under the MIT license; check whether you may use it.

Official grader, which compares spellings:
https://github.com/hendrycks/math/blob/08e65fc48dee2821625f466674f6abffc754e334/modeling/math_equivalence.py
Here, answers are compared by spelling and exact arithmetic (``latex.py``, ``numerals.py``, ``units.py``), and else by
math-verify 0.9.0 in a worker process with a time limit (``equality.py``):
https://github.com/huggingface/Math-Verify/tree/5871e2d485e90ffe39dd3555b87dfada6af89565
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dpc.errors import UserError
from dpc.settings import TaskSettings
from dpc.tasks.base import Task, check_fields, check_split, graded, read_values
from dpc.tasks.boxed import boxed_answer, stated_answer
from dpc.tasks.equality import answers_equal
from dpc.tasks.rows import first_of, read_json
from dpc.tasks.sources import hub_rows, local_path, spread, train_or_dev
from dpc.types import Example, Score

HUB_ID = "EleutherAI/hendrycks_math"
MATH_500 = "HuggingFaceH4/MATH-500"
SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
# Where the last box is not the answer: here boxes are an operator that the problem defines.
ERRATA = {"test/prealgebra/177.json": "6"}
FILES = {"train": ("train.jsonl",), "test": ("test.jsonl", "test_500.jsonl")}
INSTEAD = "a folder with train.jsonl and test.jsonl, one with the official folders train and test, or one .jsonl file"


def make_example(row: object, example_id: str, where: str) -> Example | None:
    """An example of a row; None where its solution boxes no answer and no field ``answer`` gives one.

    Raises:
        UserError: starting with ``where``, for a row without a problem, or with neither solution nor answer.
    """
    fields = ("problem", "answer") if isinstance(row, Mapping) and "solution" not in row else ("problem", "solution")
    checked = check_fields(row, fields, where)
    assert isinstance(row, Mapping)
    if "answer" in row:
        gold: str | None = check_fields(row, ("answer",), where)["answer"]
    else:
        gold = ERRATA.get(str(row.get("unique_id"))) or boxed_answer(checked["solution"])
    if gold is None:
        return None
    return Example(example_id, checked["problem"], gold, rationale=checked.get("solution"))


def load(split: str, source: str | None = None, settings: TaskSettings = TaskSettings()) -> list[Example]:
    """Examples of ``split``: a hub id, a folder with ``train.jsonl`` and ``test.jsonl``, or one ``.jsonl`` file.

    A folder may also be the official release: ``train`` and ``test``, with a folder a subject and a file a problem.
    MATH has no validation split: dev is drawn from the train rows (``draw_dev``), and train is the rest. The files are
    sorted by subject, so examples come in a fixed order drawn by a hash, and the first hundred cover all subjects. Ids
    name the rows of the file. No setting is used.

    Two solutions of the official train file have no box. Such rows are left out of train and dev, because a prompt
    would learn from them to give no answer. In test, a row that cannot be graded is an error.

    Raises:
        UserError: for an unknown split, a source that cannot be loaded, a malformed row, a test row without an answer.
    """
    check_split(split)
    source = HUB_ID if source is None else source
    path = local_path(source)
    file_split = "test" if split == "test" else "train"
    rows: Iterable[tuple[str, Any]]
    if path is None:
        rows = _from_hub(source, file_split)
    elif not path.is_dir():
        return spread("math", _readable(_from_file(path), split))
    elif (path / file_split).is_dir():
        rows = _from_official(path / file_split)
    else:
        rows = _from_file(first_of(path, FILES[file_split]))
    examples = _readable(rows, file_split)
    return spread("math", examples if split == "test" else train_or_dev("math", examples, split, source))


def _readable(rows: Iterable[tuple[str, Any]], split: str) -> list[Example]:
    """An example of every row with an answer; ids count all rows. ``UserError`` for a test row without one."""
    examples = []
    for number, (where, row) in enumerate(rows):
        example = make_example(row, f"math/{split}/{number}", where)
        if example is not None:
            examples.append(example)
        elif split == "test":
            raise UserError(rf"{where}: no \boxed{{...}} in 'solution' holds an answer; add a field 'answer'")
    return examples


def _from_file(path: Path) -> Iterator[tuple[str, Any]]:
    return ((f"{path}:{number + 1}", row) for number, row in read_values(path))


def _from_official(folder: Path) -> Iterator[tuple[str, Any]]:
    files = sorted(folder.glob("*/*.json"), key=lambda path: (path.parent.name, len(path.stem), path.stem))
    for path in files:
        row, name = read_json(path), "/".join(path.parts[-3:])
        yield str(path), row | {"unique_id": name} if isinstance(row, dict) else row


def _from_hub(source: str, split: str) -> Iterator[tuple[str, Any]]:
    if source == MATH_500 and split != "test":
        raise UserError(f"{source}: has test rows alone; pass {INSTEAD} for the rows to tune on")
    configs = SUBJECTS if source == HUB_ID else (None,)
    for config in configs:
        for number, row in enumerate(hub_rows(source, config, split, INSTEAD)):
            yield " ".join(filter(None, (source, config, split, f"row {number}"))), row


def prompt(example: Example) -> str:
    """The text before the rationale."""
    return f"Problem: {example.question}\nSolution:"


def target(example: Example) -> str:
    """The official solution as it follows the prompt; ``UserError`` if the example has none."""
    if example.rationale is None:
        raise UserError(f"{example.id}: has no solution to tune on; use a split whose rows have one")
    return f" {example.rationale}"


def score(example: Example, text: str) -> Score:
    r"""Grade ``text`` by its last ``\boxed{...}``; without a box there is no answer, as in the official evaluation."""
    return graded(boxed_answer(text), lambda answer: answers_equal(example.answer, answer))


def score_flexible(example: Example, text: str) -> Score:
    """Grade ``text`` by its box or, without one, by what it says the answer is, or its last formula."""
    return graded(stated_answer(text), lambda answer: answers_equal(example.answer, answer))


TASK = Task(
    name="math",
    default_source=HUB_ID,
    max_new_tokens=1024,  # most gold solutions; some with code of figures are longer
    load=load,
    prompt=prompt,
    target=target,
    score=score,
    also_graded={"flexible": score_flexible},
)
