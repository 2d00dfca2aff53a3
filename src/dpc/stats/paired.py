"""Comparison of two sets of answers to the same instances: difference, intervals, test, counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dpc.stats.hypotheses import mcnemar_exact
from dpc.stats.intervals import Interval, fixed_broken, paired_bootstrap, paired_difference


@dataclass(frozen=True, slots=True)
class Comparison:
    """The accuracy of the second minus that of the first, a share of one, and what stands beside it.

    interval: Tango's score interval. bootstrap: the paired percentile bootstrap's. p: McNemar's exact test.
    fixed: wrong at first, right then. broken: right at first, wrong then.
    """

    n: int
    difference: float
    interval: Interval
    bootstrap: Interval
    p: float
    fixed: int
    broken: int


def compare(first: Sequence[bool], second: Sequence[bool]) -> Comparison:
    """Compare two sets of grades of the same instances in the same order; 95% intervals.

    Raises:
        ValueError: on unequal lengths, or without an instance.
    """
    fixed, broken = fixed_broken(first, second)
    bootstrap = paired_bootstrap(first, second)
    return Comparison(
        n=len(first),
        difference=(fixed - broken) / len(first),
        interval=paired_difference(first, second),
        bootstrap=bootstrap,
        p=mcnemar_exact(fixed, broken),
        fixed=fixed,
        broken=broken,
    )
