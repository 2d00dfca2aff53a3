r"""Mathematics in Unicode characters, as LaTeX: ``4√5`` becomes ``4\sqrt{5}``, and ``x²`` becomes ``x^{2}``."""
# ruff: noqa: RUF001  (characters that look like others are what this module is about)

from __future__ import annotations

import re
import unicodedata
from itertools import groupby

_SYMBOLS = {
    **dict.fromkeys("−–—‐‑‒﹣", "-"),
    **dict.fromkeys("·⋅∙•", r"\cdot "),
    **dict.fromkeys("⁄∕÷", "/"),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),
    **dict.fromkeys("\u2009\u202f", r"\,"),
    **dict.fromkeys("∅⌀", r"\emptyset "),
    **dict.fromkeys("≤⩽", r"\le "),
    **dict.fromkeys("≥⩾", r"\ge "),
    "⅟": "1/",
    "×": r"\times ",
    "±": r"\pm ",
    "∓": r"\mp ",
    "≠": r"\neq ",
    "≈": r"\approx ",
    "∞": r"\infty ",
    "°": r"^\circ ",
    "º": r"^\circ ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "∶": ":",
    "⌊": r"\lfloor ",
    "⌋": r"\rfloor ",
    "⌈": r"\lceil ",
    "⌉": r"\rceil ",
    "’": "'",
    "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}",
    "ℚ": r"\mathbb{Q}",
    "ℕ": r"\mathbb{N}",
    "ℂ": r"\mathbb{C}",
}
_ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}
_GREEK = re.compile(r"GREEK (SMALL|CAPITAL) LETTER (\w+)")
_MARKS = {"<super>": "^", "<sub>": "_", "<fraction>": ""}
_OVERLINE = "[\u0304\u0305]"
_HERE = "\0"  # stands after a root's command until its argument has braces
# A root reaches over brackets, a number, a command or one letter.
_ROOT = re.compile(
    rf"(\\sqrt(?:\[\w\])?){_HERE}\s*"
    rf"(?:\(((?:[^()]|\([^()]*\))*+)\)|((?:[0-9.]{_OVERLINE}?)++|\\[A-Za-z]+|[A-Za-z]{_OVERLINE}?))?"
)
_REPEATING = re.compile(rf"(?:[0-9]{_OVERLINE})++")
_INDEXED_ROOT = re.compile(r"(?<![\w)}\]])\^\{(\w)\}\s*√")


def to_latex(text: str) -> str:
    """``text`` with characters of mathematics as LaTeX, and other compatibility characters as plain ones.

    Converted are superscripts, subscripts, vulgar fractions, roots, operators, Greek letters, number sets, full-width
    and mathematical letters, and the digits of other scripts. ASCII is returned unchanged.
    """
    if text.isascii():
        return text
    pieces: list[str] = []
    for mark, run in groupby(text, _mark):
        if mark == "":
            pieces.extend(map(_fraction, run))
        elif mark is None:
            pieces.extend(map(_plain, run))
        else:
            pieces.append(f"{mark}{{{unicodedata.normalize('NFKC', ''.join(run)).replace('−', '-')}}}")
    text = _INDEXED_ROOT.sub(rf"\\sqrt[\1]{_HERE}", "".join(pieces))
    for sign, command in _ROOTS.items():
        text = text.replace(sign, command + _HERE)
    return _REPEATING.sub(lambda match: rf"\overline{{{_bare(match[0])}}}", _ROOT.sub(_braced, text))


def _mark(character: str) -> str | None:
    """What LaTeX writes before a character's plain form; None where the character is neither raised nor lowered."""
    return None if character in _SYMBOLS else _MARKS.get(unicodedata.decomposition(character).partition(" ")[0])


def _fraction(character: str) -> str:
    over, _, under = unicodedata.normalize("NFKC", character).partition("⁄")
    return rf"\frac{{{over}}}{{{under or 1}}}"


def _plain(character: str) -> str:
    if character.isascii() or character in _ROOTS:
        return character
    if character in _SYMBOLS:
        return _SYMBOLS[character]
    plain = unicodedata.normalize("NFKC", character)
    if len(plain) != 1 or plain.isascii():
        return "".join(_SYMBOLS.get(part, part) for part in plain)
    if greek := _GREEK.fullmatch(unicodedata.name(plain, "")):
        name = greek[2].lower().replace("lamda", "lambda")
        return rf"\{name if greek[1] == 'SMALL' else name.capitalize()} "
    return str(unicodedata.decimal(plain)) if unicodedata.category(plain) == "Nd" else plain


def _braced(match: re.Match[str]) -> str:
    argument = match[2] if match[2] is not None else match[3]
    return match[1] if argument is None else f"{match[1]}{{{_bare(argument)}}}"


def _bare(text: str) -> str:
    return re.sub(_OVERLINE, "", text)
