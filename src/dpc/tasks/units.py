r"""Units and other words after a value: ``9 marbles`` and ``9\text{ cm}^2`` have the value 9, ``9 dozen`` has 108.

A word that multiplies (hundred, dozen, pairs, halves) is replaced by its number. Others are dropped, as in the official
grader of MATH, unless they join the number to something else (or, and, than, plus).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from dpc.tasks.numerals import numeral, value_of

_NAMES = {
    "meter": "m meter metre",
    "centimeter": "cm centimeter centimetre",
    "millimeter": "mm millimeter millimetre",
    "kilometer": "km kilometer kilometre kph kmh",
    "inch": "in inch inche",
    "foot": "ft foot feet",
    "yard": "yd yard",
    "mile": "mi mile mph",
    "gram": "g gm gram",
    "milligram": "mg milligram",
    "kilogram": "kg kilogram",
    "ounce": "oz ounce",
    "pound": "lb pound",
    "ton": "ton tonne",
    "second": "s sec second",
    "minute": "min minute",
    "hour": "h hr hour",
    "day": "day",
    "week": "week",
    "month": "month",
    "year": "yr year",
    "liter": "l L liter litre",
    "milliliter": "ml mL milliliter millilitre",
    "gallon": "gal gallon",
    "dollar": "dollar USD",
    "cent": "cent",
    "euro": "euro EUR",
    "degree": "degree deg",
    "radian": "radian rad",
}
# Words that turn an amount into another one, as a unit does.
_NAMES |= {word: word for word in ("loss", "increase", "decrease", "more", "north", "south", "east", "west")}
_NAMES |= {"profit": "profit gain", "less": "less fewer"}
_UNITS = {name + ending: unit for unit, names in _NAMES.items() for name in names.split() for ending in ("", "s")}
_UNITS |= {symbol: symbol for symbol in ("N", "J", "W", "V", "K", "C", "F", "Hz", "Pa", "kW", "kJ", "mol", "rpm")}
_PARTS = {"third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10}
_PARTS |= {"hundredth": 100, "thousandth": 1000, "millionth": 10**6, "half": 2, "halve": 2}
_MULTIPLES = {"pair": 2, "couple": 2, "ten": 10, "dozen": 12, "score": 20, "hundred": 100, "gross": 144}
_MULTIPLES |= {"thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_FACTORS = {word: Fraction(1, parts) for word, parts in _PARTS.items()} | {
    word: Fraction(number) for word, number in _MULTIPLES.items()
}
_PERCENT = {"percent", "percentage", "pct"}
# With one of these, what follows the number is more than its unit.
_JOINING_WORDS = (
    "or and than plus minus over point mod modulo base remainder factorial choose sin cos tan cot log ln sqrt exp "
    "zero one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty"
)
_JOINING = frozenset(_JOINING_WORDS.split())
_POWERS = ("squared", "cubed")  # of the number, where no unit comes before
_NO_UNITS = ("i", "e", "A", "B", "D", "E", "cis")  # numbers, functions, and digits of larger bases
_SMALL = ("a", "an", "at", "by", "for", "in", "is", "of", "on", "per", "to", "the", "sq", "cu")
_LONGEST_TAIL = 120  # characters

_MACRO = r"\\(?:text|textrm|textbf|textit|textnormal|mbox|mathrm)\s*"
_INSIDE = r"(?:[^{}]|\{[^{}]*\})*+"
_SPOKEN = rf"{_MACRO}\{{{_INSIDE}\}}"
_PLAIN = r"(?<![A-Za-z\\])[A-Za-z]++(?:['.-][A-Za-z]++)*+\.?"
_DEGREE = r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])"
_ORDINAL = rf"(?:\^|\\textsuperscript)\s*\{{?\s*(?:{_MACRO}\{{\s*)?(?:st|nd|rd|th)\s*\}}{{0,2}}"
_FIRST = rf"(?:{_ORDINAL}|{_DEGREE}|{_SPOKEN}|{_PLAIN}|\\frac\{{\s*{_SPOKEN}\s*\}}\{{\s*{_SPOKEN}\s*\}})"
_PHRASE = rf"\s*{_FIRST}(?:{_FIRST}|\^\s*\{{?-?[0-9]\}}?|/|\\cdot|\s)*+"
_TAIL = re.compile(rf"(?:(?<=[0-9A-Za-z}})\]|!%])|(?<=\\pi))(?:{_PHRASE}|\s*\({_PHRASE}\)\s*)$")
_WORD = re.compile(rf"({_ORDINAL})|({_DEGREE})|{_MACRO}\{{({_INSIDE})\}}|({_PLAIN})")
_CLOSED = re.compile(r"(?:[0-9})\]|!%]|\\pi)\s*$")
_LETTERS = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*")
_HALF_DAY = re.compile(r"\s*[ap]\.?\s?m\.?\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Measured:
    r"""A value in LaTeX without the words that stood after it.

    units: the known units among them. percent: whether one was "percent". variables: whether one outside of ``\text``
    could be a product of variables instead, as in ``9 m``.
    """

    value: str
    units: frozenset[str] = frozenset()
    percent: bool = False
    variables: bool = False


class _Word(NamedTuple):
    text: str
    plain: bool  # outside of \text


def measure(text: str) -> Measured:
    """Take units and other words off the end of a value in tidy LaTeX; ``text`` itself where none can be taken off."""
    start = max(0, len(text) - _LONGEST_TAIL)
    while tail := _TAIL.search(text, start):
        measured = _measured(text[: tail.start()], tail[0])
        if measured is not None:
            return measured
        start = tail.start() + 1
    return Measured(text)


def _measured(value: str, tail: str) -> Measured | None:
    """``value`` with the units and factors of ``tail``; None where ``tail`` belongs to the value."""
    words, closed = list(_words(tail)), _CLOSED.search(value) is not None
    factor = Fraction(1)
    if words and words[0].text in ("st", "nd", "rd", "th"):
        if _ordinal_ending(value) != words[0].text:
            return None
        words = words[1:]
    elif words and words[0].plain and not tail[0].isspace() and not _stands_close(words[0].text):
        return None
    while closed and words and (times := _FACTORS.get(_singular(words[0].text))):
        factor, words = factor * times, words[1:]
    if not _are_units(words, closed):
        return None
    names = [word.text for word in words if word.text not in _SMALL]
    return Measured(
        _multiplied(value, factor),
        units=frozenset(unit for name in names if (unit := _UNITS.get(name) or _UNITS.get(name.casefold()))),
        percent=any(name.casefold() in _PERCENT for name in names),
        variables=any(word.plain and len(word.text) < 4 and word.text not in _SMALL for word in words),
    )


def _words(tail: str) -> Iterator[_Word]:
    for ordinal, degree, spoken, plain in _WORD.findall(tail):
        if ordinal or degree:
            yield _Word(_LETTERS.findall(ordinal)[-1] if ordinal else "degree", plain=False)
        elif _HALF_DAY.fullmatch(spoken or plain):
            yield _Word("or", plain=False)  # the time of day, which is no unit
        else:
            yield from (_Word(word, plain=not spoken) for word in _LETTERS.findall(spoken or plain))


def _ordinal_ending(value: str) -> str | None:
    digits = re.search(r"[0-9]+$", value)
    if not digits:
        return None
    return "th" if digits[0][-2:-1] == "1" else {"1": "st", "2": "nd", "3": "rd"}.get(digits[0][-1], "th")


def _stands_close(word: str) -> bool:
    """Whether a word may follow its number without a space: ``9cm`` is a length, ``9m`` and ``9abc`` are products."""
    return len(word) > 1 and (word in _UNITS or word.casefold() in _PERCENT)


def _singular(word: str) -> str:
    word = word.casefold()
    return word if word in _FACTORS else word.removesuffix("s")


def _are_units(words: list[_Word], closed: bool) -> bool:
    """Whether words may be dropped: none joins, none is a symbol of mathematics, and after a variable all are known."""
    if words and words[0].text.casefold() in _POWERS:
        return False
    named = False
    for word in words:
        lower = word.text.casefold()
        known = word.text in _UNITS or lower in _UNITS
        if lower in _JOINING or word.text in _NO_UNITS or not (closed or known):
            return False
        # Of letters outside of \text, only what can be pronounced is a word: "9 xyz" is a product.
        named |= known or not word.plain or (len(lower) > 2 and re.search(r"[aeiou]", lower) is not None)
        if not (named and len(lower) > 1) and not known and word.text not in _SMALL:
            return False
    return True


def _multiplied(value: str, factor: Fraction) -> str:
    if factor == 1:
        return value
    name, assigned, amount = value.rpartition("=")
    number = value_of(amount.replace(" ", ""))
    product = rf"({amount})\cdot {numeral(factor)}" if number is None else numeral(number * factor)
    return name + assigned + product
