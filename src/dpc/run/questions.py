"""Questions of one's own, read from JSON lines. Loads no torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from dpc.errors import UserError
from dpc.tasks.choices import LETTERS, check_choices, show_options
from dpc.types import Example


def read_questions(source: str, limit: int | None = None) -> list[Example]:
    """Questions of a file of JSON lines, or of standard input for ``-``; the first ``limit`` of them.

    A line has ``question``, and may have ``id`` and ``choices``, two to five options as texts: they are put below the
    question, lettered from A, as the tasks with options do it.
    Raises ``UserError`` naming file and line for a line that is no question, or an id that is there twice.
    """
    name = "standard input" if source == "-" else source
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise UserError(f"{name}: can't be read ({error.strerror}); expected a file of JSON lines, or -") from error
    examples: list[Example] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip() or len(examples) == limit:
            continue
        example = _question(line, f"{name}:{number}", number)
        if example.id in lines:
            raise UserError(f"{name}:{number}: has the id {example.id!r}, as line {lines[example.id]} has; change one")
        lines[example.id] = number
        examples.append(example)
    if not examples:
        raise UserError(f'{name}: holds no questions; expected a line like {{"question": "..."}}')
    return examples


def _question(line: bytes, where: str, number: int) -> Example:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f'{where}: is not JSON; expected a line like {{"question": "..."}}') from error
    question = row.get("question") if isinstance(row, dict) else None
    if not isinstance(question, str) or not question.strip():
        raise UserError(f'{where}: has no text under "question"; expected {{"question": "..."}}')
    choices = row.get("choices", [])
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise UserError(f'{where}: "choices" must be a list of texts; leave it out for a question without options')
    for text in (question, *choices):
        check_text(text, where)
    if choices:
        check_choices(choices, LETTERS[0], where)
        question = show_options(question.strip(), [choice.strip() for choice in choices])
    return Example(str(row.get("id", number)), question, "", choices=tuple(choices))


def check_text(question: str, where: str) -> None:
    """Raise ``UserError`` for half of a surrogate pair, which no tokenizer reads."""
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: character {error.start + 1} is no whole character; write the text as UTF-8"
        ) from error
