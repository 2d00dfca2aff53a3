r"""The answer of a solution in LaTeX: what stands in its last ``\boxed{...}``, found by matching braces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from dpc.tasks.latex import plainly_equal

_NEXT_PROBLEM = re.compile(r"\n[^\S\n]*[#*]*[^\S\n]*(?:Problem(?: [0-9]+)?|Question)[*]*:")
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
# Without braces a box is meant to reach to the end of its formula.
_BARE_FORMULA = re.compile(r"([^$\n{}]{0,200}?)(?:\$|\\\)|\\\])")
_BARE_WORD = re.compile(r"([^\s${}]{1,200})")
_PHANTOM = re.compile(r"\\[hv]?phantom\{[^{}]*\}")
_BETWEEN_JOINT = re.compile(
    r"(?:\s|\$|\\[()\[\],;:! ]|\\q?quad|[,;&]|\band\b|\\text\{\s*and\s*\}|\b[A-Za-z](?:_\{?\w\}?)?\s*=)*"
)
_JOINS = re.compile(r",|;|\band\b")
_STATEMENT = re.compile(r"\b[Aa]nswer(?:\s+is\b|:)[:\s]*([^\n]+)")
_SENTENCE_END = re.compile(r"\.(?:\s|$)")
_FORMULA = re.compile(r"(?<!\\)\$+(.{1,400}?)(?<!\\)\$+|\\\((.{1,400}?)\\\)|\\\[(.{1,400}?)\\\]", re.DOTALL)


def boxed_answer(text: str) -> str | None:
    r"""What the last box of ``text`` holds, spaces outside removed; None where no box holds anything.

    Read as boxes are: ``\boxed{...}`` and ``\fbox{...}``, with or without a space before the brace, braces nested or
    escaped, line breaks inside, and ``\boxed 2`` up to the end of its formula. Not read: boxes in figures, boxes that
    are empty, hold nothing but a ``\phantom``, or never close, and what follows a next ``Problem:``. Boxes that nothing
    but commas, "and" and ``y=`` stand between are one answer of several parts, as in "``\boxed{3}`` and ``\boxed{5}``":
    ``3, 5``. The official grader would read the last part alone.
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
    r"""The boxed answer; where there is none, what follows the last "answer is", or else the last formula.

    Graders that read more than boxes read it so; None where there is neither box nor statement nor formula.
    """
    boxed = boxed_answer(text)
    if boxed is not None:
        return boxed
    text = _solution(text)
    statements = _STATEMENT.findall(text)
    if statements:
        text = statements[-1]
    formulas = ["".join(groups).strip() for groups in _FORMULA.findall(text)]
    if any(formulas):
        return next(filter(None, reversed(formulas)))
    return _SENTENCE_END.split(text, maxsplit=1)[0].strip() or None if statements else None


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
