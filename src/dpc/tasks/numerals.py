"""The exact value of a numeral in LaTeX, and which decimals stand for a number without a finite decimal expansion."""

from __future__ import annotations

import re
from fractions import Fraction
from math import floor, log10

_LONGEST = 100  # characters; longer numerals are left to the worker, which has a time limit
_LARGEST_EXPONENT = 1000
_DIGITS = 6

_UNSIGNED = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_DECIMAL = re.compile(rf"[-+]?{_UNSIGNED}")
_REPEATING = re.compile(r"(-?)([0-9]*)\.([0-9]*)\\(?:overline|bar)\{([0-9]+)\}")
_QUOTIENT = re.compile(rf"([-+]?)([0-9]*)\\frac\{{(-?{_UNSIGNED})\}}\{{(-?{_UNSIGNED})\}}")
_SLASH = re.compile(rf"(-?{_UNSIGNED})/({_UNSIGNED})")
_SCIENTIFIC = re.compile(rf"([-+]?{_UNSIGNED})(?:[eE]|(?:\\times|\\cdot|\*)10\^)\{{?([-+]?[0-9]{{1,4}})\}}?")


def value_of(spelling: str) -> Fraction | None:
    r"""The value of one numeral without spaces; None for anything else.

    Read are decimals, repeating decimals (``0.\overline{3}``), quotients, mixed numbers (``3\frac{1}{2}``) and
    scientific notation (``4.83\times10^{-5}``, ``4.83e-5``).
    """
    if len(spelling) > _LONGEST:
        return None
    if _DECIMAL.fullmatch(spelling):
        return Fraction(spelling)
    if repeating := _REPEATING.fullmatch(spelling):
        return _repeating(*repeating.groups())
    if parts := _QUOTIENT.fullmatch(spelling):
        sign, whole, over, under = parts.groups()
        if Fraction(under) == 0:
            return None
        value = Fraction(over) / Fraction(under) + int(whole or 0)
        return -value if sign == "-" else value
    if (slash := _SLASH.fullmatch(spelling)) and Fraction(slash[2]) != 0:
        return Fraction(slash[1]) / Fraction(slash[2])
    if (scientific := _SCIENTIFIC.fullmatch(spelling)) and abs(int(scientific[2])) <= _LARGEST_EXPONENT:
        return Fraction(scientific[1]) * Fraction(10) ** int(scientific[2])
    return None


def _repeating(sign: str, whole: str, start: str, period: str) -> Fraction:
    nines = 10 ** len(start) * (10 ** len(period) - 1)
    value = Fraction(f"{whole or 0}.{start or 0}") + Fraction(int(period), nines)
    return -value if sign else value


def numeral(value: Fraction) -> str:
    """``value`` as a numeral in LaTeX."""
    sign = "-" if value < 0 else ""
    over, under = abs(value.numerator), value.denominator
    return f"{sign}{over}" if under == 1 else rf"{sign}\frac{{{over}}}{{{under}}}"


def stands_for(decimal: Fraction, exact: Fraction) -> bool:
    """Whether ``decimal``, which was written with a decimal point, may be meant for ``exact``.

    A number with a finite decimal expansion is meant only where both are equal; for others ``rounds_alike`` decides.
    """
    return decimal == exact or (not _is_finite(exact) and rounds_alike(decimal, exact))


def rounds_alike(decimal: Fraction, number: Fraction) -> bool:
    """Whether both agree where they are rounded to six decimal places, and to six significant digits.

    So 0.333333 counts for 1/3, and 0.333 does not. For small numbers the tolerance is relative: 0.000048 does not
    count for 1/20700, which is 0.0000483091...
    """
    if number == 0:
        return decimal == 0
    magnitude = floor(log10(abs(number.numerator)) - log10(number.denominator))
    places = max(_DIGITS, _DIGITS - 1 - magnitude)
    return round(decimal, places) == round(number, places)


def _is_finite(value: Fraction) -> bool:
    rest = value.denominator
    for factor in (2, 5):
        while rest % factor == 0:
            rest //= factor
    return rest == 1
