"""A trace in text: nothing is lost, nothing steers the terminal, and marks stand where they belong."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from dpc.cli.terminal import BLOCKS, differences, heat_strip, printable, profile_strip

WORDS = st.text(st.characters(exclude_characters="[]{}+-", codec="utf-8"), max_size=30)


@given(WORDS, WORDS)
def test_marks_show_what_only_one_of_two_texts_has(first: str, second: str) -> None:
    marked, other = (str(text) for text in differences(first, second, plain=True))
    assert re.sub(r"\[-|-\]", "", marked) == printable(first.strip())
    assert re.sub(r"\{\+|\+\}", "", other) == printable(second.strip())
    assert re.sub(r"\[-.*?-\]", "", marked, flags=re.S) == re.sub(r"\{\+.*?\+\}", "", other, flags=re.S)
    assert ("[-" in marked or "{+" in other) == (printable(first.strip()) != printable(second.strip()))


@given(st.text(st.characters(codec="utf-8")))
def test_no_text_steers_the_terminal(text: str) -> None:
    shown = printable(f"a\x1b[31m\u202e{text}\x9b")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", shown)
    assert shown.startswith("a\\x1b[31m\\u202e")
    assert printable("é 🙂\nשבת") == "é 🙂\nשבת"


TOKENS = st.lists(
    st.tuples(st.sampled_from([" pens", "8", "\n", "漢字", "🙂", "", "\x1b", " "]), st.floats(0, 1)), min_size=1
)


@given(TOKENS, st.integers(10, 40))
def test_blocks_stand_under_their_tokens(tokens: list[tuple[str, float]], width: int) -> None:
    texts, values = [t for t, _ in tokens], [v for _, v in tokens]
    lines = str(heat_strip(texts, values, 1.0, width, plain=True)).split("\n")
    assert len(lines) % 2 == 0
    expected = "".join("⏎" if t == "\n" else printable(t) or "·" for t in texts)
    assert "".join(lines[::2]).replace(" ", "") == expected.replace(" ", "")
    for text, blocks in zip(lines[::2], lines[1::2], strict=True):
        assert set(blocks) <= set(BLOCKS)
        assert cell_len(text) <= len(blocks) <= width


def test_heat_is_a_colour_or_a_block() -> None:
    strip = heat_strip(["a", "b", "c"], [0.0, 0.5, 1.0], 1.0, 80, plain=False)
    colours = [span.style for span in strip.spans]
    assert str(strip) == "abc"
    assert len(set(map(str, colours))) == 3
    assert str(heat_strip(["a", "b", "c"], [0.0, 0.5, 1.0], 1.0, 80, plain=True)) == "abc\n▁▅█"
    assert str(heat_strip(["a", "b"], [0.0, 0.0], 0.0, 80, plain=True)) == "ab\n▁▁"


@given(st.integers(1, 120), st.integers(20, 100), st.data())
def test_the_key_token_is_marked_below_its_block(length: int, width: int, data: st.DataObject) -> None:
    values, key = [(37 * place % 101) / 100 for place in range(length)], data.draw(st.integers(0, length - 1))
    lines = profile_strip(values, key, width).split("\n")
    [place] = [index for index, line in enumerate(lines) if "^" in line]
    above, start = lines[place - 1], int(lines[place - 1].split()[0][1:])
    margin = len(above) - len(above.split()[1])
    assert start + lines[place].index("^") - margin == key
    blocks = "".join(line.split()[1] for line in lines if "^" not in line)
    assert [BLOCKS.index(block) for block in blocks] == [min(7, int(8 * v / (max(values) or 1))) for v in values]
