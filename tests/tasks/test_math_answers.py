r"""Equality of mathematical answers: by spelling and exact arithmetic where these decide it, else by algebra."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpc.tasks.equality import Worker, answers_equal
from dpc.tasks.latex import normalize, plainly_equal, read_pair

EQUAL = [
    ("64\\%", "64"),
    (r"\$1500", "1500"),
    (r"\$ 15,\!000", "15000"),
    ("15,\\!000", "15,000"),
    ("31,250", "31250"),
    (r"4 \text{ feet}", "4"),
    (r"12\text{ cm}^2", "12"),
    (r"6\pi \mbox{ inches}", r"6\pi"),
    (r"90^\circ", "90"),
    (r"90^{\circ}", "90°"),
    (r"\frac12", r"\frac{1}{2}"),
    (r"-\frac{1}2", "-1/2"),
    (r"\frac1{72}", r"\dfrac{1}{72}"),
    (r"\tfrac{3}{4}", "0.75"),
    (r"6\frac15", r"\frac{31}{5}"),
    (r"-1\frac{1}{2}", "-1.5"),
    ("x=7", "7"),
    ("7", "x = 7"),
    ("f(x) = x^2", "x^2"),
    (r"\text{(C)}", "C"),
    (r"\text{(C)}", "(C)"),
    (r"\text{(C)}", r"\textbf{(C)}"),
    ("18.", "18"),
    (".3", "0.3"),
    ("2215_6", "2215_{6}"),
    ("3.0", "3"),
    ("-0", "0"),
    (r"\sqrt3", r"\sqrt{3}"),
    (r"\text{Tuesday}", "Tuesday"),
    (r"\text{even}", r"\text{Even}"),
    (r"\text{10:30 a.m.}", "10:30 AM"),
    (r"0.\overline{3}", r"\frac13"),
    (r"1.2\overline{34}", r"\frac{1222}{990}"),
    (r"\left( 3, \frac12 \right)", r"(3,\dfrac{1}{2})"),
    ("$5$", "5"),
    (r"\(5\)", "5"),
    ("2\n+ x", "2+x"),
    (r"\text{A, C}", "C, A"),
    ("−3", "-3"),
    ("3π", r"3\pi"),
    (r"\frac{1}{3}", "0.333333"),
    (r"\frac{3}{5}", r"60\%"),
]
EQUAL_BY_ALGEBRA = [
    ("1,2", "2, 1"),
    (r"\{1,2\}", r"\{2,1\}"),
    ("3, -5", r"-5 \text{ and } 3"),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt 2}"),
    ("x^2-1", "(x-1)(x+1)"),
    ("2^{10}", "1024"),
    (r"1\pm\sqrt{2}", r"1+\sqrt2, 1-\sqrt2"),
    (r"\frac{3\pi}{4}", "3pi/4"),
    ("y=2x+3", "2x-y+3=0"),
    ("2215_6", "2215"),
    (r"\frac{a}{b}", "a/b"),
    ("3:2", "3/2"),
    ("1 < x < 3", "(1,3)"),
    ("2×x", "2x"),
    (r"\begin{pmatrix} 1/2 \\ 3 \end{pmatrix}", r"\begin{bmatrix}\frac12\\ 3\end{bmatrix}"),
]
DIFFERENT = [
    ("711", "11"),
    ("11", "711"),
    ("1", "-1"),
    (r"\frac{1}{2}", r"\frac{2}{1}"),
    (r"6\frac{1}{5}", r"\frac65"),
    ("2215_6", "2215_7"),
    (r"\text{7 a.m.}", r"\text{7 p.m.}"),
    (r"7\text{ a.m.}", r"7\text{ p.m.}"),
    (r"\text{Monday}", r"\text{Tuesday}"),
    ("5", ""),
    ("", ""),
    ("1000000", "1000001"),
    ("1", "1.0000001"),
    (r"\frac13", "0.333"),
]
DIFFERENT_BY_ALGEBRA = [
    ("(1,2)", "(2,1)"),
    ("[0,1)", "(0,1)"),
    ("1,2,3", "1,2"),
    ("3", r"3 \text{ or } 4"),
    ("x=1", "y=1"),
    (r"\infty", r"-\infty"),
    (r"\pi", "3.14"),
    ("x+1", "x-1"),
    (r"\text{(C)}", "D"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
    ("11", "eleven"),
    ("5", r"\frac{1}{0}"),
    ("5", "\\frac{"),
]
# What math-verify does not see: it drops what stands in \\text or after an underscore, and reads no repeating decimals.
ONLY_BY_SPELLING = ("\\text", "_", "\\overline")


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    started = Worker(cpu_seconds=2.0)
    yield started
    started.close()


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_one_answer_in_many_spellings_needs_no_algebra(gold: str, answer: str) -> None:
    assert plainly_equal(gold, answer) is True
    assert plainly_equal(answer, gold) is True


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_spelling_tells_different_answers_apart(gold: str, answer: str) -> None:
    assert plainly_equal(gold, answer) is False
    assert plainly_equal(answer, gold) is False


@pytest.mark.parametrize(("gold", "answer"), EQUAL_BY_ALGEBRA)
def test_algebra_finds_what_spelling_does_not(gold: str, answer: str) -> None:
    assert plainly_equal(gold, answer) is None
    assert answers_equal(gold, answer)


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT_BY_ALGEBRA)
def test_algebra_keeps_different_answers_apart(gold: str, answer: str) -> None:
    assert plainly_equal(gold, answer) is None
    assert not answers_equal(gold, answer)


def test_where_spelling_decides_math_verify_agrees(worker: Worker) -> None:
    for gold, answer in EQUAL + DIFFERENT:
        if not any(mark in gold for mark in ONLY_BY_SPELLING):
            texts = [reading.text for reading in read_pair(gold, answer)]
            assert worker.equal(*texts) == plainly_equal(gold, answer), (gold, answer)


@given(st.fractions(max_denominator=999), st.fractions(max_denominator=999))
def test_rational_numbers_are_compared_exactly(first: Fraction, second: Fraction) -> None:
    a, b = abs(first.numerator), first.denominator
    sign = "-" if first < 0 else ""
    spellings = [
        rf"{sign}\frac{{{a}}}{{{b}}}",
        rf"\dfrac{{{first.numerator}}}{{{b}}}",
        f"{sign}{a}/{b}",
        f"$x={sign}{a}/{b}$",
    ]
    if a > b:
        spellings.append(rf"{sign}{a // b}\frac{{{a % b}}}{{{b}}}")
    for spelling in spellings:
        assert plainly_equal(spelling, spellings[0]) is True
        assert plainly_equal(spelling, rf"\frac{{{second.numerator}}}{{{second.denominator}}}") == (first == second)


@given(st.text(r"12.,/-=x$%\{}_() frac", max_size=12), st.text(r"12.,/-=x$%\{}_() frac", max_size=12))
def test_spelling_decides_the_same_in_both_directions(first: str, second: str) -> None:
    assert plainly_equal(first, second) == plainly_equal(second, first)
    assert plainly_equal(first, first) is (normalize(first) != "")
