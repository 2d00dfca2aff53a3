r"""GSM8K: grade-school word problems (Cobbe et al. 2021, arXiv:2110.14168).

Row 1149 of the test file; ``<<...>>`` are calculator marks::

    {"question": "Jen got 3 fish.  They each need $1 worth of food a day.  How much does she spend on food in the month"
                 " of May?",
     "answer": "He spends 3*1=$<<3*1=3>>3 on food a day\nSo he spends 3*31=$<<3*31=93>>93 a month\n#### 93"}

Official grader: https://github.com/openai/grade-school-math/blob/2909d34ef28520753df82a2234c357259d254aa8/grade_school_math/dataset.py
"""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

from dpc.errors import UserError
from dpc.settings import TaskSettings
from dpc.tasks.base import Task, check_fields, check_split, graded, read_jsonl
from dpc.tasks.sources import hub_rows, local_path, train_or_dev
from dpc.types import Example, Score

HUB_ID = "openai/gsm8k"
HUB_CONFIG = "main"
FIELDS = ("question", "answer")

_SIGN = "[-+−–]"
_PREFIX = f"{_SIGN}?[$€£¥¢]?{_SIGN}?"
_STRICT = re.compile(rf"####[^\S\n]*({_PREFIX}[.,]*[0-9][0-9.,]*)")
# After a digit or a bracket a minus subtracts: "20-13" ends in 13.
_FLEXIBLE = re.compile(rf"(?:(?<![0-9)])|(?!{_SIGN}))({_PREFIX}\.?[0-9][0-9.,]*)")
_NEXT_QUESTION = re.compile(r"\n\s*Question:")
_MARK = re.compile(r"<<[^<>\n]*>>")
_DROPPED = re.compile("[,$€£¥¢%\u200b]")
_DECIMAL = re.compile(r"-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")


def normalize_number(text: str) -> str | None:
    """``text`` as a plain decimal numeral, or None where it is none.

    Dropped are thousands commas, outer spaces, currency and percent signs, a leading plus and a trailing period. U+2212
    and the en dash become a minus. Exponents, infinities and NaN are no numerals, so every comparison is fast and
    defined.
    """
    text = _DROPPED.sub("", text).strip().replace("−", "-").replace("–", "-")
    text = text.removeprefix("+").rstrip(".")
    return text if _DECIMAL.fullmatch(text) else None


def numbers_equal(first: str, second: str) -> bool:
    """Whether both texts are numerals of the same value, exactly: 1,080 is 1080.0, and 711 is not 11."""
    left, right = normalize_number(first), normalize_number(second)
    return left is not None and right is not None and Decimal(left) == Decimal(right)


def extract_strict(text: str) -> str | None:
    """The number of the first ``#### N``, normalised; None where there is none. What follows it is ignored.

    Every number that the official grader reads is read. A currency sign, a Unicode minus, a plus, and more or less than
    one space before the number are accepted too, because they do not change the answer.
    """
    match = _STRICT.search(text)
    return normalize_number(match[1]) if match else None


def extract_flexible(text: str) -> str | None:
    """The last number of ``text``, normalised; None where there is none.

    As ``flexible-extract`` of lm-evaluation-harness (``lm_eval/tasks/gsm8k/gsm8k.yaml``), but a minus between two
    numbers is subtraction. What follows a next ``Question:`` is not read, as there. ``score`` does not use it, because
    it also finds a number in texts that state no answer.
    """
    matches = _FLEXIBLE.findall(_NEXT_QUESTION.split(text, maxsplit=1)[0])
    return normalize_number(matches[-1]) if matches else None


def make_example(row: dict[str, str], example_id: str, where: str) -> Example:
    """An example of a row in GSM8K's format; ``UserError`` starting with ``where`` if no ``#### N`` is in its answer.

    Calculator marks are removed from the rationale: no calculator runs during generation, and without one they only
    repeat each result. The last line stays ``#### N``, as in the file.
    """
    gold = extract_strict(row["answer"])
    if gold is None:
        raise UserError(f"{where}: the answer has no '#### N'; end it with a line such as '#### 42'")
    return Example(example_id, row["question"], gold, rationale=_MARK.sub("", row["answer"]))


def read_examples(path: Path, prefix: str) -> list[Example]:
    """Every row of a local file in GSM8K's format, with ids ``prefix/row``, rows counted from 0."""
    return [make_example(row, f"{prefix}/{number}", f"{path}:{number + 1}") for number, row in read_jsonl(path, FIELDS)]


def load(split: str, source: str | None = None, settings: TaskSettings = TaskSettings()) -> list[Example]:
    """Examples of ``split``: a hub id, a directory with ``train.jsonl`` and ``test.jsonl``, or one ``.jsonl`` file.

    GSM8K has no validation split: dev is drawn from the train file (``draw_dev``), and train is the rest. Their ids
    name the train file's rows. A single file is the split itself. No setting is used.

    Raises:
        UserError: for an unknown split, a source that cannot be loaded, or a malformed row.
    """
    check_split(split)
    source = HUB_ID if source is None else source
    path = local_path(source)
    file_split = "test" if split == "test" else "train"
    if path is None:
        examples = _from_hub(source, file_split)
    elif path.is_dir():
        examples = read_examples(path / f"{file_split}.jsonl", f"gsm8k/{file_split}")
    else:
        return read_examples(path, f"gsm8k/{split}")
    return examples if split == "test" else train_or_dev("gsm8k", examples, split, source)


def _from_hub(source: str, split: str) -> list[Example]:
    instead = "a directory with train.jsonl and test.jsonl, or one .jsonl file"
    examples = []
    for number, row in enumerate(hub_rows(source, HUB_CONFIG, split, instead)):
        where = f"{source} {split} row {number}"
        examples.append(make_example(check_fields(row, FIELDS, where), f"gsm8k/{split}/{number}", where))
    return examples


def prompt(example: Example) -> str:
    """The text before the rationale."""
    return f"Question: {example.question}\nAnswer:"


def target(example: Example) -> str:
    """The rationale as it follows the prompt; ``UserError`` if the example has none."""
    if example.rationale is None:
        raise UserError(f"{example.id}: has no rationale to tune on; use a split whose rows have one")
    return f" {example.rationale}"


def score(example: Example, text: str) -> Score:
    """Grade ``text`` by its first ``#### N``, compared as a number with the gold answer."""
    return graded(extract_strict(text), lambda number: numbers_equal(number, example.answer))


def score_flexible(example: Example, text: str) -> Score:
    """Grade ``text`` by its last number, stated as the answer or not. It differs from ``score`` by the format alone."""
    return graded(extract_flexible(text), lambda number: numbers_equal(number, example.answer))


TASK = Task(
    name="gsm8k",
    default_source=HUB_ID,
    max_new_tokens=400,  # the longest gold rationale has 1,146 characters
    load=load,
    prompt=prompt,
    target=target,
    score=score,
    also_graded={"flexible": score_flexible},
)
