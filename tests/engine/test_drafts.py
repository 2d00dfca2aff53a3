"""What drafts propose, and where they stop. That no draft changes an answer is shown in test_engine_slots.py."""

from __future__ import annotations

import pytest

from dpc.engine.drafts import FirstAnswerDraft, SharedDraft


def test_the_first_answer_is_found_again_where_the_texts_meet() -> None:
    first = [5, 6, 7, 8, 9, 5, 6, 20, 21]
    draft = FirstAnswerDraft(first)
    assert draft.propose([1, 6, 7], 3) == (8, 9, 5)
    assert draft.propose([6, 20], 4) == (21,)
    assert draft.propose([20, 21], 4) == ()
    assert draft.propose([99], 4) == ()
    assert draft.propose([], 4) == ()
    # Of two places the one nearer to where the text stands.
    assert draft.propose([5, 6], 1) == (7,)
    assert draft.propose([0, 0, 0, 0, 0, 5, 6], 1) == (20,)


def test_what_others_wrote_is_proposed_token_after_token() -> None:
    draft = SharedDraft()
    assert draft.propose([1, 2, 3, 4], 3) == ()
    draft.learn([1, 2, 3, 4, 5, 6], 2)
    assert draft.propose([1, 2, 3, 4], 3) == (5, 6)
    assert draft.propose([9, 3, 4], 1) == (5,)
    draft.learn([8, 3, 4, 7], 1)
    # Longer agreement first; of two continuations of the same tokens the later one.
    assert draft.propose([1, 2, 3, 4], 1) == (5,)
    assert draft.propose([9, 3, 4], 1) == (7,)
    assert draft.propose([4], 2) == ()


def test_a_continuation_that_was_steady_counts_more_than_a_longer_one_seen_once() -> None:
    draft = SharedDraft()
    for _ in range(8):
        draft.learn([9, 3, 4, 5], 1)
    draft.learn([1, 2, 3, 4, 6], 1)
    assert draft.propose([1, 2, 3, 4], 1) == (5,)


def test_a_draft_ends_where_it_is_no_longer_sure_enough() -> None:
    sure, unsure = SharedDraft(0.7), SharedDraft(0.0)
    for draft in (sure, unsure):
        for _ in range(8):
            draft.learn([2, 3, 4], 1)
        draft.learn([2, 3, 4, 5], 1)
    assert sure.propose([2, 3], 4) == (4,)
    assert unsure.propose([2, 3], 4) == (4, 5)


def test_the_models_own_guess_counts_where_nothing_steadier_is_known() -> None:
    draft = SharedDraft()
    for _ in range(8):
        draft.learn([2, 3, 4], 1)
    draft.learn([3, 4, 5], 1)
    # After 2 3 comes 4, steadily; what comes after 3 4 was seen once.
    assert draft.propose([2, 3], 3, guess=[7, 8, 9]) == (4, 8, 9)
    assert draft.propose([2, 3], 2) == (4, 5)
    assert draft.propose([60, 61], 3, guess=[7]) == (7,)


def test_what_was_not_seen_for_long_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpc.engine.drafts._REMEMBERED", 8)
    draft = SharedDraft()
    draft.learn([1, 2, 3], 1)
    draft.learn([4, 5, 6, 7, 8, 9], 3)
    draft.learn([20, 21, 22], 1)
    # Now among those before, and still known.
    assert draft.propose([1, 2], 1) == (3,)
    draft.learn([30, 31, 32, 33, 34, 35], 3)
    draft.learn([40, 41, 42], 1)
    assert draft.propose([1, 2], 1) == ()
    assert draft.propose([40, 41], 1) == (42,)
