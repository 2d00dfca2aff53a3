"""ProntoQA: is a statement true or false, given a made-up or a true ontology (Saparov and He 2023, arXiv:2210.01240).

``example6`` of ``345hop_random_true.json``, in the format of the official generator; each has eight in-context
examples ``in_context_example0`` ... of the same form beside its test example::

    {"test_example": {"question": "Prime numbers are prime. Real numbers are numbers. ... 31 is a Mersenne prime.",
                      "query": "True or false: 31 is imaginary.",
                      "chain_of_thought": ["31 is a Mersenne prime.", ..., "31 is not imaginary."], "answer": "False"}}

The first of ``dev.json``, the 500 questions of Logic-LM (arXiv:2305.12295)::

    {"id": "ProntoQA_1", "context": "Jompuses are not shy. ... Max is a yumpus.",
     "question": "Is the following statement true or false? Max is sour.", "options": ["A) True", "B) False"],
     "answer": "B", "explanation": ["Max is a yumpus.", ..., "Max is not sour."]}

Both are asked without options, so a letter alone ("The answer is A.") is no answer.

License: Apache 2.0 (the generator and both files' contents), MIT (Logic-LM's code). The generator, which also parses
proofs; here the answer alone is graded:
https://github.com/asaparov/prontoqa/blob/49a5f85490a9eaac7a371cb5e14776d2142585f0/run_experiment.py
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from dpc.errors import UserError
from dpc.settings import TaskSettings
from dpc.tasks.base import Task, check_fields, check_ids, check_split, graded
from dpc.tasks.choices import prompt, target
from dpc.tasks.rows import first_of, read_json
from dpc.tasks.sources import hub_rows, local_path, train_or_dev
from dpc.tasks.statements import Wordings, first_match, standing_answer, until_next_question
from dpc.types import Example, Score

FILE = "345hop_random_true.json"
ANSWERS = ("True", "False")

_QUERY = re.compile(r"(?:True or false:|Is the following statement true or false\?)\s*(\S.*)", re.DOTALL)
_WORD = r"[*_\"'“]{0,3}(?i:(true|false))\b(?! ?(?:/|or\b))"
_END = r"[*_\"'”’]{0,3}(?:[.!,]|$| (?:because|since|as)\b)"
_CANONICAL = re.compile(rf"(?i:the answer is) {_WORD}")
_STATEMENTS = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        rf"\b(?i:answer|ans|option)[*_]{{0,2}}(?: ?[:=]| ?-+>?|(?i: is\b))[*_]{{0,2}}:?(?i: therefore)?[ \n]{{0,3}}"
        rf"(?:\(?[AB]\) )?{_WORD}",
        rf"(?: is|['’]s) (?i:therefore |thus |hence |indeed )?{_WORD}{_END}",
        rf"(?:^|[.!?:] )(?:\(?[AB]\) )?{_WORD}{_END}",
    )
)
_CORRECTIONS = (re.compile(rf"\b(?i:wait|no|actually|correction|sorry|oops)[\s,.:;!—–*_-]+{_WORD}"),)


@cache
def _denial(answer: str) -> re.Pattern[str]:
    return re.compile(
        rf"(?i:the answer (?:is not|isn['’]t) {answer}\b|\b{answer}['\"”*_]* is (?:wrong|incorrect|not ))"
    )


_WORDINGS = Wordings((_CANONICAL, *_STATEMENTS), _CORRECTIONS, _denial, re.compile(r"\b(?i:true|false)\b"))


def extract_truth(text: str) -> str | None:
    """``True`` or ``False``, whichever ``text`` states as its answer; None where it states neither.

    The first ``the answer is true`` counts, else the first plain statement: ``Answer: False``, ``the statement is
    false.``, ``B) False``, or the word as a sentence of its own, as the generator ends its chains. The last step of a
    chain is no answer: it is the queried statement or its negation, and both kinds of query are asked.
    What follows a next ``Question:`` is not read. Where a later sentence takes the answer back, the one stated after
    it counts (``standing_answer``).

    A letter alone is no answer: the question is asked without options, so "The answer is A." names nothing that a
    model was shown. "(A) True" states the word, and counts.
    """
    text = until_next_question(text).strip()
    first = _CANONICAL.search(text) or first_match(_STATEMENTS, text)
    answer = standing_answer(text, first, _WORDINGS) if first else None
    return answer.capitalize() if answer else None


def _example(example_id: str, context: str, query: str, answer: str, steps: object, where: str) -> Example:
    asked = _QUERY.fullmatch(query.strip())
    if not asked:
        raise UserError(f"{where}: expected a query such as 'True or false: Max is sour.', found {query!r}")
    if answer not in ANSWERS:
        raise UserError(f"{where}: expected the answer True or False, found {answer!r}")
    rationale = None
    if steps is not None:
        if not isinstance(steps, list) or not steps or not all(isinstance(step, str) for step in steps):
            raise UserError(f"{where}: the chain of thought must be a list of sentences")
        rationale = "\n".join([" ".join(steps), f"The answer is {answer}."])
    return Example(example_id, f"{context.strip()}\nTrue or false: {asked[1]}", answer, rationale, ANSWERS)


def generated_example(row: object, example_id: str, where: str) -> Example:
    """An example of the official generator's format; ``UserError`` starting with ``where`` if it is malformed."""
    fields = check_fields(row, ("question", "query", "answer"), where)
    steps = row.get("chain_of_thought", []) if isinstance(row, Mapping) else []
    return _example(example_id, fields["question"], fields["query"], fields["answer"], steps, where)


def logic_lm_example(row: object, example_id: str, where: str) -> Example:
    """An example of Logic-LM's format, with the letter of its answer read as the option that it names.

    Copies without ``explanation`` can be asked, but not tuned on. ``UserError`` starting with ``where`` as above.
    """
    fields = check_fields(row, ("context", "question", "answer"), where)
    options, steps = (row.get("options"), row.get("explanation")) if isinstance(row, Mapping) else (None, None)
    if options != ["A) True", "B) False"] or fields["answer"] not in ("A", "B"):
        raise UserError(f"{where}: expected the options A) True, B) False, and the answer A or B")
    answer = ANSWERS["AB".index(fields["answer"])]
    return _example(example_id, fields["context"], fields["question"], answer, steps, where)


def _generated(rows: Mapping[str, Any], split: str, source: str) -> list[Example]:
    if split == "test":
        return [
            generated_example(_part(rows, name, "test_example", source), f"prontoqa/test/{name}", f"{source} {name}")
            for name in rows
        ]
    examples = []
    for name in rows:
        for part in sorted(key for key in _part(rows, name, None, source) if key.startswith("in_context_example")):
            where = f"{source} {name} {part}"
            examples.append(generated_example(rows[name][part], f"prontoqa/train/{name}/{part}", where))
    return train_or_dev("prontoqa", examples, split, source)


def _part(rows: Mapping[str, Any], name: str, part: str | None, source: str) -> Any:
    row = rows[name]
    if not isinstance(row, Mapping) or "test_example" not in row:
        raise UserError(f"{source} {name}: expected an object with a test_example and in-context examples")
    return row if part is None else row[part]


def _logic_lm(rows: list[Any], split: str, source: str) -> list[Example]:
    examples = []
    for number, row in enumerate(rows):
        name = row.get("id", number) if isinstance(row, Mapping) else number
        examples.append(logic_lm_example(row, f"prontoqa/{split}/{name}", f"{source} row {number}"))
    check_ids(examples, [f"{source} row {number}" for number in range(len(rows))])
    return examples


def load(split: str, source: str | None = None, settings: TaskSettings = TaskSettings()) -> list[Example]:
    """Examples of ``split``: a file of the generator, a folder with ``345hop_random_true.json``, or Logic-LM's rows.

    The authors publish a generator, and no splits. Of a generator's file, test is every test example; dev is drawn
    (``draw_dev``) from the in-context examples, and train is the rest of them. A file of Logic-LM's rows, or a hub id
    of such rows (as ``renma/ProntoQA``, which has no chains to tune on), is the split itself. There is no default. No
    setting is used.

    Raises:
        UserError: for an unknown split, a source that cannot be loaded, or a malformed row.
    """
    check_split(split)
    instead = f"a folder with {FILE}, or one .json file of the generator or of Logic-LM"
    if source is None:
        raise UserError(f"prontoqa has no source of its own, its authors publish a generator: pass as data {instead}")
    path = local_path(source, (".json",))
    if path is None:
        return _logic_lm([dict(row) for row in hub_rows(source, None, "validation", instead)], split, source)
    path = first_of(path, (FILE,)) if path.is_dir() else path
    rows = read_json(path)
    if isinstance(rows, list):
        return _logic_lm(rows, split, str(path))
    if isinstance(rows, Mapping) and rows:
        return _generated(rows, split, str(path))
    raise UserError(f"{path}: expected a list of Logic-LM's rows, or an object of the generator's examples")


def score(example: Example, text: str) -> Score:
    """Grade ``text`` by the truth value that it states, never by its last step."""
    return graded(extract_truth(text), example.answer.__eq__)


TASK = Task(
    name="prontoqa",
    default_source="",
    max_new_tokens=200,  # the longest gold target here has about 350 characters, but of words that no tokenizer knows
    load=load,
    prompt=prompt,
    target=target,
    score=score,
    templated=True,
)
