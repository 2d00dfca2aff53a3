"""Eqs 11 to 13 by hand, their invariance to the scale of the loss, and the choice of tau."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpc.errors import UserError
from dpc.flow.thresholds import ALWAYS, NEVER, calibrate
from dpc.flow.trigger import affected_share
from dpc.methods.between_passes import decision_about
from dpc.methods.triggers import FLOW, FirstAnswer
from dpc.types import Decision, Generation


def decide(influence: torch.Tensor, tau: float) -> Decision:
    """What the trigger ``flow`` decides about an answer with these ``s_i``."""
    generation = Generation(tuple(range(len(influence))), "", "eos")
    return decision_about(FirstAnswer([1], generation, influence=influence), FLOW, tau)


def test_the_share_of_late_positions_above_the_early_mean() -> None:
    affected = affected_share(torch.tensor([1.0, 3.0, 2.5, 2.0, 1.0]))
    assert affected.beta == 2.0
    assert affected.ratio == pytest.approx(1 / 3)


def test_exactly_the_early_mean_is_not_affected_and_exactly_tau_does_not_trigger() -> None:
    influence = torch.tensor([1.0, 1.0, 1.0, 2.0])
    assert affected_share(influence).ratio == 0.5
    assert not decide(influence, 0.5).triggered
    assert decide(influence, 0.49).triggered


def test_a_short_rationale_is_never_triggered_and_says_so() -> None:
    decision = decide(torch.tensor([0.0, 1.0, 5.0]), ALWAYS)
    assert not decision.triggered
    assert (decision.statistic, decision.judged) == (None, False)
    assert "3 tokens" in (decision.evidence.reason or "")


def test_no_share_exceeds_itself() -> None:
    for late in range(2, 60):
        for above in range(late + 1):
            influence = torch.cat([torch.ones(late), torch.full((above,), 2.0), torch.zeros(late - above)])
            assert affected_share(influence).ratio == above / late
            assert not decide(influence, above / late).triggered


values = st.lists(st.floats(0.001, 10), min_size=4, max_size=30)


@settings(max_examples=60, deadline=None)
@given(values=values, exponent=st.integers(-8, 8))
def test_the_share_does_not_depend_on_how_the_loss_is_normalised(values: list[float], exponent: int) -> None:
    influence = torch.tensor(values, dtype=torch.float64)
    assert affected_share(influence).ratio == affected_share(influence * 2.0**exponent).ratio
    assert 0 <= affected_share(influence).ratio <= 1
    assert not decide(influence, NEVER).triggered
    assert decide(influence, ALWAYS).triggered


def test_tau_is_the_one_with_the_highest_accuracy() -> None:
    ratios = [0.9, 0.8, 0.2, 0.1]
    chosen = calibrate(ratios, [False, False, True, True], [True, True, False, False])
    assert chosen.tau == pytest.approx(0.5)
    best = next(point for point in chosen.curve if point.tau == chosen.tau)
    assert (best.accuracy, best.trigger_rate) == (1.0, 0.5)


def test_ties_go_to_fewer_triggers() -> None:
    assert calibrate([0.9, 0.1], [True, False], [True, False]).tau == NEVER


def test_an_instance_that_cant_be_judged_keeps_its_first_answer() -> None:
    chosen = calibrate([None, 0.5], [False, True], [True, True])
    assert all(point.accuracy == 0.5 for point in chosen.curve)


def test_a_threshold_needs_an_instance() -> None:
    with pytest.raises(UserError, match="no instance"):
        calibrate([], [], [])


def test_where_all_first_answers_are_right_it_never_triggers_unless_that_is_free() -> None:
    assert calibrate([0.9, 0.2], [True, True], [False, True]).tau == NEVER


def test_where_all_first_answers_are_wrong_it_triggers_on_what_a_second_answer_mends() -> None:
    chosen = calibrate([0.9, 0.2, None], [False, False, False], [True, False, True])
    best = next(point for point in chosen.curve if point.tau == chosen.tau)
    assert (best.accuracy, best.trigger_rate) == pytest.approx((1 / 3, 1 / 3))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.none() | st.floats(0, 1), st.booleans(), st.booleans()), min_size=2, max_size=20))
def test_the_curve_holds_no_better_threshold(rows: list[tuple[float | None, bool, bool]]) -> None:
    ratios, first, second = (list(column) for column in zip(*rows, strict=True))
    chosen = calibrate(ratios, first, second)
    reached = next(point.accuracy for point in chosen.curve if point.tau == chosen.tau)
    for tau in [step / 20 for step in range(-2, 21)]:
        fires = [r is not None and r > tau for r in ratios]
        right = sum(b if f else a for f, a, b in zip(fires, first, second, strict=True)) / len(rows)
        assert right <= reached + 1e-12
