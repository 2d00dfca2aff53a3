"""A trace as text: two answers with their differences, and heat strips in colours or block characters."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

BLOCKS = "▁▂▃▄▅▆▇█"
# From little to much, told apart without seeing colours: dark blue, greys, yellow; and what is read on them.
RAMP = ("#00224e", "#35456c", "#666970", "#948e77", "#c8b866", "#fee838")
_DARK = 3
_ONLY_FIRST, _ONLY_SECOND = "bold dark_orange strike", "bold dodger_blue1 underline"
_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
# Marks that turn the direction of text: they would turn what stands beside it as well.
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def is_plain(console: Console) -> bool:
    """Whether colours would not be seen: a file, a pipe, a dumb terminal, or the user's ``NO_COLOR``."""
    return console.no_color or console.color_system is None


def printable(text: str) -> str:
    """``text`` with control characters written out: a model's answer must not steer the terminal."""
    return "".join(_written_out(c) if _steers(c) else c for c in text)


def _steers(character: str) -> bool:
    if character in "\n\t":
        return False
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _TURNING


def _written_out(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def differences(first: str, second: str, plain: bool) -> tuple[Text, Text]:
    """Both texts, with the words that only one of them has marked: by style, or as ``[-first-]`` and ``{+second+}``."""
    ours, theirs = (_WORDS.findall(printable(text.strip())) for text in (first, second))
    left, right = Text(), Text()
    for kind, a, b, c, d in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        same = kind == "equal"
        _append(left, "".join(ours[a:b]), None if same else ("[-", "-]", _ONLY_FIRST), plain)
        _append(right, "".join(theirs[c:d]), None if same else ("{+", "+}", _ONLY_SECOND), plain)
    return left, right


def _append(text: Text, words: str, mark: tuple[str, str, str] | None, plain: bool) -> None:
    if mark is None or not words:
        text.append(words)
        return
    before, after, style = mark
    text.append(f"{before}{words}{after}" if plain else words, style="" if plain else style)


def heat_strip(tokens: Sequence[str], values: Sequence[float], top: float, width: int, plain: bool) -> Text:
    """Tokens on colours from little to much, or with a row of blocks under each line of them; ``width`` in cells.

    values: one a token, from 0 to ``top``, where the scale ends.
    """
    strip = Text()
    for line in _lines(tokens, width):
        shown = [_visible(tokens[index]) for index in line]
        shares = [values[index] / top if top > 0 else 0.0 for index in line]
        if plain:
            blocks = "".join(_level(BLOCKS, s) * cell_len(t) for t, s in zip(shown, shares, strict=True))
            strip.append("".join(shown).rstrip() + "\n" + blocks + "\n")
            continue
        for text, share in zip(shown, shares, strict=True):
            color = _level(RAMP, share)
            strip.append(text, style=f"{'white' if RAMP.index(color) < _DARK else 'black'} on {color}")
        strip.append("\n")
    strip.rstrip()
    return strip


def _lines(tokens: Sequence[str], width: int) -> Iterator[list[int]]:
    """Places of the tokens of each line: a new one after a line break, and where the width is used up."""
    line: list[int] = []
    used = 0
    for index, token in enumerate(tokens):
        cells = cell_len(_visible(token))
        if line and (used + cells > width or "\n" in tokens[line[-1]]):
            yield line
            line, used = [], 0
        line.append(index)
        used += cells
    if line:
        yield line


def _visible(token: str) -> str:
    return printable(token.replace("\n", "⏎").replace("\t", " ")) or "·"


def profile_strip(values: Sequence[float], key: int | None, width: int) -> str:
    """A block per virtual token, as high as its value, the key token marked below; lines begin with their first."""
    margin = len(f"p{len(values) - 1} ")
    size = max(10, (width - margin) // 10 * 10)
    largest, lines = max(values, default=0.0), []
    for start in range(0, len(values), size):
        part = values[start : start + size]
        blocks = "".join(_level(BLOCKS, value / largest if largest > 0 else 0.0) for value in part)
        lines.append(f"{f'p{start}':<{margin}}{blocks}")
        if key is not None and start <= key < start + size:
            lines.append(" " * (margin + key - start) + f"^ p{key}")
    return "\n".join(lines)


def _level(ramp: Sequence[str], share: float) -> str:
    return ramp[min(len(ramp) - 1, int(share * len(ramp)))]
