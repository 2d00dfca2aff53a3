"""The paper's figures from measured instances: what is drawn, a finding in a sentence, the numbers of its tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dpc.analysis.aggregates import (
    LATE_OVER_EARLY,
    MANY_LATE,
    Dependence,
    changed_flow,
    curve,
    dependence,
    difference_of_means,
    mean_of,
    most,
    peaks_within,
    typical,
)
from dpc.analysis.charts import Chart, CoOccurrence, Distributions, HeatMap, HeatMaps, LayerCurves, Means, pooled_map
from dpc.analysis.instances import Instance
from dpc.analysis.marked_columns import attention_sinks, gathering_columns
from dpc.analysis.store import Array, InstanceFlow, InstanceMap
from dpc.flow.shallow import name_layers
from dpc.report.formats import number, p_value
from dpc.settings import ActSettings
from dpc.stats import RankTest, mann_whitney

MOST_CELLS = 160
Measured = tuple[Instance, InstanceFlow]
Depth = Literal["shallow", "last"]


@dataclass(frozen=True, slots=True)
class Material:
    """What figures are made from: measured instances, and a function that gives the whole map of one.

    drawn: of all instances. right, wrong: drawn among those alone. recorded: ``S_late`` of every judged instance in the
    records, with whether its answer is right. shallow: layers of Eq 6. layers: all with softmax
    attention. k: of Eq 7.
    """

    drawn: Sequence[Measured]
    right: Sequence[Measured]
    wrong: Sequence[Measured]
    recorded: Sequence[tuple[float, bool]]
    map_of: Callable[[Instance], InstanceMap]
    shallow: tuple[int, ...]
    layers: tuple[int, ...]
    k: float
    tau: float


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure. finding: a sentence. caption: how it was made. numbers: what is drawn and tested, as JSON values."""

    title: str
    finding: str
    caption: str
    numbers: dict[str, Any]
    chart: Chart


class MissingError(Exception):
    """The run has no instance of a kind that a figure shows; the message names the kind."""


def build_figure(name: str, material: Material) -> Figure:
    """The figure ``name`` of ``FIGURES``. Raises ``MissingError`` where it would show no instance."""
    return FIGURES[name](material)


def _layer_curves(m: Material) -> Figure:
    groups = {"all": m.drawn, "right": m.right, "wrong": m.wrong}
    values = {
        (flow, group): np.stack([getattr(f, field) for _, f in members])
        for flow, field in (("question", "to_question"), ("rationale", "to_rationale"))
        for group, members in groups.items()
        if members
    }
    curves = tuple(curve(flow, group, value) for (flow, group), value in values.items())
    numbers = {
        flow: {
            "peak_layer": m.layers[int(values[flow, "all"].mean(0).argmax())],
            "resamples_with_peak_in_shallow_layers": peaks_within(
                values[flow, "all"], [m.layers.index(layer) for layer in m.shallow]
            ),
        }
        for flow in ("question", "rationale")
    }
    where = name_layers(m.shallow)
    peaks = "; ".join(
        f"to the {flow} it peaks in layer {n['peak_layer']}, in {where} in "
        f"{n['resamples_with_peak_in_shallow_layers']:.0%} of resamples"
        for flow, n in numbers.items()
    )
    sizes = ", ".join(f"{len(members)} {_OF[group]}" for group, members in groups.items() if members)
    return Figure(
        "Flow of information from the soft prompt, layer by layer",
        f"Of {_counted(m.layers)}: {peaks}.",
        f"Mean saliency S_pq (Eqs 2, 3) and S_pr (Eqs 4, 5) over instances ({sizes}) with 95% intervals of the "
        f"bootstrap. Grey: {where}, the shallow ones.",
        {"shallow_layers": list(m.shallow), **numbers},
        LayerCurves(curves, m.shallow, m.layers),
    )


def _shallow_map(m: Material) -> Figure:
    instance, flow = m.drawn[most([f for _, f in m.drawn], lambda f: float(f.concentration))]
    times = float(flow.concentration)
    token = int(flow.profile.argmax())
    heat = _heat(m, instance, "shallow", "saliency", "", frozenset({token}) if times > m.k else frozenset())
    share = sum(float(f.concentration) > m.k for _, f in m.drawn)
    return Figure(
        "Saliency in the shallow layers",
        f"In {instance.example.id} virtual token {token} gathers {number(times)} times the mean "
        f"({'over' if times > m.k else 'not over'} k = {m.k:g}); over k in {share} of {len(m.drawn)} instances.",
        f"Eq 1, mean over {name_layers(m.shallow)}, of the instance with the most accumulation (Eq 7) among the "
        f"{len(m.drawn)} drawn: the clearest case, not a typical one. Its answer is {_verdict(instance)}.",
        {"example_id": instance.example.id, "correct": instance.correct, "virtual_token": token, "times_mean": times},
        HeatMaps((heat,), 1),
    )


def _right_and_wrong(m: Material) -> Figure:
    both = [_typical(m.right, "right"), _typical(m.wrong, "wrong")]
    maps = tuple(
        _heat(m, instance, depth, "saliency", f"{_verdict(instance)}, ", _gathering(m, instance, depth))
        for instance, _ in both
        for depth in _DEPTHS
    )
    said = [f"{i.example.id} ({_verdict(i)}) {_described(f, m)}" for i, f in both]
    return Figure(
        "Saliency in shallow and last layers of a right and a wrong answer",
        f"{'; '.join(said)}.",
        f"Eq 1, mean over {name_layers(m.shallow)}, and the last layer. The instances are the ones with the median "
        f"S_late among {len(m.right)} right and {len(m.wrong)} wrong ones: typical, not the clearest cases. {_MARKED}",
        {_verdict(i): {"example_id": i.example.id} | _values(f, m) for i, f in both},
        HeatMaps(maps, 2),
    )


def _co_occurrence(m: Material) -> Figure:
    flows = [f for _, f in m.drawn]
    accumulated = np.array([f.concentration > m.k for f in flows])
    found = {name: dependence(name, accumulated, changed) for name, changed in changed_flow(flows, m.tau).items()}
    first = found[LATE_OVER_EARLY]
    ranks = _concentration_ranks(flows, changed_flow(flows, m.tau)[LATE_OVER_EARLY])
    numbers = {
        name: {
            "accumulated": {"changed": d.accumulated.changed, "instances": d.accumulated.instances},
            "not_accumulated": {"changed": d.even.changed, "instances": d.even.instances},
            "odds_ratio": None if d.test is None else _finite(d.test.odds_ratio),
            "p": None if d.test is None else d.test.p,
            "missing": d.missing or None,
        }
        for name, d in found.items()
    }
    return Figure(
        "Accumulation in shallow layers and changed flow in the last layer",
        f"Late flow is changed ({LATE_OVER_EARLY}) in {first.accumulated.changed} of {first.accumulated.instances} "
        f"instances with accumulation and {first.even.changed} of {first.even.instances} without; "
        f"{_tested(first)}. "
        + (
            ""
            if ranks is None
            else f"Without a k: where it is changed, the largest S_acc over the mean is the higher one in "
            f"{ranks.auc:.0%} of pairs ({p_value(ranks.p)})."
        ),
        f"Accumulation: one virtual token's S_acc over k = {m.k:g} times the mean (Eq 7). Changed: the last layer's "
        "mean saliency from the prompt over the late rationale (S_late) exceeds that over the early one; beside it two "
        f"other readings of the paper, {MANY_LATE} = {number(m.tau)}, and S_late over the median of the instances. "
        f"{len(flows)} instances, drawn at random; Wilson's 95% intervals; p of Fisher's exact test, two-sided.",
        {"k": m.k, "tau": m.tau, "definitions": numbers, "concentration_in_changed": ranks and _rank_numbers(ranks)},
        CoOccurrence(
            tuple(share for d in found.values() for share in (d.accumulated, d.even)),
            {name: None if d.test is None else d.test.p for name, d in found.items()},
        ),
    )


def _distributions(m: Material) -> Figure:
    groups, test = _late_flows(m)
    everywhere = _recorded(m)
    whole = mann_whitney(everywhere["wrong"].tolist(), everywhere["right"].tolist())
    assert whole is not None
    medians = {name: float(np.median(values)) for name, values in groups.items()}
    counts = f"{len(everywhere['right'])} right and {len(everywhere['wrong'])} wrong"
    return Figure(
        "Late influence of the soft prompt in right and wrong answers",
        f"A wrong answer has the higher S_late in {test.auc:.0%} of pairs ({p_value(test.p)}); over all {counts} "
        f"answers of the run in {whole.auc:.0%} ({p_value(whole.p)}).",
        f"S_late (Eqs 8, 9) of {len(groups['right'])} right and {len(groups['wrong'])} wrong answers, drawn at random; "
        f"medians {number(medians['right'])} and {number(medians['wrong'])}. Mann-Whitney's test, two-sided; its "
        f"effect size is the share of pairs, rank-biserial correlation {test.rank_biserial:+.2f}.",
        {
            "median": medians,
            "mann_whitney": _rank_numbers(test),
            "all_records": {name: len(values) for name, values in everywhere.items()} | _rank_numbers(whole),
        },
        Distributions(
            {name: tuple(values.tolist()) for name, values in groups.items()},
            {n: tuple(i.example.id for i, _ in members) for n, members in (("right", m.right), ("wrong", m.wrong))},
        ),
    )


def _means(m: Material) -> Figure:
    groups, test = _late_flows(m)
    means = tuple(mean_of(name, values) for name, values in groups.items())
    low, high = difference_of_means(groups["right"], groups["wrong"])
    by_group = {mean.group: mean.mean for mean in means}
    difference = by_group["wrong"] - by_group["right"]
    whole = _recorded(m)
    everywhere = {name: float(values.mean()) for name, values in whole.items()}
    limits = difference_of_means(whole["right"], whole["wrong"])
    return Figure(
        "Mean late influence of the soft prompt in right and wrong answers",
        f"Mean S_late {number(by_group['right'])} right, {number(by_group['wrong'])} wrong; "
        f"difference {number(difference)} ({number(low)} to {number(high)}). Over all answers of the run "
        f"{number(everywhere['right'])} and {number(everywhere['wrong'])}; "
        f"difference {number(everywhere['wrong'] - everywhere['right'])} ({number(limits[0])} to {number(limits[1])}).",
        "The means of figure 4b with 95% intervals of the bootstrap. Few instances with a large loss can dominate a "
        "mean of saliency; Mann-Whitney's test depends on ranks alone: "
        f"{p_value(test.p)}, rank-biserial correlation {test.rank_biserial:+.2f}.",
        {
            "means": {mean.group: {"mean": mean.mean, "interval": [mean.low, mean.high]} for mean in means},
            "difference": {"wrong_minus_right": difference, "interval": [low, high]},
            "mann_whitney": _rank_numbers(test),
            "all_records": {"means": everywhere, "interval": list(limits)},
        },
        Means(means),
    )


def _attention_and_saliency(m: Material) -> Figure:
    instance, _ = _typical(m.wrong, "wrong") if m.wrong else m.drawn[typical([f for _, f in m.drawn])]
    measured = m.map_of(instance)
    maps: list[HeatMap] = []
    numbers: dict[str, dict[str, Any]] = {}
    words = []
    for index, depth in enumerate(_DEPTHS):
        sinks = np.flatnonzero(attention_sinks(measured.attention[index]))
        columns = _gathering(m, instance, depth)
        maps.append(_heat(m, instance, depth, "attention", "", frozenset(sinks.tolist())))
        maps.append(_heat(m, instance, depth, "saliency", "", columns))
        tokens = [[str(measured.tokens[at]) for at in sorted(where)] for where in (sinks.tolist(), columns)]
        both = len(columns & set(sinks.tolist()))
        numbers[depth] = {"sinks": sinks.tolist(), "sink_tokens": tokens[0]}
        numbers[depth] |= {"saliency_columns": sorted(columns), "saliency_tokens": tokens[1], "both": both}
        words.append(f"{_NAMES[depth]}: {len(sinks)} sinks, {len(columns)} columns of saliency, {both} of them both")
    return Figure(
        "Attention beside saliency",
        f"{instance.example.id}: {'; '.join(words)}.",
        f"Attention, mean over heads, and saliency (Eq 1) of the {_verdict(instance)} answer with the median S_late. "
        f"Marked: attention sinks, with a mean attention above {ActSettings().alpha:g} / N over the later rows of "
        f"question and rationale, N being all positions; and columns of saliency. {_MARKED}",
        {"example_id": instance.example.id, "k": m.k, **numbers},
        HeatMaps(tuple(maps), 2),
    )


FIGURES: Mapping[str, Callable[[Material], Figure]] = {
    "2a": _layer_curves,
    "2b": _shallow_map,
    "3": _right_and_wrong,
    "4a": _co_occurrence,
    "4b": _distributions,
    "4c": _means,
    "6": _attention_and_saliency,
}

_OF = {"all": "drawn of all", "right": "of the right ones", "wrong": "of the wrong ones"}
_DEPTHS: tuple[Depth, Depth] = ("shallow", "last")
_NAMES = {"shallow": "shallow layers", "last": "last layer"}
_MARKED = (
    "A column of saliency is marked where its mean over later rows exceeds k times the mean of all columns. "
    "In the last layer a row's saliency comes from its own loss alone, and the question's rows have none but the last."
)


def _typical(members: Sequence[Measured], kind: str) -> Measured:
    if not members:
        raise MissingError(f"no answer of the run is {kind}")
    return members[typical([f for _, f in members])]


def _late_flows(m: Material) -> tuple[dict[str, Array], RankTest]:
    groups = {"right": m.right, "wrong": m.wrong}
    if missing := [name for name, members in groups.items() if not members]:
        raise MissingError(f"no answer of the run is {missing[0]}")
    values = {name: np.array([float(f.late_flow) for _, f in members]) for name, members in groups.items()}
    test = mann_whitney(values["wrong"].tolist(), values["right"].tolist())
    assert test is not None
    return values, test


def _recorded(m: Material) -> dict[str, Array]:
    """``S_late`` of every judged answer of the run, from the records."""
    sides = {"right": True, "wrong": False}
    return {name: np.array([late for late, correct in m.recorded if correct is side]) for name, side in sides.items()}


def _heat(m: Material, instance: Instance, depth: Depth, quantity: str, prefix: str, marked: frozenset[int]) -> HeatMap:
    measured = m.map_of(instance)
    matrix = (measured.saliency if quantity == "saliency" else measured.attention)[_DEPTHS.index(depth)]
    prompt, question, rationale = map(int, measured.lengths)
    marks = np.isin(np.arange(matrix.shape[1]), sorted(marked))
    title = f"{prefix}{_NAMES[depth]}: {quantity}"
    tokens = tuple(map(str, measured.tokens))
    return pooled_map(title, quantity, matrix, tokens, (prompt, question, rationale), marks, MOST_CELLS)


def _gathering(m: Material, instance: Instance, depth: Depth) -> frozenset[int]:
    matrix = m.map_of(instance).saliency[_DEPTHS.index(depth)]
    return frozenset(np.flatnonzero(gathering_columns(matrix, m.k)).tolist())


def _values(flow: InstanceFlow, m: Material) -> dict[str, Any]:
    return {
        "late_flow": float(flow.late_flow),
        "early_flow": float(flow.beta),
        "R": float(flow.ratio),
        "times_mean": float(flow.concentration),
        "accumulated": bool(flow.concentration > m.k),
        "changed": bool(flow.late_flow > flow.beta),
    }


def _described(flow: InstanceFlow, m: Material) -> str:
    values = _values(flow, m)
    gathers = "accumulation" if values["accumulated"] else "no accumulation"
    late = "changed" if values["changed"] else "unchanged"
    return f"shows {gathers} ({number(values['times_mean'])} times the mean) and {late} late flow"


def _verdict(instance: Instance) -> str:
    return "right" if instance.correct else "wrong"


def _counted(layers: Sequence[int]) -> str:
    every = list(layers) == list(range(len(layers)))
    return f"{len(layers)} layers, from 0" if every else f"the layers with softmax attention, {name_layers(layers)}"


def _tested(found: Dependence) -> str:
    """The test of a table of counts, or why there is none."""
    if found.test is None:
        return f"whether the two go together can't be tested: {found.missing}"
    ratio = found.test.odds_ratio
    odds = "not defined" if ratio is None else "infinite" if math.isinf(ratio) else number(ratio)
    return f"odds ratio {odds}, {p_value(found.test.p)}"


def _concentration_ranks(flows: Sequence[InstanceFlow], changed: Array) -> RankTest | None:
    """Whether information is more concentrated where late flow is changed; None where all or none is."""
    values = np.array([float(flow.concentration) for flow in flows])
    return mann_whitney(values[changed].tolist(), values[~changed].tolist())


def _finite(ratio: float | None) -> float | None:
    return None if ratio is None or math.isinf(ratio) else ratio


def _rank_numbers(test: RankTest) -> dict[str, float]:
    return {"u": test.u, "auc": test.auc, "rank_biserial": test.rank_biserial, "p": test.p}
