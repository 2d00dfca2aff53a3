r"""One mathematical answer in LaTeX, brought to one spelling, so that most comparisons need no computer algebra."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from dpc.tasks.numerals import stands_for, value_of
from dpc.tasks.unicode_math import to_latex
from dpc.tasks.units import Measured, measure

_TEXT_COMMAND = r"\\(?:text|textbf|textit|textrm|textnormal|mbox|mathrm|mathbf|mathit|operatorname)\s*"

_OUTER = re.compile(r"^(?:\$+|\\\(|\\\[)(.*?)(?:\$+|\\\)|\\\])$", re.DOTALL)
# Marks that only group digits: a comma with a negative space or in braces, a thin space, a tie, an apostrophe.
_GROUPING = r"(?:\s*,\s*\\!\s*|\s*\\!\s*,\s*|\s*\\(?:text|mbox|mathord)\{,\}\s*|\s*\{\s*,\s*\}\s*|\\[,;: ]\s*|~|')"
_GROUPED = re.compile(rf"(?<![0-9.,])([0-9]{{1,3}}(?:{_GROUPING}[0-9]{{3}})++)(?![0-9])")
_GROUPED_PLACES = re.compile(r"(?<=\.)[0-9]{3}(?:(?:\\[,;: ]|~)[0-9]{1,3})++")
_COMMAS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3}|, 0[0-9]{2})++(?![0-9])")
_DECIMAL_COMMA = re.compile(r"(?<=[0-9])\s*\{,\}\s*(?=[0-9])")
_SPACES = re.compile(r"[-+]?[0-9]{1,3}(?: [0-9]{3})+(?:\.[0-9]+)?")
_NOTHING = re.compile(
    r"\\!|\\(?:left|right)\.|\\(?:left|right|displaystyle|limits)(?![A-Za-z])|\\[hv]?phantom\{[^{}]*\}"
)
_SPACING = re.compile(r"(?<!\\)\\[,;: ]|\\(?:q?quad|thinspace)(?![A-Za-z])|~")
_PLAIN_NAME = re.compile(r"(?<![\\A-Za-z])(pi|infty|theta|alpha|beta|sin|cos|tan|cot|log|ln)(?![A-Za-z])")
_PLAIN_ROOT = re.compile(r"(?<![\\A-Za-z])sqrt\s*(?:\(([^()]*)\)|\{([^{}]*)\}|([0-9]+))")
_FRACTION = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_MIXED = re.compile(
    r"(?<![0-9.}^_/])([0-9]{1,50})"
    r"(?: ([1-9][0-9]{0,50}) ?/ ?([1-9][0-9]{0,50})(?![0-9.])|"
    r" ?\\frac ?(?:\{([1-9][0-9]{0,50})\}|([1-9])) ?(?:\{([1-9][0-9]{0,50})\}|([1-9])))"
)
_POWER = re.compile(r"\^(\\frac\{[^{}]*\}\{[^{}]*\})")
# A mantissa without a point may be a coefficient of e.
_SCIENTIFIC = re.compile(r"(?<![0-9A-Za-z.])([0-9]+\.[0-9]+e|[0-9.]+E)([-+]?[0-9]{1,3})(?![0-9A-Za-z.])")
_IMAGINARY = re.compile(r"(?<=[0-9}])i(?![A-Za-z])|\\(?:text|mathrm|mathbf)\{i\}|\\[ij]math(?![A-Za-z])")
_SPOKEN = re.compile(rf"{_TEXT_COMMAND}\{{\s*((?:\\?\$)?[-+]?[0-9.][^{{}}]*)\}}")
_CURRENCY = re.compile(r"^(?:Rs\.? ?|USD ?|US(?=\\?\$))|\\\$|\$|[€£¥¢]")
_SIGNS = {"$": "dollar", "€": "euro", "£": "pound", "¢": "cent"}
_DROPPED = re.compile(r"\\?%|\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])")
_TEXT = re.compile(rf"{_TEXT_COMMAND}\{{([^{{}}]*)\}}")
_TIME = re.compile(r"[0-9]{1,2}(?::[0-9]{2})?\s*[ap]\.?\s?m\.?", re.IGNORECASE)
_LEADING_DOT = re.compile(r"(?<![0-9.])\.(?=[0-9])")
_ROOT = re.compile(r"\\sqrt\s*([0-9A-Za-z])")
_SHORT_NUMERATOR = re.compile(r"\\frac\s*([0-9A-Za-z])")
_SHORT_DENOMINATOR = re.compile(r"(\\frac\{[^{}]*\})\s*([0-9A-Za-z])")
_SLASH = re.compile(r"(^|=)(-?)([0-9]+)/([0-9]+)$")
_BLANKS = re.compile(r"(?<![0-9])\s+|\s+(?![0-9])")
_ASSIGNED = re.compile(r"[A-Za-z](?:_\{?[0-9A-Za-z]\}?)?(?:\([A-Za-z]\))?=([^=]+)")
_LETTER = re.compile(r"\(([A-Z])\)")
_BASE = re.compile(r"([0-9A-F]+)_\{?([0-9]+)\}?")
_WORDS = re.compile(r"[A-Za-z][A-Za-z .,'-]*")
_VARIABLE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]")


def tidy(answer: str) -> str:
    r"""``answer`` as LaTeX on one line, without what only spaces or frames it, and without a final period.

    Unicode mathematics becomes LaTeX, marks that group digits go (``48,\! 217``), and mixed numbers and roots in plain
    text become commands.
    """
    text = _GROUPED.sub(_digits, _GROUPED_PLACES.sub(_digits, to_latex(answer).replace("**", "^")))
    text = _DECIMAL_COMMA.sub(".", text).replace("{,}", ",")
    text = " ".join(_SPACING.sub(" ", _NOTHING.sub("", text)).split())
    text = text.rstrip(" .,;").strip()
    framed = _OUTER.match(text)
    if framed and "$" not in framed[1]:
        text = framed[1].strip().rstrip(" .,;")
    text = _PLAIN_NAME.sub(r"\\\1", text)
    text = _PLAIN_ROOT.sub(lambda match: rf"\sqrt{{{match[1] or match[2] or match[3]}}}", text)
    text = _MIXED.sub(_mixed, _POWER.sub(r"^{\1}", _FRACTION.sub(r"\\frac", _without_commas(text))))
    text = _SCIENTIFIC.sub(lambda match: rf"{match[1][:-1]}\times 10^{{{int(match[2])}}}", text)
    spoken = _SPOKEN.fullmatch(text)
    return _IMAGINARY.sub(" i", spoken[1].strip() if spoken else text)


def _digits(match: re.Match[str]) -> str:
    return re.sub(r"[^0-9]", "", match[0])


def _mixed(match: re.Match[str]) -> str:
    whole, over, under = (int(part) for part in match.groups() if part)
    return rf"\frac{{{whole * under + over}}}{{{under}}}" if over < under else match[0]


def _without_commas(text: str) -> str:
    """``text`` with the commas of its numbers gone, where they group digits and do not list numbers.

    Commas list numbers in brackets ("(100,200)"), and where others have no groups of three digits after them. A group
    that begins with 0 is no number of its own.
    """
    numbers = _COMMAS.findall(text)
    if not numbers:
        return text
    listed = sum(number.count(",") for number in numbers) < text.count(",") or re.search(r"[(\[]|\\\{", text)
    return _COMMAS.sub(
        lambda match: match[0] if listed and ",0" not in match[0].replace(" ", "") else _digits(match), text
    )


@dataclass(frozen=True, slots=True)
class Reading:
    """One answer without its units. text: tidy LaTeX. spelling: where two are the same, the answers are equal."""

    text: str
    spelling: str
    units: frozenset[str]
    percent: bool
    variables: bool

    @property
    def decimal(self) -> bool:
        """Whether the number has a decimal point, so that it may be a rounded one."""
        return "." in self.spelling and "\\overline" not in self.spelling


def read_pair(gold: str, answer: str) -> tuple[Reading, Reading]:
    r"""Both answers without their units.

    Letters after a number, outside of ``\text``, are a unit only where the other answer has no variables.
    """
    left, right = _read(measure(tidy(gold))), _read(measure(tidy(answer)))
    if left.variables and _VARIABLE.search(_value(right.spelling)):
        return _read(Measured(tidy(gold))), right
    if right.variables and _VARIABLE.search(_value(left.spelling)):
        return left, _read(Measured(tidy(answer)))
    return left, right


def _read(measured: Measured) -> Reading:
    text = _CURRENCY.sub("", measured.value)
    spelling = _spelling(_DROPPED.sub("", text))
    units = measured.units | {unit for sign, unit in _SIGNS.items() if sign in measured.value}
    return Reading(text, spelling, units, measured.percent or "%" in text, measured.variables)


def _spelling(text: str) -> str:
    text = " ".join(_TEXT.sub(r"\1", text).split()).rstrip(".").strip()
    if _SPACES.fullmatch(text):
        text = text.replace(" ", "")
    text = _ROOT.sub(r"\\sqrt{\1}", _LEADING_DOT.sub("0.", text))
    text = _SHORT_DENOMINATOR.sub(r"\1{\2}", _SHORT_NUMERATOR.sub(r"\\frac{\1}", text))
    text = _SLASH.sub(r"\1\2\\frac{\3}{\4}", _BLANKS.sub("", text))
    letter = _LETTER.fullmatch(text)
    return letter[1] if letter else text


def normalize(answer: str) -> str:
    r"""One spelling of ``answer``: equal results mean equal answers; the reverse does not hold.

    Dropped: spaces, currency, percent and degree signs, units after a value, marks that group the digits of a number,
    a period at the end. Written out: short fractions and roots, ``a/b`` of integers, a leading dot.
    """
    return _read(measure(tidy(answer))).spelling


def plainly_equal(gold: str, answer: str) -> bool | None:
    """Whether two answers are equal, where their spelling, or arithmetic with fractions, decides it; None otherwise.

    Decided as equal: one spelling, one of them with ``x=`` before it, one number. Decided as different: two numbers,
    two names or words, two times of day, numbers of two bases, amounts of two units. Numbers are compared exactly;
    ``stands_for`` says when a decimal counts for a number that it can only approximate.
    """
    first, second = read_pair(gold, answer)
    left, right = first.spelling, second.spelling
    if not (left and right):
        return False
    if not (first.units <= second.units or second.units <= first.units):
        return False
    if left == right or _squeezed(gold) == _squeezed(answer):
        return True
    if (_ASSIGNED.fullmatch(left) is None) != (_ASSIGNED.fullmatch(right) is None):
        left, right = _value(left), _value(right)
        if left == right:
            return True
    if _is_text(gold) or _is_text(answer):
        return _spoken(left) == _spoken(right)
    values = value_of(left), value_of(right)
    if values[0] is not None and values[1] is not None:
        return _numbers_equal(first, values[0], second, values[1])
    bases = _BASE.fullmatch(left), _BASE.fullmatch(right)
    return bases[0].groups() == bases[1].groups() if bases[0] and bases[1] else None


def _squeezed(answer: str) -> str:
    return _BLANKS.sub("", to_latex(answer).strip())


def _value(normal: str) -> str:
    assigned = _ASSIGNED.fullmatch(normal)
    return assigned[1] if assigned else normal


def _numbers_equal(left: Reading, first: Fraction, right: Reading, second: Fraction) -> bool:
    """Whether two numbers are equal, where one that alone has a percent sign may also be a hundredth."""
    pairs = [(first, second)]
    if left.percent != right.percent:
        pairs.append((first / 100, second) if left.percent else (first, second / 100))
    if left.decimal == right.decimal:
        return any(one == other for one, other in pairs)
    return any(stands_for(one, other) if left.decimal else stands_for(other, one) for one, other in pairs)


def _spoken(normal: str) -> list[str]:
    """The words of a list, in no order, capitals and periods aside."""
    return sorted(normal.replace(".", "").casefold().split(","))


def _is_text(answer: str) -> bool:
    r"""Whether an answer says by ``\text{}`` that its letters are no variables, or tells the time."""
    text = tidy(answer)
    bare = _TEXT.sub(r"\1", text)
    return (bare != text and _WORDS.fullmatch(bare) is not None) or _TIME.fullmatch(bare) is not None
