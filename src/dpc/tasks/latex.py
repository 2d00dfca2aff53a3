r"""One mathematical answer in LaTeX, brought to one spelling, so that most comparisons need no computer algebra."""

from __future__ import annotations

import re
from fractions import Fraction

_LONGEST_NUMBER = 100  # characters; longer ones are left to the worker, which has a time limit

_OUTER = re.compile(r"^(?:\$+|\\\(|\\\[)(.*?)(?:\$+|\\\)|\\\])$", re.DOTALL)
_SPACING = re.compile(
    r"(?<!\\)\\[!,;: ]|\\q?quad\b|\\(?:left|right|displaystyle|limits)(?![A-Za-z])|~|\u200b|\{,\}"
    r"|\\[hv]?phantom\{[^{}]*\}"
)
_GLYPHS = str.maketrans({"−": "-", "–": "-", "π": r"\pi ", "×": r"\times ", "°": r"^\circ ", "∞": r"\infty "})
_PLAIN_NAME = re.compile(r"(?<![\\A-Za-z])(pi|infty)(?![A-Za-z])")
_PLAIN_ROOT = re.compile(r"(?<![\\A-Za-z])sqrt\s*(?:\(([^()]*)\)|\{([^{}]*)\})")
_FRACTION = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_DROPPED = re.compile(r"\\\$|\$|€|£|\\?%|\^\{?\\circ\}?|\\degree(?![A-Za-z])")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|textnormal|mbox|mathrm|mathbf|mathit|operatorname)\s*\{([^{}]*)\}")
_UNIT = re.compile(r"(?:(?<=[0-9})])|(?<=\\pi))\s*\\(?:text|textrm|mbox|mathrm)\s*\{\s*([^{}]*)\}(?:\^\{?[0-9]\}?)?$")
_HALF_DAY = re.compile(r"\s*[ap]\.?\s?m\.?\s*", re.IGNORECASE)
# Words after a number that are more than its unit.
_AMOUNT = re.compile(r"\b(?:or|and|more|less|dozen|hundred|thousand|million|billion)\b", re.IGNORECASE)
_TIME = re.compile(r"[0-9]{1,2}(?::[0-9]{2})?\s*[ap]\.?\s?m\.?", re.IGNORECASE)
_THOUSANDS = re.compile(r"([-+]?)(\d{1,3}(?:,\d{3})+)(\.\d+)?")
_LEADING_DOT = re.compile(r"(?<![0-9.])\.(?=[0-9])")
_ROOT = re.compile(r"\\sqrt\s*([0-9A-Za-z])")
_SHORT_NUMERATOR = re.compile(r"\\frac\s*([0-9A-Za-z])")
_SHORT_DENOMINATOR = re.compile(r"(\\frac\{[^{}]*\})\s*([0-9A-Za-z])")
_SLASH = re.compile(r"(^|=)(-?)([0-9]+)/([0-9]+)$")
_ASSIGNED = re.compile(r"[A-Za-z](?:_\{?[0-9A-Za-z]\}?)?(?:\([A-Za-z]\))?=([^=]+)")
_LETTER = re.compile(r"\(([A-Z])\)")
_BASE = re.compile(r"([0-9A-F]+)_\{?([0-9]+)\}?")
_INEXACT = re.compile(r"[.%]")  # a decimal may be rounded, and a percentage stand for a share
_NUMERAL = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_REPEATING = re.compile(r"(-?)([0-9]*)\.([0-9]*)\\overline\{([0-9]+)\}")
_QUOTIENT = re.compile(r"([-+]?)([0-9]*)\\frac\{(-?[0-9]+)\}\{(-?[0-9]+)\}")
_WORDS = re.compile(r"[A-Za-z][A-Za-z .,'-]*")


def tidy(answer: str) -> str:
    r"""``answer`` as LaTeX on one line, without what only spaces or frames it, and without a final period."""
    text = " ".join(_SPACING.sub("", answer.translate(_GLYPHS)).split())
    text = text.rstrip(" .,;").strip()
    framed = _OUTER.match(text)
    if framed and "$" not in framed[1]:
        text = framed[1].strip().rstrip(" .,;")
    text = _PLAIN_NAME.sub(r"\\\1", text)
    text = _PLAIN_ROOT.sub(lambda match: rf"\sqrt{{{match[1] or match[2]}}}", text)
    return _FRACTION.sub(r"\\frac", text)


def normalize(answer: str) -> str:
    r"""One spelling of ``answer``: equal results mean equal answers; the reverse does not hold.

    Dropped: spaces, currency, percent and degree signs, units in ``\text{}`` after a value, thousands commas of a
    number, a period at the end. Written out: short fractions and roots, ``a/b`` of integers, a leading dot.
    """
    text = tidy(answer)
    unit = _UNIT.search(text)
    if unit and not _HALF_DAY.fullmatch(unit[1]) and not _AMOUNT.search(unit[1]):
        text = text[: unit.start()]
    text = _TEXT.sub(r"\1", _DROPPED.sub("", text))
    text = " ".join(text.split()).rstrip(".").strip()
    thousands = _THOUSANDS.fullmatch(text)
    if thousands:
        text = text.replace(",", "")
    text = _LEADING_DOT.sub("0.", text)
    text = _ROOT.sub(r"\\sqrt{\1}", text)
    text = _SHORT_DENOMINATOR.sub(r"\1{\2}", _SHORT_NUMERATOR.sub(r"\\frac{\1}", text)).replace(" ", "")
    text = _SLASH.sub(r"\1\2\\frac{\3}{\4}", text)
    letter = _LETTER.fullmatch(text)
    return letter[1] if letter else text


def plainly_equal(gold: str, answer: str) -> bool | None:
    """Whether two answers are equal, where their spelling, or arithmetic with fractions, decides it; None otherwise.

    Decided as equal: one spelling, one of them with ``x=`` before it, one rational number. Decided as different: two
    rational numbers without a decimal point or a percent sign, two names or words, two times of day, numbers of two
    bases.
    """
    left, right = normalize(gold), normalize(answer)
    if left == right or not (left and right):
        return left == right != ""
    if (_ASSIGNED.fullmatch(left) is None) != (_ASSIGNED.fullmatch(right) is None):
        left, right = _value(left), _value(right)
        if left == right:
            return True
    if _is_text(gold) or _is_text(answer):
        return _spoken(left) == _spoken(right)
    first, second = _rational(left), _rational(right)
    if first is not None and first == second:
        return True
    bases = _BASE.fullmatch(left), _BASE.fullmatch(right)
    if bases[0] and bases[1]:
        return bases[0].groups() == bases[1].groups()
    exact = first is not None and second is not None and not _INEXACT.search(gold + answer)
    return False if exact else None


def _value(normal: str) -> str:
    assigned = _ASSIGNED.fullmatch(normal)
    return assigned[1] if assigned else normal


def _spoken(normal: str) -> list[str]:
    """The words of a list, in no order, capitals and periods aside."""
    return sorted(normal.replace(".", "").casefold().split(","))


def _is_text(answer: str) -> bool:
    r"""Whether an answer says by ``\text{}`` that its letters are no variables, or tells the time."""
    text = tidy(answer)
    bare = _TEXT.sub(r"\1", text)
    return (bare != text and _WORDS.fullmatch(bare) is not None) or _TIME.fullmatch(bare) is not None


def _rational(normal: str) -> Fraction | None:
    """The value of a numeral, a repeating decimal, a fraction, or a mixed number; None for anything else."""
    if len(normal) > _LONGEST_NUMBER:
        return None
    if _NUMERAL.fullmatch(normal):
        return Fraction(normal)
    repeating = _REPEATING.fullmatch(normal)
    if repeating:
        sign, whole, start, period = repeating.groups()
        nines = 10 ** len(start) * (10 ** len(period) - 1)
        value = Fraction(f"{whole or 0}.{start or 0}") + Fraction(int(period), nines)
        return -value if sign else value
    parts = _QUOTIENT.fullmatch(normal)
    if not parts or int(parts[4]) == 0:
        return None
    sign, whole, value = -1 if parts[1] == "-" else 1, parts[2], Fraction(int(parts[3]), int(parts[4]))
    return sign * (int(whole) + value) if whole else sign * value
