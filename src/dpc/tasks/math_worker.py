"""The program that compares mathematical answers with math-verify: questions as JSON lines in, one byte a line out.

It runs in a process of its own (``equality.py`` starts it), so an expression may hang or crash it. math-verify's own
time limit is not used: it interrupts Python code only, and a power tower is computed outside of Python.

math-verify parses LaTeX and compares lists, sets, intervals, relations and matrices part by part. Two of its rules are
replaced. It rounds decimals to six places and accepts differences below 1e-15; here, numbers are compared exactly. It
drops a letter such as the t in ``9t`` as a unit; here, units were removed before (``units.py``).
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys
from dataclasses import replace
from fractions import Fraction
from typing import Any

from dpc.tasks.numerals import rounds_alike, stands_for

READY, EQUAL, DIFFERENT = b"ready\n", b"1\n", b"0\n"
MEMORY_BYTES = 4 * 1024**3
# Digits to which constants that are no fractions are evaluated. Two are equal where all but the last ten digits agree.
DIGITS = 60


def equal(gold: str, answer: str) -> bool:
    """Whether math-verify finds ``answer`` equal to ``gold``; both in LaTeX without dollar signs. Not symmetric.

    Source: https://github.com/huggingface/Math-Verify/tree/5871e2d485e90ffe39dd3555b87dfada6af89565 (0.9.0)
    """
    from math_verify import LatexExtractionConfig, parse, verify

    use_exact_numbers()
    normalization = LatexExtractionConfig().normalization_config
    reading = [LatexExtractionConfig(normalization_config=replace(normalization, units=False))]
    left, right = (
        [_with_imaginary_unit(part) for part in parse(rf"\boxed{{{text}}}", reading, parsing_timeout=None)]
        for text in (gold, answer)
    )
    # An interval may be answered by the inequality that describes it.
    return bool(verify(left, right, timeout_seconds=None, allow_set_relation_comp=True))


def use_exact_numbers() -> None:
    """Replace math-verify's comparison of expressions, which has absolute tolerances, by ``expressions_equal``."""
    from math_verify import grader

    assert callable(grader.sympy_numeric_eq)
    assert callable(grader.sympy_symbolic_eq)
    grader.sympy_numeric_eq = lambda gold, answer, *_: expressions_equal(gold, answer)
    grader.sympy_symbolic_eq = lambda gold, answer: False


def _with_imaginary_unit(parsed: Any) -> Any:
    """``parsed`` with i as the imaginary unit, unless it is a bound variable. math-verify parses i as a variable."""
    from sympy import I

    units = {symbol: I for symbol in getattr(parsed, "free_symbols", ()) if symbol.name == "i"}
    return parsed.xreplace(units) if units else parsed


def expressions_equal(gold: Any, answer: Any) -> bool:
    """Whether two sympy expressions, or two matrices of them, are equal.

    Decimals inside of an expression are exact. One that stands alone is compared by ``stands_for``.
    """
    from math_verify.grader import get_pct_val
    from sympy import MatrixBase

    if isinstance(gold, MatrixBase) and isinstance(answer, MatrixBase):
        pairs = zip(gold.flat(), answer.flat(), strict=False)
        return gold.shape == answer.shape and all(expressions_equal(one, other) for one, other in pairs)
    shares = get_pct_val(gold), get_pct_val(answer)
    # A share in percent may also be given without its sign.
    if any(share is not None for share in shares) and _terms_equal(
        *(term if share is None else share for term, share in zip((gold, answer), shares, strict=True))
    ):
        return True
    return _terms_equal(gold, answer)


def _terms_equal(gold: Any, answer: Any) -> bool:
    from sympy import Float, simplify

    decimals = isinstance(gold, Float), isinstance(answer, Float)
    left, right = _exact(gold), _exact(answer)
    if decimals[0] != decimals[1]:
        decimal, exact = (left, right) if decimals[0] else (right, left)
        value, written = _fraction(exact), Fraction(int(decimal.p), int(decimal.q))
        if value is None:
            return False
        return stands_for(written, value) if exact.is_Rational else rounds_alike(written, value)
    difference = left - right
    if difference.is_Rational:
        return bool(difference == 0)
    agree = _agree(left, right)
    if agree is None or (agree and difference.free_symbols):
        return bool(difference.expand() == 0 or simplify(difference).is_zero)
    return agree


def _exact(expression: Any) -> Any:
    """The expression with every decimal as a fraction, evaluated."""
    from sympy import Float, Rational

    return expression.xreplace({part: Rational(str(part)) for part in expression.atoms(Float)}).doit()


def _fraction(constant: Any) -> Fraction | None:
    """A real constant as a fraction, to ``DIGITS`` digits where it is none; None for what is no real constant."""
    from sympy import Rational

    value = constant if constant.is_Rational else _evaluated(constant)
    if value is None or not value.is_Number:
        return None
    rational = Rational(value)
    return Fraction(int(rational.p), int(rational.q))


def _agree(left: Any, right: Any) -> bool | None:
    """Whether two expressions have one value, for one choice of their variables; None where that cannot be computed."""
    from sympy import Rational, prime

    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    point = {symbol: Rational(prime(number), 7) for number, symbol in enumerate(symbols, 5)}
    values = [_evaluated(expression.xreplace(point)) for expression in (left, right)]
    if any(value is None for value in values):
        return None
    return bool(abs(values[0] - values[1]) <= Rational(10) ** (10 - DIGITS) * max(map(abs, values)))


def _evaluated(constant: Any) -> Any:
    """The value of a constant to ``DIGITS`` digits; None where they cannot be computed, as for terms that cancel."""
    from sympy.core.evalf import PrecisionExhausted

    try:
        value = constant.evalf(DIGITS, strict=True)
    except PrecisionExhausted:
        return None
    finite = all(part.is_Number and part.is_finite for part in value.as_real_imag())
    return value if finite else None


def main(cpu_seconds: float) -> None:
    """Answer questions until the input ends. One that takes longer than ``cpu_seconds`` ends the process instead."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES if most < 0 else min(MEMORY_BYTES, most), most))
    logging.disable()
    equal("1", "2")
    answers = sys.stdout.buffer
    answers.write(READY)
    answers.flush()
    for line in sys.stdin.buffer:
        gold, answer = json.loads(line)
        # Seconds of the processor, not of the clock: a busy machine grades as an idle one does.
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        try:
            verdict = equal(gold, answer)
        except Exception:
            verdict = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(EQUAL if verdict else DIFFERENT)
        answers.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]))
