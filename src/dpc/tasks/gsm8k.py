r"""GSM8K: grade-school word problems (Cobbe et al. 2021, arXiv:2110.14168).

Row 1149 of the test file; ``<<...>>`` are calculator marks::

    {"question": "Jen got 3 fish.  They each need $1 worth of food a day.  How much does she spend on food in the month"
                 " of May?",
     "answer": "He spends 3*1=$<<3*1=3>>3 on food a day\nSo he spends 3*31=$<<3*31=93>>93 a month\n#### 93"}

Official grader: https://github.com/openai/grade-school-math/blob/2909d34ef28520753df82a2234c357259d254aa8/grade_school_math/dataset.py
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

from dpc.errors import UserError
from dpc.tasks.base import Task, check_fields, check_split, read_jsonl
from dpc.types import Example, Score

HUB_ID = "openai/gsm8k"
HUB_CONFIG = "main"
FIELDS = ("question", "answer")
DEV_ROWS = 500

_SIGN = "[-+−–]"
_PREFIX = f"{_SIGN}?[$€£¥¢]?{_SIGN}?"
_STRICT = re.compile(rf"####[^\S\n]*({_PREFIX}[.,]*[0-9][0-9.,]*)")
# After a digit or a bracket a minus subtracts: "20-13" ends in 13.
_FLEXIBLE = re.compile(rf"(?:(?<![0-9)])|(?!{_SIGN}))({_PREFIX}\.?[0-9][0-9.,]*)")
_MARK = re.compile(r"<<[^<>\n]*>>")
_DROPPED = re.compile("[,$€£¥¢%\u200b]")
_DECIMAL = re.compile(r"-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")


def normalize_number(text: str) -> str | None:
    """``text`` as a plain decimal numeral, or None where it is none.

    Dropped: thousands commas, outer spaces, currency and percent signs, a leading plus, a trailing period. U+2212 and
    the en dash become a minus. No exponents, infinities or NaN: no comparison is slow or undefined.
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

    Every number that the official grader reads is read. Beyond it, a currency sign, a Unicode minus, a plus, and
    more or less than one space before the number are accepted: they are ways to write the answer, not other answers.
    """
    match = _STRICT.search(text)
    return normalize_number(match[1]) if match else None


def extract_flexible(text: str) -> str | None:
    """The last number of ``text``, normalised; None where there is none.

    As ``flexible-extract`` of lm-evaluation-harness (``lm_eval/tasks/gsm8k/gsm8k.yaml``), but a minus between two
    numbers belongs to neither. Not used by ``score``: it also grades texts that never state an answer.
    """
    matches = _FLEXIBLE.findall(text)
    return normalize_number(matches[-1]) if matches else None


def make_example(row: dict[str, str], example_id: str, where: str) -> Example:
    """An example of a row in GSM8K's format; ``UserError`` starting with ``where`` if no ``#### N`` is in its answer.

    Calculator marks are removed from the rationale: no calculator runs while a model answers, and without one they say
    every result twice. The last line stays ``#### N``, as in the file.
    """
    gold = extract_strict(row["answer"])
    if gold is None:
        raise UserError(f"{where}: the answer has no '#### N'; end it with a line such as '#### 42'")
    return Example(example_id, row["question"], gold, rationale=_MARK.sub("", row["answer"]))


def read_examples(path: Path, prefix: str) -> list[Example]:
    """Every row of a local file in GSM8K's format, with ids ``prefix/row``, rows counted from 0."""
    return [make_example(row, f"{prefix}/{number}", f"{path}:{number + 1}") for number, row in read_jsonl(path, FIELDS)]


def load(split: str, source: str | None = None) -> list[Example]:
    """Examples of ``split``: a hub id, a directory with ``train.jsonl`` and ``test.jsonl``, or one ``.jsonl`` file.

    GSM8K has no validation split: dev is 500 rows of the train file (at most a fifth of it), drawn once by a hash of
    the row number, and train is the rest. Their ids name the train file's rows. A single file is the split itself.

    Raises:
        UserError: for an unknown split, a source that cannot be loaded, or a malformed row.
    """
    check_split(split)
    source = HUB_ID if source is None else source
    path = Path(source).expanduser()
    file_split = "test" if split == "test" else "train"
    if path.is_dir():
        examples = read_examples(path / f"{file_split}.jsonl", f"gsm8k/{file_split}")
    elif path.exists() or path.suffix == ".jsonl":
        return read_examples(path, f"gsm8k/{split}")
    else:
        examples = list(_from_hub(source, file_split))
    if split == "test":
        return examples
    dev = _dev_rows(len(examples))
    if split == "dev" and not dev:
        raise UserError(f"{source}: {len(examples)} train rows are too few to take a dev split from; five are enough")
    return [example for number, example in enumerate(examples) if (number in dev) == (split == "dev")]


def _dev_rows(count: int) -> frozenset[int]:
    """Row numbers of the dev split: by hash, so that no version of a random generator can move them."""
    order = sorted(range(count), key=lambda number: hashlib.sha256(f"gsm8k dev {number}".encode()).digest())
    return frozenset(order[: min(DEV_ROWS, count // 5)])


def _from_hub(source: str, split: str) -> Iterator[Example]:
    try:
        from datasets import load_dataset

        rows = load_dataset(source, HUB_CONFIG, split=split)
    # Offline, gated, missing and misspelt data sets raise a dozen unrelated types.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"{source!r} is no local path and did not load from the Hugging Face hub ({reason}); "
            "pass a directory with train.jsonl and test.jsonl, or one .jsonl file"
        ) from error
    for number, row in enumerate(rows):
        where = f"{source} {split} row {number}"
        yield make_example(check_fields(row, FIELDS, where), f"gsm8k/{split}/{number}", where)


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
    extracted = extract_strict(text)
    if extracted is None:
        return Score(correct=False, extracted=None, reason="no_answer")
    correct = numbers_equal(extracted, example.answer)
    return Score(correct=correct, extracted=extracted, reason="match" if correct else "mismatch")


TASK = Task(
    name="gsm8k",
    default_source=HUB_ID,
    max_new_tokens=400,  # the longest gold rationale has 1,146 characters
    load=load,
    prompt=prompt,
    target=target,
    score=score,
)
