"""Multiple choice: options in the prompt, the sentence that states an answer, and the letter that a text states."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from dpc.errors import UserError
from dpc.tasks.base import graded
from dpc.tasks.statements import Wordings, first_match, standing_answer, until_next_question
from dpc.types import Example, Score

LETTERS = "ABCDE"
MAX_LEAD_IN = 60  # characters before a statement: "Therefore, the correct"
MAX_OPTION_TEXT = 20  # characters after its letter: ") 109 rolls"

_SPACES = re.compile(r"[^\S\n]+")

# A capital alone, or any letter in brackets. "A ship" is an article, "C(5, 2)" and "E = 3" are mathematics.
_BARE = r"((?:A(?! (?!(?:because|since|as|is)\b)[a-z])|[B-E]))(?:\)|(?![\w(]|['’]\w|[-–−]\w| ?[=+/^×÷<>]| \*|\*\w))"
_DENIED = (
    r"[*_)\].}]* (?:(?:is|are|was|can|could|does|do|would|must|will|may|might) )?"
    r"(?:not|never|wrong|incorrect|false|impossible|cannot|(?:is|are|was|ca|could|does|do|would)n['’]t)\b"
)
_NOT_DENIED = rf"(?!{_DENIED})"
_ALONE = r"(?![*_)\].}]* ?(?:[,/&]|,? ?(?:or|and)\b) ?[(\[]?[A-E](?![\w'’]))"
_LETTER = rf"(?:[(\[] ?([A-Ea-e]) ?[)\]]|{_BARE}){_NOT_DENIED}{_ALONE}"
_IS = r"(?:[*_]{0,2}(?: ?[:=]| ?[-–—]+>?|(?i: (?:is|was|(?:must|will|would|should) be)\b))[*_]{0,2})"
_BETWEEN = (
    r"[ \n]{0,3}[:,]? ?(?i:(?:therefore|thus|hence|clearly|simply)[ ,]+)?(?i:the )?(?i:(?:correct|right|best) )?"
    r"(?:[(\[]?(?i:answer|option|choice|letter)\b:?)?[ \n]{0,3}[*_$\"'“`]{0,3}"
    r"(?:\\\()?(?:\\boxed\{)?(?:\\text(?:bf)?\{)?"
)
_CANONICAL = re.compile(rf"(?i:the answer is) ?\(([A-E])\){_NOT_DENIED}{_ALONE}")
_STATEMENTS = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        rf"\b(?i:answer|ans)(?i: to (?:the|this) (?:question|problem))?{_IS}{_BETWEEN}{_LETTER}",
        rf"\b(?:(?i:answer)\.|(?i:ans)\. ?){_LETTER}",
        rf"\b(?i:correct|right|best) (?i:answer|option|choice)(?i: choice| option)?{_IS}?{_BETWEEN}{_LETTER}",
        rf"\b(?i:which is|corresponds to|matches) (?i:the )?(?i:answer|option|choice) {_LETTER}",
        rf"\b(?i:answer|ans)(?i: choice| option)? {_LETTER}(?=[*_)\].]* ?(?:$|[0-9$]))",
        rf"^ ?(?i:(?:answer )?(?:option|choice)){_IS}? ?{_LETTER}[*_)\].]*$",
        rf"(?<![\w'’-])(?<!\bif )(?<!\band )(?<!\bor ){_LETTER}"
        r"(?= is (?i:correct|(?:the )?(?:correct|right|best) (?:answer|option|choice)|the (?:answer|option|choice))\b)",
        rf"\\boxed\{{(?:\\text(?:bf)?\{{)?{_LETTER}",
        r"^[ *_(\[]{0,3}([A-E])[ *_)\].]{0,4}$",
    )
)
_LEAD_IN = re.compile(r"(?:\b(?i:hence|thus|therefore|so|the|correct|right|answer|option|choice)\b|∴|=+>|[ ,(])*$")
_REST = re.compile(r"[*_)\].,}]*(?i: is (?:the )?(?:(?:correct|right|best)\b ?)?(?:answer|option|choice)?)?[.!]?")
# After "Wait" and the like, less is needed to state an answer.
_CORRECTIONS = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        rf"\b(?i:it|this|that|answer|one)(?:['’]s|(?i: (?:is|was|(?:should|must|would|has to) be)))"
        rf"(?i: actually| really| in fact)?(?i: option| choice)? {_LETTER}",
        rf"\b(?i:choose|pick|select|go(?:ing)? with|mean|meant|change my answer to)(?i: option| choice)? {_LETTER}",
        rf"\b(?i:wait|no|actually|correction|sorry|oops|rather)[\s,.:;!—–*_-]+(?i:(?:so|option|choice) )*{_LETTER}"
        r"(?=[*_)\]]*(?:[.!;]|$))",
        rf"(?:^|[.!?:] )(?i:so|thus|therefore|hence),?(?i: option| choice)? {_LETTER}(?=[*_)\].]*(?:$| ))",
        rf"(?<![\w'’-]){_LETTER}(?= is(?:[.!]|$| instead\b))",
    )
)
_LABELLED = re.compile(r"\s*[(\[]?([A-E])[)\].:]{1,2}\s*([^\n]+)")


def show_options(question: str, options: Sequence[str]) -> str:
    """The question with its options below, one a line, lettered from A: ``(A) 21``."""
    lines = (f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))
    return "\n".join([question, *lines])


def answer_sentence(letter: str) -> str:
    """The sentence at the end of every rationale that a prompt is tuned on."""
    return f"The answer is ({letter})."


def end_with_answer(rationale: str, letter: str) -> str:
    """``rationale`` with ``answer_sentence`` as its last line, in place of a statement at its end.

    Where the rationale states another letter before, only that line is left: the whole text would be graded as wrong.
    """
    body = _SPACES.sub(" ", rationale).strip()
    while (shorter := _without_last_statement(body)) != body:
        body = shorter
    ended = f"{body}\n{answer_sentence(letter)}" if body else answer_sentence(letter)
    return ended if extract_choice(ended) == letter else answer_sentence(letter)


def _without_last_statement(text: str) -> str:
    before, _, line = text.rpartition("\n")
    for pattern in (_CANONICAL, *_STATEMENTS):
        for match in pattern.finditer(line):
            start = max(0, match.start() - MAX_LEAD_IN)
            head = line[:start] + _LEAD_IN.sub("", line[start : match.start()])
            # At the start of a line, the option's text may follow its letter: "Answer: D) 109 rolls".
            if _REST.fullmatch(line, match.end()) or (not head and len(line) - match.end() <= MAX_OPTION_TEXT):
                return f"{before}\n{head}".strip()
    return text


def check_choices(options: Sequence[str], letter: str, where: str) -> None:
    """Raise ``UserError`` starting with ``where`` unless there are 2 to 5 options, and the answer is one of them."""
    if not 2 <= len(options) <= len(LETTERS):
        raise UserError(f"{where}: has {len(options)} options; expected 2 to {len(LETTERS)}")
    if letter not in LETTERS[: len(options)]:
        raise UserError(f"{where}: the answer {letter!r} is none of its {len(options)} options; mend or delete the row")


def prompt(example: Example) -> str:
    """The text before the rationale."""
    return f"Question: {example.question}\nAnswer:"


def target(example: Example) -> str:
    """The rationale as it follows the prompt; ``UserError`` if the example has none."""
    if example.rationale is None:
        raise UserError(f"{example.id}: has no rationale to tune on; use a split whose rows have one")
    return f" {example.rationale}"


@cache
def _denial(letter: str) -> re.Pattern[str]:
    """What says of ``letter`` that it is not the answer. A bare letter may be a name ("B does not occur")."""
    bracketed, bare = rf"[(\[] ?{letter} ?[)\]]", rf"(?<![\w'’-]){letter}(?![\w'’])"
    no_answer = r"(?:right|correct|possible|true|it|the)"
    wrong = (
        r"[*_)\].}]* (?:(?:is|was|must be) (?:wrong|incorrect|false|impossible|rejected|withdrawn|eliminated|"
        rf"(?:(?:ruled|crossed) )?out|not {no_answer})|(?:(?:is|was)n['’]t|(?:can['’]t|cannot|can not) be) {no_answer}|"
        r"fails|(?:doesn['’]t|does not) (?:work|fit|hold))\b"
    )
    rejecting = r"(?:\b(?i:not|rul(?:e|es|ed|ing) out|eliminate|reject|discard|withdraw|retract)|n['’]t(?: be)?)"
    return re.compile(
        rf"{bracketed}{_DENIED}(?! only\b)|(?:{bracketed}|{bare}){wrong}|"
        rf"{rejecting} (?i:option |choice )?(?:{bracketed}|{bare}(?! [a-z]))"
    )


_WORDINGS = Wordings(
    (_CANONICAL, *_STATEMENTS), _CORRECTIONS, _denial, re.compile(r"(?<![\w'’-])[B-E](?![\w'’])|\(A\)")
)


def extract_choice(text: str, options: Sequence[str] = ()) -> str | None:
    """The letter, A to E, that ``text`` states as its answer; None where it states none.

    The first ``the answer is (C)`` counts, which is what prompts are tuned to write. Where there is none, the first
    plain statement: ``Answer: C``, ``the correct option is C``, ``C is correct``, a line with nothing but the letter,
    or a first line that is an option as the question shows it. A letter that is only talked about, one of several, or
    one that is denied is no answer, and neither is an option's text without its letter, or a number for the letter.
    What follows a next ``Question:`` is not read.

    Where a later sentence takes the answer back ("Wait", "No, (A) is wrong"), the answer stated after it counts
    (``standing_answer``).
    """
    text = until_next_question(text)
    first = _CANONICAL.search(text) or _shown_option(text, options) or first_match(_STATEMENTS, text)
    letter = standing_answer(text, first, _WORDINGS) if first else None
    return letter.upper() if letter else None


def _shown_option(text: str, options: Sequence[str]) -> re.Match[str] | None:
    """The first line, where it is one option as the question shows it, and no other follows."""
    line = _LABELLED.match(text)
    if line is None or _LABELLED.match(text, line.end()):
        return None
    return line if _is_option(line[2], options[LETTERS.index(line[1]) :][:1]) else None


def _is_option(text: str, options: Sequence[str]) -> bool:
    return any(text.strip(" .").casefold() == option.strip(" .").casefold() for option in options)


def score(example: Example, text: str) -> Score:
    """Grade ``text`` by the letter that it states. Two options of the same value are two options: the letter counts."""
    return graded(extract_choice(text, example.choices), example.answer.__eq__)
