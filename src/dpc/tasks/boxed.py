r"""The answer of a solution in LaTeX: the content of its last ``\boxed{...}``, found by matching braces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from dpc.tasks.latex import plainly_equal

_NEXT_PROBLEM = re.compile(r"\n[^\S\n]*[#*]*[^\S\n]*(?:Problem(?: [0-9]+)?|Question)[*]*:")
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
# Without braces, a box reaches to the end of its formula.
_BARE_FORMULA = re.compile(r"([^$\n{}]{0,200}?)(?:\$|\\\)|\\\])")
_BARE_WORD = re.compile(r"([^\s${}]{1,200})")
_PHANTOM = re.compile(r"\\[hv]?phantom\{[^{}]*\}")
_BETWEEN_JOINT = re.compile(
    r"(?:\s|\$|\\[()\[\],;:! ]|\\q?quad|[,;&]|\band\b|\\text\{\s*and\s*\}|\b[A-Za-z](?:_\{?\w\}?)?\s*=)*"
)
_JOINS = re.compile(r",|;|\band\b")
# "The answer to this problem is", "**Answer:**", "Final answer =", and a heading "### Answer" of its own.
_STATEMENT = re.compile(
    r"(?<![a-z])answers?(?:[^\S\n](?:to|for|of)\b[^.:=\n]{0,60}?)?[*_]*\s{0,3}"
    r"(?:(?<![a-z])(?:is|are|equals|(?:should|must|would|will) be)\b|[:=])[*_:]*\s*"
    r"|^[#*_ ]*(?:the )?(?:final )?answer[*_ ]*\n\s*",
    re.IGNORECASE | re.MULTILINE,
)
_LONGEST_STATEMENT = 400  # characters
_FILLER = re.compile(r"(?:(?:therefore|thus|hence|then|simply|just|exactly|equal to|given by)\b[ ,:]*)+", re.IGNORECASE)
_EMPHASIS = re.compile(r"(?<![\w)])(\*{1,3}|_{1,3}|`+)(?=\S)(.+?)(?<=\S)\1(?![\w(])")
_CLAUSE_END = re.compile(r"[.!?](?=[*_`]*(?:\s|$))|;\s|,? (?:because|since|where|which|when|as|so)\b|\n")
_FORMULA = re.compile(r"(?<!\\)\$+(.{1,400}?)(?<!\\)\$+|\\\((.{1,400}?)\\\)|\\\[(.{1,400}?)\\\]", re.DOTALL)
_NEXT_FORMULA = re.compile(r"\s*(?:,?\s*\band\b|,)\s*")
_TELLING = re.compile(r"[0-9\\$^]|^\W*[A-Za-z]\W*$")


def boxed_answer(text: str) -> str | None:
    r"""The content of the last box of ``text``, without outer spaces; None where no box has a content.

    A box is ``\boxed{...}`` or ``\fbox{...}``, with or without a space before the brace, with nested or escaped braces
    and line breaks inside, or ``\boxed 2`` up to the end of its formula. Not read are boxes in figures, boxes that are
    empty, hold only a ``\phantom`` or are not closed, and what follows a next ``Problem:``. Boxes with only commas,
    "and" and ``y=`` between them are one answer of several parts: "``\boxed{3}`` and ``\boxed{5}``" is ``3, 5``. The
    official grader reads the last part alone.
    """
    text = _solution(text)
    boxes = list(_boxes(text))
    parts: list[str] = []
    start = len(text)
    while boxes and (not parts or _is_joint(text[boxes[-1].stop : start])):
        box = boxes.pop()
        content = text[box.content].strip()
        if _PHANTOM.sub("", content).strip():
            parts.insert(0, content)
            start = box.start
    distinct = [part for n, part in enumerate(parts) if not any(plainly_equal(part, other) for other in parts[:n])]
    return ", ".join(distinct) or None


def stated_answer(text: str) -> str | None:
    r"""The boxed answer; where there is none, what the last "answer is" or "Answer:" states, or else the last formula.

    For graders that do not require a box. Of several statements, the last with a number, a formula or a variable counts
    ("The answer is correct." states nothing). Markdown's emphasis is dropped. None where there is neither box nor
    statement nor formula.
    """
    boxed = boxed_answer(text)
    if boxed is not None:
        return boxed
    text = _solution(text)
    stated = [text[m.end() : m.end() + _LONGEST_STATEMENT] for m in _STATEMENT.finditer(text)]
    answers = (_answer_of(statement) for statement in reversed(stated))
    telling = next((answer for answer in answers if answer and _TELLING.search(answer)), None)
    if telling or stated:
        return telling or next(filter(None, map(_answer_of, reversed(stated))), None)
    formulas = ["".join(groups).strip() for groups in _FORMULA.findall(text)]
    return next(filter(None, reversed(formulas)), None)


def _answer_of(statement: str) -> str:
    """The answer at the beginning of a statement: its formulas, or else its words up to the end of the clause."""
    statement = _EMPHASIS.sub(r"\2", statement).lstrip("*_ ")
    if filler := _FILLER.match(statement):
        statement = statement[filler.end() :]
    formulas = []
    place = 0
    while formula := _FORMULA.match(statement, place):
        formulas.append("".join(filter(None, formula.groups())).strip())
        joint = _NEXT_FORMULA.match(statement, formula.end())
        place = joint.end() if joint else len(statement)
    if any(formulas):
        return ", ".join(formulas)
    clause = _CLAUSE_END.split(statement, maxsplit=1)[0].strip(" *_`")
    inside = ["".join(groups).strip() for groups in _FORMULA.findall(clause)]
    return next(filter(None, reversed(inside)), clause)


def _solution(text: str) -> str:
    """``text`` up to a next problem, without the code of figures, which may hold boxes that are drawn, not stated."""
    first, *parts = _NEXT_PROBLEM.split(text, maxsplit=1)[0].split("[asy]")
    outside = [part.partition("[/asy]") for part in parts]
    return first + "".join(after if closed else f"[asy]{before}" for before, closed, after in outside)


class _Box(NamedTuple):
    start: int
    stop: int
    content: slice


def _boxes(text: str) -> Iterator[_Box]:
    """Every box that closes, in the order in which they begin."""
    closing: dict[int, int] | None = None
    for match in _BOX.finditer(text):
        opening = match.end()
        if text.startswith("{", opening):
            closing = _closing_braces(text) if closing is None else closing
            if opening in closing:
                yield _Box(match.start(), closing[opening] + 1, slice(opening + 1, closing[opening]))
        elif bare := _BARE_FORMULA.match(text, opening) or _BARE_WORD.match(text, opening):
            end = opening + len(bare[1].rstrip(" .,"))
            yield _Box(match.start(), end, slice(opening, end))


def _closing_braces(text: str) -> dict[int, int]:
    """The closing brace of each opening one, by position; a backslash escapes what follows it."""
    open_braces: list[int] = []
    closing = {}
    for match in _BRACE.finditer(text):
        if match[0] == "{":
            open_braces.append(match.start())
        elif match[0] == "}" and open_braces:
            closing[open_braces.pop()] = match.start()
    return closing


def _is_joint(between: str) -> bool:
    return _JOINS.search(between) is not None and _BETWEEN_JOINT.fullmatch(between) is not None
