"""Aggregates over instances: means with bootstrap bands, counts with tests, the typical and the clearest instance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from dpc.analysis.charts import Curve, Mean, Share
from dpc.analysis.store import Array, InstanceFlow
from dpc.stats import CountTest, fisher_exact, wilson

RESAMPLES = 10_000
# Resamples in memory at once, times instances: 32 MiB.
_AT_ONCE = 2**22
# The definitions of a changed late flow.
LATE_OVER_EARLY = "S_late > early mean"
MANY_LATE = "R > tau"
OVER_MEDIAN = "S_late > median"


def bootstrap_means(
    values: Float[Array, "instance ..."], seed: int = 0, resamples: int = RESAMPLES
) -> Float[Array, "resample ..."]:
    """Means over instances that are drawn again with replacement; the counts of each instance are multinomial.

    Source: Efron 1979, doi:10.1214/aos/1176344552.
    """
    count, draw = len(values), np.random.default_rng(seed)
    flat = values.reshape(count, -1)
    step = max(1, _AT_ONCE // count)
    sizes = [min(step, resamples - start) for start in range(0, resamples, step)]
    means = [draw.multinomial(count, np.full(count, 1 / count), size=size) @ flat / count for size in sizes]
    return np.concatenate(means).reshape(resamples, *values.shape[1:])


def curve(flow: str, group: str, values: Float[Array, "instance layer"]) -> Curve:
    """Mean over instances in each layer, with a 95% percentile interval of the bootstrap, layer by layer."""
    low, high = np.quantile(bootstrap_means(values), [0.025, 0.975], axis=0)
    return Curve(flow, group, len(values), values.mean(0), low, high)


def peaks_within(values: Float[Array, "instance layer"], layers: Sequence[int]) -> float:
    """In what share of resamples the mean over instances is largest in one of ``layers``."""
    return float(np.isin(bootstrap_means(values).argmax(-1), layers).mean())


def mean_of(group: str, values: Float[Array, " instance"]) -> Mean:
    """A mean with a 95% percentile interval of the bootstrap."""
    low, high = np.quantile(bootstrap_means(values), [0.025, 0.975])
    return Mean(group, len(values), float(values.mean()), float(low), float(high))


def difference_of_means(first: Float[Array, " instance"], second: Float[Array, " other"]) -> tuple[float, float]:
    """95% percentile interval of the mean of ``second`` minus that of ``first``, each resampled on its own."""
    differences = bootstrap_means(second, seed=1) - bootstrap_means(first, seed=0)
    low, high = np.quantile(differences, [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Dependence:
    """Whether late flow changes more often where information accumulated, under one definition of changed.

    test: Fisher's exact test, None where the table of counts has one row or one column. missing: which one it lacks,
    in words; empty where it lacks none.
    """

    accumulated: Share
    even: Share
    test: CountTest | None
    missing: str


def changed_flow(flows: Sequence[InstanceFlow], tau: float) -> Mapping[str, Bool[Array, " instance"]]:
    """Which instances' late flow has changed, by each definition.

    The paper compares ``S_late`` with a threshold that it does not give (section 2.2.1). ``S_late`` has the scale of
    the loss. Only the third definition depends on that scale, and it halves the instances by construction.
    """
    late, beta, ratio = (np.array([getattr(f, name) for f in flows]) for name in ("late_flow", "beta", "ratio"))
    return {LATE_OVER_EARLY: late > beta, MANY_LATE: ratio > tau, OVER_MEDIAN: late > np.median(late)}


def dependence(definition: str, accumulated: Bool[Array, " instance"], changed: Bool[Array, " instance"]) -> Dependence:
    """Shares with changed flow among instances with and without accumulation, and Fisher's exact test of the table."""
    with_it, without = (_share(definition, state, changed[accumulated == state]) for state in (True, False))
    table = [[share.changed, share.instances - share.changed] for share in (with_it, without)]
    missing = _missing(accumulated, changed)
    return Dependence(with_it, without, None if missing else fisher_exact(table), missing)


def _missing(accumulated: Bool[Array, " instance"], changed: Bool[Array, " instance"]) -> str:
    """Which row or column a table of counts lacks. Without it there is nothing to compare, whatever the counts are."""
    if accumulated.all() or not accumulated.any():
        return f"{'every' if accumulated.any() else 'no'} instance has accumulation"
    if changed.all() or not changed.any():
        return f"{'every' if changed.any() else 'no'} instance has changed late flow"
    return ""


def _share(definition: str, accumulated: bool, changed: Bool[Array, " instance"]) -> Share:
    count, total = int(changed.sum()), len(changed)
    interval = wilson(count, total)
    return Share(definition, accumulated, total, count, count / total if total else None, interval.low, interval.high)


def typical(flows: Sequence[InstanceFlow]) -> int:
    """The instance with the median ``S_late``, the lower one of two. No other criterion is used."""
    order = sorted(range(len(flows)), key=lambda index: (float(flows[index].late_flow), index))
    return order[(len(order) - 1) // 2]


def most(flows: Sequence[InstanceFlow], what: Callable[[InstanceFlow], float]) -> int:
    """The first instance with the largest value of ``what``."""
    return max(range(len(flows)), key=lambda index: (what(flows[index]), -index))
