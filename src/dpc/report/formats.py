"""How numbers and names are written in tables, sentences and pages."""

from __future__ import annotations

UNDEFINED = "–"
SIGNIFICANT = 0.05
# The bounds of a statistic without bounds are the largest floats.
UNBOUNDED = 1e300


def percent(share: float | None) -> str:
    """A share of one, as a percentage with one decimal; a dash where it is not defined."""
    return UNDEFINED if share is None else f"{100 * share:.1f}"


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign unless it rounds to zero."""
    text = _minus(f"{100 * difference:+.1f}")
    return text[1:] if text[1:] == "0.0" else text


def p_value(p: float) -> str:
    """``p = ...``, with as many decimals as keep it on its side of 0.05."""
    if p < 0.001:
        return "p < 0.001"
    texts = (f"{p:.{decimals}f}" for decimals in range(2 if p >= 0.1 else 3, 18))
    return "p = " + next(text for text in texts if (float(text) < SIGNIFICANT) == (p < SIGNIFICANT))


def seconds(value: float) -> str:
    """Seconds with one decimal under 100, none above."""
    return f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def number(value: float) -> str:
    """A figure without a unit, three significant digits."""
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    return _minus(mantissa) + (f" × {power_of_ten(int(exponent))}" if exponent else "")


def method_label(name: str) -> str:
    """A method's name as it is written in prose."""
    return {"dpc": "DPC", "act": "ACT"}.get(name, name.replace("_", " "))


def statistic_label(trigger: str) -> str:
    """What a trigger's statistic is called: R for the paper's trigger, else the trigger's name."""
    return "R" if trigger == "flow" else trigger.replace("_", " ")


def threshold_words(threshold: float, trigger: str = "flow") -> str:
    """A threshold, with "always" or "never" where it means that. R is a share; others have no bounds of their own."""
    low, high = (0.0, 1.0) if trigger == "flow" else (-UNBOUNDED, UNBOUNDED)
    if trigger != "flow" and abs(threshold) >= UNBOUNDED:
        return "always" if threshold < 0 else "never"
    words = " (always)" if threshold < low else " (never)" if threshold >= high else ""
    return number(threshold) + words


def power_of_ten(exponent: int) -> str:
    """``10⁻³`` for -3."""
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _minus(text: str) -> str:
    return text.replace("-", "−")
