"""Statements of an answer in a text: those that are only supposed are skipped, and those taken back are replaced."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

MOST_CORRECTIONS = 10  # a text with more of them repeats itself

_NEXT_QUESTION = re.compile(r"\n\s*Question:")
_SPACES = re.compile(r"[^\S\n]+")
# What is supposed, asked or denied in the same clause is not stated.
_SUPPOSED = re.compile(
    r"\b(?i:if|whether|suppos(?:e|ing)|assum(?:e|es|ed|ing)|neither|not true that|not the case that)\b"
    r"(?:(?!\bthen\b)[^.!?\n;,])*\Z"
)
# Options that are discussed on lines of their own, after words such as "the correct answer:".
_LISTED = re.compile(r"[^\n]*\n\s*[*(\[]{0,3}[A-E][)\].:]")

_SENTENCE = r"(?:^|[.,!?:;)\]*_\n—–-]\s*)(?i:(?:but|oh|hmm|ah|and|so|well|however)\b[,. …]*)*"
_ERROR = r"an? (?:\w+ )?(?:mistake|error)"
_BEFORE = r"(?:previous|first|earlier|initial|original)"
_WITHDRAWN = r"(?:take (?:that|it|this) back|withdraw|retract|change my (?:answer|mind))"
_AGAIN = r"re-?(?:consider|check|read|think|examine|evaluate|calculate|compute|count|do|visit|verify|work|start)"
# At the beginning of a sentence, these announce a correction.
_REVISED = re.compile(
    rf"{_SENTENCE}(?i:no(?=[,!:;—–-]|\.(?! ?(?:of\b|[0-9]))| wait)|(?:wait|actually|correction|oops|sorry|my mistake|"
    r"(?:instead|rather)(?! of| than)|hold on|scratch that|(?:up)?on (?:second |closer |further )?"
    rf"(?:thoughts?|reflection|inspection)|(?:{_AGAIN}ing|looking again)|(?:let me|i(?:['’]ll| should| need to| will)) "
    rf"(?:{_AGAIN}|correct|fix|double|(?:check|try) again)|i(?:['’]m| am| was)? (?:wrong|mistaken|misread|mean|meant)|"
    rf"i(?:['’]ve| have)? made {_ERROR}|i(?:['’]ll| will| must| should)? {_WITHDRAWN}|"
    rf"my {_BEFORE} (?:answer|choice)|there (?:is|was) {_ERROR})\b)",
    re.MULTILINE,
)
# These say that what was stated just before is wrong.
_TAKEN_BACK = re.compile(
    rf"{_SENTENCE}(?i:(?:no|wait|actually|sorry|oops)[,.!:;—–-]*\s+)*(?i:"
    rf"(?:that|this|it|my (?:{_BEFORE} )?(?:answer|choice)|the above)(?:['’]s| is| was) (?:\w+ly )?"
    rf"(?:wrong|incorrect|mistaken|{_ERROR}|not (?:right|correct|the (?:right|correct) \w+))|"
    r"(?:that|this|it) (?:(?:is|was)n['’]t|(?:can['’]t|cannot|can not) be) (?:right|correct)|"
    r"(?:that|this|it) (?:doesn['’]t|does not) (?:work|fit|hold)|"
    rf"scratch that|i (?:was|am) (?:wrong|mistaken)|i made {_ERROR}|i {_WITHDRAWN})\b",
    re.MULTILINE,
)


def until_next_question(text: str) -> str:
    """``text`` up to a next question that the model generated, with single spaces."""
    return _SPACES.sub(" ", _NEXT_QUESTION.split(text, maxsplit=1)[0])


def first_match(patterns: Iterable[re.Pattern[str]], text: str, start: int = 0) -> re.Match[str] | None:
    """The match at or after ``start`` that begins first, of any of ``patterns``; the earlier pattern's of two.

    What follows a supposition in its clause ("if", "whether", "assume") is passed over, and so is the first of a list.
    """
    found = (next((m for m in pattern.finditer(text, start) if _is_stated(m, text)), None) for pattern in patterns)
    return min((match for match in found if match), key=re.Match.start, default=None)


def _is_stated(match: re.Match[str], text: str) -> bool:
    begins_list = "\n" in match[0] and _LISTED.match(text, match.end())
    return not begins_list and not _SUPPOSED.search(text, 0, match.start())


@dataclass(frozen=True, slots=True)
class Wordings:
    """How answers of one kind are stated, corrected and denied. The one group that matches in a pattern is the answer.

    statements: what states an answer anywhere. corrections: what states one after the beginning of a correction ("Wait,
    it is C"). denial: of an answer, the pattern of what denies it. mention: any answer, stated or not.
    """

    statements: Sequence[re.Pattern[str]]
    corrections: Sequence[re.Pattern[str]]
    denial: Callable[[str], re.Pattern[str]]
    mention: re.Pattern[str]


def standing_answer(text: str, first: re.Match[str], wordings: Wordings) -> str | None:
    """The answer that stands at the end of ``text``: that of the statement ``first``, unless the text takes it back.

    An answer is taken back by a sentence that denies it ("(A) is wrong", "That is wrong"), or that begins as a
    correction does ("Wait", "No,", "Actually"). Then the next statement counts, and so on. Where none follows, a denied
    answer is no answer, and one that was only thought over stands.
    """
    current = first
    for _ in range(MOST_CORRECTIONS):
        answer = next(group for group in current.groups() if group)
        following = first_match(wordings.statements, text, current.end())
        end = following.start() if following else len(text)
        denied = wordings.denial(answer).search(text, current.end(), end)
        # The period of the sentence may belong to the statement.
        denied = denied or _taken_back(text, current.end() - 1, end, wordings.mention)
        revised = _REVISED.search(text, current.end() - 1, end)
        if not revised and not denied:
            return answer
        begin = min(revised.start() if revised else end, denied.end() if denied else end)
        corrected = first_match([*wordings.statements, *wordings.corrections], text, max(begin, current.end()))
        if corrected is None:
            return None if denied else answer
        current = corrected
    return answer


def _taken_back(text: str, start: int, end: int, mention: re.Pattern[str]) -> re.Match[str] | None:
    """Where "that is wrong" and the like mean the last statement, and no other answer that was discussed after it."""
    found = _TAKEN_BACK.search(text, start, end)
    return None if found and mention.search(text, start + 1, found.start()) else found
