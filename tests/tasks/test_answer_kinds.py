r"""Kinds of answers that graders get wrong, a table each: what is right, and what is nearly right and wrong."""

# ruff: noqa: RUF001  (answers are in Unicode on purpose)

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpc.tasks.equality import answers_equal
from dpc.tasks.latex import plainly_equal, tidy
from dpc.tasks.numerals import numeral, stands_for, value_of
from dpc.tasks.unicode_math import to_latex
from dpc.tasks.units import measure

Row = tuple[str, list[str], list[str]]  # gold, right answers, wrong answers

DECIMALS: list[Row] = [
    (".0000483", ["0.0000483", r"4.83\times10^{-5}", "4.83e-5", r"\frac{483}{10^7}"], ["0.000048", "0.00005", "0"]),
    ("0.00012345", ["0.000123450"], ["0.000123", "0.00012346"]),
    ("1", ["1.0", "1.000"], ["1.0000001", "0.9999999", "1.00000000001"]),
    ("0", ["0.0", "-0"], ["0.0000001", "10^{-20}"]),
    ("0.1", ["0.10", r"\frac{1}{10}"], ["0.10000000000000000000001"]),
    ("123456789.123456789", ["123456789.1234567890"], ["123456789.123456788"]),
    (r"\frac{1}{1024}", ["0.0009765625"], ["0.000977", "0.00097656"]),
    # Without a finite decimal expansion: six decimal places and six significant digits are needed.
    (r"\frac13", ["0.333333", "0.33333333", r"0.\overline{3}", "0.3̅"], ["0.333", "0.33333", "0.333334"]),
    (r"\frac{1}{20700}", ["0.0000483092"], ["0.0000483", "0.000048"]),
    (r"\frac{22}{7}", ["3.142857"], [r"\pi", "3.14286", "3.142858"]),
    (r"\pi", ["3.141593", "3.14159265"], ["3.14", "3.14159", "3.141592"]),
    (r"\frac{\sqrt2}{1000}", ["0.00141421"], ["0.001414", "0.0014142"]),
    (r"\frac{3}{2}x", ["1.5x"], ["1.50000001x"]),
    ("(0.5,2)", [r"(\frac12,2)"], ["(0.5000001,2)", "(2,0.5)"]),
    (r"\{0.25,0.5\}", [r"\{\frac12,\frac14\}"], [r"\{0.25,0.5000001\}"]),
    ("x<0.5", [r"x<\frac12"], ["x<0.5000001", "x>0.5"]),
    (
        r"\begin{pmatrix}0.5\\1\end{pmatrix}",
        [r"\begin{pmatrix}\frac12\\1\end{pmatrix}"],
        [r"\begin{pmatrix}0.5000001\\1\end{pmatrix}"],
    ),
]
VERY_SMALL: list[Row] = [
    (r"\frac{1}{3^{50}}", ["3^{-50}", r"\frac{1}{9^{25}}"], [r"\frac{1}{3^{51}}", "0", r"\frac{2}{3^{50}}"]),
    (r"\frac{1}{6^{30}}", [r"\left(\frac16\right)^{30}"], [r"\left(\frac16\right)^{31}"]),
    ("10^{-30}", [r"\frac{1}{10^{30}}"], ["10^{-31}", "-10^{-30}"]),
    ("2^{-1000}", [r"\frac{1}{2^{1000}}"], ["2^{-1001}", "0"]),
    (r"\frac{1}{50!}", [r"\frac{51}{51!}"], [r"\frac{1}{51!}"]),
    ("e^{-40}", [r"\frac{1}{e^{40}}"], ["e^{-41}", "0"]),
    (r"\frac{x}{3^{50}}", ["3^{-50}x"], [r"\frac{x}{3^{51}}", "0"]),
    ("x+10^{-20}", ["10^{-20}+x"], ["x", "x+10^{-21}"]),
    (r"1-\frac{1}{3^{50}}", [r"\frac{3^{50}-1}{3^{50}}"], ["1"]),
    (r"\sqrt2+10^{-70}", [r"10^{-70}+\sqrt2"], [r"\sqrt2"]),
    (r"\sqrt6-\sqrt2\sqrt3", ["0"], ["10^{-60}"]),
    ("(10^{-20},1)", [r"(\frac{1}{10^{20}},1)"], ["(0,1)"]),
    ("x=10^{-20}", [r"x=\frac{1}{10^{20}}"], ["x=0"]),
    ("10^{100}", [r"(10^{50})^2"], ["10^{100}+1"]),
]
THOUSANDS: list[Row] = [
    ("48217", [r"48,\! 217", r"48,\!217", "48,217", "48{,}217", r"48\,217", r"48\ 217"], ["48.217", "48, 217", "48"]),
    ("48217", ["48 217", "48\u202f217", "48\u2009217", "48'217"], ["48 21 7", "4,8217", "217"]),
    (r"222, \! 222, \! 222", ["222,222,222", "222222222", r"222,\!222,\!222"], ["222", "222, 222", "222,222"]),
    (r"1,\!000,\!000", ["1000000", "1,000,000", "1, 000, 000"], ["1", "0", "1, 0, 0", "1,000"]),
    (r"31,\!250\pi", [r"31250\pi", r"31,250\pi"], [r"250\pi", "31250"]),
    (r"\$15,\!000", ["15000", r"15,\!000\text{ dollars}"], ["15", "1500"]),
    (r"\frac{12,345}{7}", [r"\frac{12345}{7}"], [r"\frac{345}{7}"]),
    ("100, 200", ["100,200", "200, 100"], ["100200", "100"]),
    ("0.000048", [r"0.000\,048"], [r"0.000\,48"]),
    ("12", ["12.0"], ["1 2", "1,2", "1{,}2"]),
    ("1.2", ["1{,}2"], ["12"]),
]
MIXED: list[Row] = [
    (r"\frac{7}{2}", ["3 1/2", "3 1 / 2", r"3\ 1/2", r"3\,\frac12", "3½", "3 ½"], ["31/2", "3, 1/2", "3 - 1/2"]),
    (r"\frac{31}{2}", ["31/2", "15 1/2"], ["3 1/2"]),
    (r"-\frac{5}{2}", ["-2 1/2", r"-2\frac12"], ["2 1/2", "-2 + 1/2", r"-\frac{3}{2}"]),
    (r"\frac{100}{3}", ["33 1/3", "33⅓"], [r"\frac{331}{3}"]),
    (r"\frac{11}{4}", ["2 3/4 cups", r"2\frac{3}{4}\text{ cups}"], ["23/4", "2 1/4 cups"]),
    (r"\frac{7\pi}{2}", [r"3 1/2 \pi", r"3\frac12\pi"], [r"31/2 \pi"]),
    ("x=3.5", ["x = 3 1/2"], ["x = 31/2"]),
]
WORDS: list[Row] = [
    ("9", ["9 dollars", "9 marbles", "9 red marbles", "9 ways to do it", "9 years old", "9 (units)", "9 quarters"], []),
    ("9", ["9 cm", "9cm", "9 cm^2", "9 cm²", "9 m/s", "9 miles per hour", "9 units squared", "9 ordered pairs"], []),
    ("9", [r"\text{9 cm}", r"9\text{ cm}^{2}", r"9\,\mathrm{cm}^2", r"9\ \mathrm{cm^{2}}"], ["9 cm by 3 cm"]),
    ("9", [r"9\,\text{m}\cdot\text{s}^{-1}", "9 m", r"9\text{ m}", "9 degrees", r"9^\circ", "9°C"], ["9 squared"]),
    ("9", [r"9^{\text{th}}", "9^{th}", r"9\text{th}", "9th", "9ᵗʰ", "9th place"], ["10th", "9rd", r"10^{\text{th}}"]),
    ("21", [r"21^{\text{st}}", "21st", r"21\textsuperscript{st}"], [r"21^{\text{th}}", "2 1st"]),
    ("9", ["$9", r"\$9", "USD 9", "9 USD", "9 percent", r"9\%"], ["9 halves", "9 tenths", "9 hundredths"]),
    ("9", [], [r"9\text{ hundred}", r"9\text{ pairs}", "9 thousand", r"9\text{ million}", "9 dozen eggs", "9 pairs"]),
    ("9", [], ["9 and a half", r"9\text{ or more}", r"9\text{ or }10", "9 plus 2", "9 feet 3 inches", "9 over 2"]),
    ("9", [], ["9m", "9t", "9x", "9 x", "9 xyz", "9ab", r"9\text{i}", "9i", r"9\pi", "9 sin x", "9!", "9 mod 10"]),
    ("9", [], ["10 dollars", "90 cm", "-9 dollars", "19 marbles", "9^2", r"9^{2} \text{ cm}"]),
    ("9m", ["9 m"], ["9", "9 cm"]),
    ("900", [r"9\text{ hundred}"], ["9"]),
    ("2,500,000", ["2.5 million", r"\$2.5\text{ million}"], ["2.5"]),
    (r"5\text{ million}", ["5,000,000", "5 million"], ["5"]),
    (r"9\text{ pairs}", ["9 pairs"], ["9"]),
    ("9 feet", ["9 ft", "9", "9 square feet"], ["9 inches", "9 feet north or south"]),
    ("9 dollars", ["$9", "9"], ["9 cents"]),
    (r"6\pi", [r"6\pi\text{ cm}", r"6\pi cm^2"], ["6 cm"]),
    ("x=9", ["9 marbles", "x = 9 cm"], ["9x"]),
    (r"\text{7 a.m.}", ["7 am"], ["7 p.m."]),
]
UNICODE: list[Row] = [
    (r"4\sqrt5", ["4√5", "4√(5)", "4 √ 5"], ["4√6", "√45", "4∛5"]),
    ("x^2+3", ["x²+3", "x² + 3", "𝑥²+3"], ["x³+3", "x2+3"]),
    (r"\frac12", ["½", "1⁄2", "1÷2"], ["⅓", "1½"]),
    ("1201_3", ["1201₃"], ["1201₄", "1021₃"]),
    ("6x", ["2·3x", "2×3x", "2⋅3x"], ["2·4x"]),
    (r"\frac{\sqrt3}{2}", ["√3/2", "(√3)/2", "½√3"], ["√(3/2)"]),
    (r"\sqrt[3]{5}", ["∛5", "³√5"], ["√5", "3√5"]),
    (r"2\sqrt{x+1}", ["2√(x+1)"], ["2√x+1"]),
    ("10^{-3}", ["10⁻³"], ["10³", "10^-2"]),
    (r"\log_2 8", ["log₂8"], ["log₃8"]),
    (r"\frac{\pi}{2}", ["π/2", "½π"], ["2/π"]),
    (r"(-\infty,3)\cup[5,\infty)", ["(−∞, 3) ∪ [5, ∞)"], ["(−∞, 3] ∪ [5, ∞)"]),
    (r"x\le3", ["x ≤ 3", "x⩽3"], ["x ≥ 3", "x < 3"]),
    (r"1\pm\sqrt2", ["1 ± √2"], ["1 + √2"]),
    ("35", ["３５", "٣٥"], ["３"]),
    (r"\theta", ["θ"], ["φ"]),
    ("x_1", ["x₁"], ["x₂"]),
]
COMPLEX: list[Row] = [
    (r"\frac{1}{2}+\frac{3}{2}i", [r"\frac{1+3i}{2}", r"\frac12(1+3i)", "0.5+1.5i"], [r"\frac{1-3i}{2}"]),
    (r"\frac{5}{13}-\frac{12}{13}i", [r"\frac{5-12 i}{13}", r"\frac{-12i+5}{13}"], [r"\frac{12-5i}{13}"]),
    ("2+3i", ["3i+2", r"2+3\cdot i", r"2+3\text{i}", r"2+3\mathrm{i}", "2+i3"], ["2-3i", "3+2i", "5", "2+3"]),
    (r"i\sqrt3", [r"\sqrt{3}i", r"\sqrt{-3}", "√3 i"], [r"-i\sqrt3", r"\sqrt3"]),
    (r"e^{i\pi/3}", [r"\frac12+\frac{\sqrt3}{2}i"], [r"\frac12-\frac{\sqrt3}{2}i"]),
    ("1+2i,1-2i", [r"1\pm2i", "1-2i, 1+2i"], ["1+2i", "1+2i, 2-i"]),
    ("1-i", [r"\frac{2}{1+i}"], [r"\frac{2}{1-i}"]),
    ("a+bi", ["bi+a"], ["a-bi"]),
    ("5", ["5+0i"], ["5i"]),
]
KINDS = {
    "decimals": DECIMALS,
    "very small numbers": VERY_SMALL,
    "thousands": THOUSANDS,
    "mixed numbers": MIXED,
    "words after a number": WORDS,
    "Unicode": UNICODE,
    "complex numbers": COMPLEX,
}
RIGHT = [(kind, gold, answer) for kind, rows in KINDS.items() for gold, right, _ in rows for answer in right]
WRONG = [(kind, gold, answer) for kind, rows in KINDS.items() for gold, _, wrong in rows for answer in wrong]


@pytest.mark.parametrize(("kind", "gold", "answer"), RIGHT)
def test_another_spelling_of_the_gold_answer_is_right(kind: str, gold: str, answer: str) -> None:
    assert answers_equal(gold, answer), kind
    assert answers_equal(answer, gold), kind


@pytest.mark.parametrize(("kind", "gold", "answer"), WRONG)
def test_an_answer_that_looks_like_the_gold_one_is_wrong(kind: str, gold: str, answer: str) -> None:
    assert not answers_equal(gold, answer), kind
    assert not answers_equal(answer, gold), kind


@pytest.mark.parametrize("gold", sorted({gold for rows in KINDS.values() for gold, _, _ in rows}))
def test_every_gold_answer_is_right_for_itself(gold: str) -> None:
    assert answers_equal(gold, gold)
    assert answers_equal(gold, f"${gold}$.")


@given(st.integers(-(10**12), 10**12), st.integers(0, 12), st.integers(-3, 3))
def test_decimals_are_equal_exactly_where_their_numbers_are(digits: int, places: int, change: int) -> None:
    def decimal(number: int) -> str:
        sign, text = "-" if number < 0 else "", f"{abs(number):0{places + 1}}"
        return f"{sign}{text[: len(text) - places]}.{text[len(text) - places :]}" if places else f"{sign}{text}"

    assert plainly_equal(decimal(digits), decimal(digits + change)) is (change == 0)
    assert value_of(decimal(digits)) == Fraction(digits, 10**places)


@given(st.integers(1000, 10**15))
def test_a_number_is_the_same_however_its_digits_are_grouped(number: int) -> None:
    for separator in (r",\!", r", \! ", "{,}", r"\,", ",", " ", "\u2009"):
        assert plainly_equal(str(number), f"{number:,}".replace(",", separator)) is True
        assert plainly_equal(str(number + 1), f"{number:,}".replace(",", separator)) is False


@given(st.fractions(min_value=-(10**6), max_value=10**6, max_denominator=10**4))
def test_a_numeral_has_the_value_that_it_was_made_from(value: Fraction) -> None:
    assert value_of(numeral(value)) == value
    assert stands_for(value, value)
    assert not stands_for(value + 1, value)


@given(st.text(max_size=20))
def test_any_text_can_be_read(text: str) -> None:
    assert isinstance(plainly_equal(text, "9"), bool | None)
    assert to_latex(text).isascii() or not text.isascii()
    assert measure(tidy(text)).value is not None


@pytest.mark.parametrize(
    "text", ["9 cm ", "9 or ", "√", "½", "(", "√(", "1,000", "1 ", r"\text{a}", "9^{", r"\frac", "²", "a "]
)
def test_long_answers_are_read_in_linear_time(text: str) -> None:
    began = time.process_time()
    plainly_equal(text * (50_000 // len(text)), "9")
    assert time.process_time() - began < 5
