"""Confidence intervals, paired tests, and figures of a trigger as a detector."""

from __future__ import annotations

from dpc.stats.detectors import Detector, OperatingPoint, auc, auc_interval, detector, operating_curve, oracle
from dpc.stats.hypotheses import CountTest, RankTest, fisher_exact, holm, mann_whitney, mcnemar_exact
from dpc.stats.intervals import (
    Interval,
    between_seeds,
    fixed_broken,
    paired_bootstrap,
    paired_difference,
    wilson,
)
from dpc.stats.paired import Comparison, compare

__all__ = [
    "Comparison",
    "CountTest",
    "Detector",
    "Interval",
    "OperatingPoint",
    "RankTest",
    "auc",
    "auc_interval",
    "between_seeds",
    "compare",
    "detector",
    "fisher_exact",
    "fixed_broken",
    "holm",
    "mann_whitney",
    "mcnemar_exact",
    "operating_curve",
    "oracle",
    "paired_bootstrap",
    "paired_difference",
    "wilson",
]
