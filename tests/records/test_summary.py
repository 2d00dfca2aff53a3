"""From records to the results of a run: every figure computed again by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpc.flow.thresholds import ALWAYS, NEVER, calibrate
from dpc.flow.trigger import too_short
from dpc.records.results import TriggerCurve, TriggerPoint, parse_results, results_json
from dpc.records.summary import summarize, summarize_run, threshold_curve
from dpc.stats import auc_interval, holm, mcnemar_exact, oracle, paired_bootstrap, wilson
from dpc.types import Answer, Cost, Decision, Example, Generation, Record, Score

RIGHT, WRONG = Score(True, "1", "match"), Score(False, "2", "mismatch")
INSTANCES = st.lists(
    st.tuples(st.one_of(st.none(), st.integers(0, 8).map(lambda i: i / 8)), st.booleans(), st.booleans()),
    min_size=1,
    max_size=30,
)


def answered(
    index: int,
    first: bool,
    second: bool | None = None,
    *,
    ratio: float | None = None,
    tau: float | None = None,
    text: str = "7",
    again: str = "7",
    ids: tuple[int, ...] = (4, 5),
) -> Record:
    """A record: of a second pass where ``second`` is given, of a method with a trigger where ``tau`` is."""
    made = Generation((1, 2, 3, 4), text, "eos"), Generation(ids, again, "eos")
    decision = None
    if tau is not None:
        short = ratio is None and second is None
        decision = too_short(2, tau) if short else Decision(second is not None, ratio, tau)
    answer = Answer(made[0], decision, None if second is None else made[1], Cost(9, 1, 8, 0.5))
    final = first if second is None else second
    return Record(f"row/{index}", "any", answer, RIGHT if first else WRONG, RIGHT if final else WRONG)


def dpc_and_all(rows: list[tuple[float | None, bool, bool]], tau: float) -> tuple[list[Record], list[Record]]:
    """What DPC with ``tau``, and all_corruption, would have recorded of instances that were answered twice."""
    own, every = [], []
    for index, (ratio, first, second) in enumerate(rows):
        fires = ratio is not None and ratio > tau
        own.append(answered(index, first, second if fires else None, ratio=ratio, tau=tau))
        every.append(answered(index, first, None if ratio is None else second, tau=ALWAYS))
    return own, every


def test_each_method_is_compared_with_prompt_tuning_and_p_is_adjusted_over_all_of_them() -> None:
    base = [answered(i, i < 50) for i in range(100)]
    one = [answered(i, 10 <= i < 70) for i in range(100)]
    two = [answered(i, 2 <= i < 60) for i in range(100)]
    found = summarize({"prompt_tuning": base, "act": one, "dpc": two})
    assert found["prompt_tuning"].versus_prompt_tuning is None
    versus = [found[name].versus_prompt_tuning for name in ("act", "dpc")]
    assert [(v.fixed, v.broken) for v in versus if v] == [(20, 10), (10, 2)]
    assert [v.p for v in versus if v] == [mcnemar_exact(20, 10), mcnemar_exact(10, 2)]
    assert [v.p_holm for v in versus if v] == holm([v.p for v in versus if v])
    assert versus[1] is not None
    assert versus[1].p_holm == 2 * versus[1].p
    right = [record.score_final.correct for record in base], [record.score_final.correct for record in two]
    interval = paired_bootstrap(*right)
    assert versus[1].bootstrap == (interval.low, interval.high)


def test_one_comparison_is_not_adjusted() -> None:
    found = summarize({"prompt_tuning": [answered(0, True)], "dpc": [answered(0, False)]})
    versus = found["dpc"].versus_prompt_tuning
    assert versus is not None
    assert versus.p_holm == versus.p
    alone = summarize({"dpc": [answered(0, False)]})
    assert alone["dpc"].versus_prompt_tuning is None


def test_the_oracle_is_right_where_either_pass_is() -> None:
    records = [
        answered(0, True, False, ratio=0.9, tau=0.5),
        answered(1, False, True, ratio=0.9, tau=0.5),
        answered(2, False, False, ratio=0.9, tau=0.5),
        answered(3, False, ratio=0.1, tau=0.5),
    ]
    found = summarize({"dpc": records, "prompt_tuning": [answered(i, True) for i in range(4)]})
    assert (found["dpc"].accuracy, found["dpc"].oracle) == (0.25, 0.5)
    assert found["prompt_tuning"].oracle is None


def grader(word: str) -> Callable[[Example, str], Score]:
    return lambda example, text: RIGHT if word in text and example.answer in text else WRONG


def test_further_graders_see_the_answer_that_counts() -> None:
    examples = [Example(f"row/{i}", "?", "7") for i in range(3)]
    records = [
        answered(0, True, False, ratio=0.9, tau=0.5, text="6 tight", again="7 loose"),
        answered(1, True, text="6 loose"),
        answered(2, True, text="7 tight"),
    ]
    found = summarize({"dpc": records}, examples, {"loose": grader("loose"), "any": grader("")})["dpc"]
    assert found.correct == 2
    assert [(name, each.correct) for name, each in found.also_graded.items()] == [("loose", 1), ("any", 2)]
    assert found.also_graded["any"].accuracy == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="not those"):
        summarize({"dpc": records}, examples[::-1], {"any": grader("")})


def test_only_what_is_too_short_was_not_judged() -> None:
    short, judged = answered(0, True, tau=0.5), answered(1, True, ratio=0.3, tau=0.5)
    found = summarize({"dpc": [short, judged]})["dpc"].trigger
    assert found is not None
    assert found.not_judged == 1
    # Without a statistic a decision was judged all the same.
    always = summarize({"all_corruption": [answered(0, True, False, tau=ALWAYS)]})["all_corruption"].trigger
    assert always is not None
    assert (always.not_judged, always.auc, always.rate) == (0, None, 1.0)


def test_the_triggers_figures_come_with_their_intervals() -> None:
    judged = [
        *(answered(i, i % 3 == 0, i % 2 == 0, ratio=0.6 + i / 100, tau=0.5) for i in range(10)),
        *(answered(i, i % 3 > 0, ratio=i / 100, tau=0.5) for i in range(10, 30)),
    ]
    found = summarize({"dpc": judged})["dpc"].trigger
    assert found is not None
    wrong = [not record.score_first.correct for record in judged]
    hits = sum(wrong[:10])
    for name, part, whole in (("precision", hits, 10), ("recall", hits, sum(wrong))):
        interval = wilson(part, whole)
        assert getattr(found, name) == pytest.approx(part / whole)
        assert getattr(found, f"{name}_interval") == (interval.low, interval.high)
    ratios = [record.answer.decision.statistic for record in judged if record.answer.decision]
    area = auc_interval([r for r in ratios if r is not None], wrong)
    assert area is not None
    assert found.auc_interval == (area.low, area.high)


def test_without_dpc_there_is_no_curve() -> None:
    assert threshold_curve({"prompt_tuning": [answered(0, True)]}) is None
    assert threshold_curve({"dpc": []}) is None


def points(curve: TriggerCurve | None) -> dict[float, TriggerPoint]:
    assert curve is not None
    return {point.tau: point for point in curve.points}


@settings(deadline=None, max_examples=60)
@given(INSTANCES, st.sampled_from([ALWAYS, 0.2, 0.6, NEVER]))
def test_with_all_corruption_the_curve_is_what_calibration_would_have_seen(
    rows: list[tuple[float | None, bool, bool]], tau: float
) -> None:
    own, every = dpc_and_all(rows, tau)
    curve = threshold_curve({"dpc": own, "all_corruption": every})
    found = points(curve)
    assert tau in found
    first = [a for _, a, _ in rows]
    # Where there is no R there is no second answer.
    second = [a if r is None else b for r, a, b in rows]
    assert curve is not None
    assert curve.oracle == pytest.approx(oracle(first, second))
    assert curve.second_differ == 0
    for point in calibrate([r for r, _, _ in rows], first, second).curve:
        assert found[point.tau].accuracy == pytest.approx(point.accuracy)
        assert found[point.tau].trigger_rate == pytest.approx(point.trigger_rate)


@settings(deadline=None, max_examples=60)
@given(INSTANCES, st.sampled_from([ALWAYS, 0.2, 0.6, NEVER]))
def test_without_it_the_curve_holds_what_dpc_alone_can_know(
    rows: list[tuple[float | None, bool, bool]], tau: float
) -> None:
    own, every = dpc_and_all(rows, tau)
    alone, whole = points(threshold_curve({"dpc": own})), points(threshold_curve({"dpc": own, "all_corruption": every}))
    assert alone.keys() == whole.keys()
    for at, point in alone.items():
        if at >= tau:
            assert point == whole[at]
        else:
            fires = [r is not None and at < r <= tau for r, _, _ in rows]
            assert (point.accuracy is None) == any(fires)
            assert replace(point, accuracy=None) == replace(whole[at], accuracy=None)
    at_tau = sum(record.score_final.correct for record in own) / len(own)
    assert alone[tau].accuracy == pytest.approx(at_tau)


def test_second_answers_that_should_be_the_same_are_compared() -> None:
    rows: list[tuple[float | None, bool, bool]] = [(0.9, True, False), (0.8, False, True), (0.1, False, True)]
    own, every = dpc_and_all(rows, 0.5)
    other = replace(every[0].answer, second=Generation((4, 6), "8", "eos"))
    every[0] = replace(every[0], answer=other, score_final=RIGHT)
    curve = threshold_curve({"dpc": own, "all_corruption": every})
    assert curve is not None
    assert (curve.second_shared, curve.second_differ) == (2, 1)
    # DPC's own answer counts where there are two.
    assert points(curve)[0.5].accuracy == pytest.approx(1 / 3)


def test_rows_without_a_record_of_all_corruption_stay_unknown() -> None:
    own, every = dpc_and_all([(0.9, True, False), (0.1, False, True), (0.2, False, True)], 0.5)
    curve = threshold_curve({"dpc": own, "all_corruption": every[:2]})
    assert curve is not None
    assert curve.oracle is None
    assert points(curve)[ALWAYS].accuracy is None
    assert points(curve)[0.5].accuracy == 0.0


def test_results_survive_the_way_to_json_and_back() -> None:
    own, every = dpc_and_all([(0.9, True, False), (0.8, False, True), (None, False, True), (0.1, False, True)], 0.5)
    base = [answered(i, i % 2 == 0) for i in range(4)]
    records = {"prompt_tuning": base, "dpc": own, "all_corruption": every}
    calibration = {"tau": 0.5, "n": 2, "from": {"data": {"rows": 2}}, "rows": ["a", "b"]}
    curve = [{"tau": 0.5, "accuracy": 1.0, "trigger_rate": 0.5}]
    made = summarize_run(
        records,
        [Example(f"row/{i}", "?", "7") for i in range(4)],
        {"loose": grader("")},
        model="tiny",
        task="gsm8k",
        split="test",
        calibration=calibration | {"curve": curve},
        made_by={"command": "dpc eval", "versions": {"dpc": "1"}, "source": {"dirty": True}},
    )
    text = json.dumps(results_json(made))
    assert parse_results(json.loads(text)) == made
    assert json.loads(text)["calibration"] == {"tau": 0.5, "n": 2, "curve": curve, "from": {"data": {"rows": 2}}}
