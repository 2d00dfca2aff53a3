"""N-gram drafts: what they propose, and where they end. test_slots.py shows that no draft changes an answer."""

from __future__ import annotations

import pytest

from dpc.engine.drafts import FirstAnswerDraft, SharedDraft


def test_an_ngram_of_the_first_answer_is_continued_as_in_the_first_answer() -> None:
    first = [5, 6, 7, 8, 9, 5, 6, 20, 21]
    draft = FirstAnswerDraft(first)
    assert draft.propose([1, 6, 7], 3) == (8, 9, 5)
    assert draft.propose([6, 20], 4) == (21,)
    assert draft.propose([20, 21], 4) == ()
    assert draft.propose([99], 4) == ()
    assert draft.propose([], 4) == ()
    # Of two occurrences the nearer one.
    assert draft.propose([5, 6], 1) == (7,)
    assert draft.propose([0, 0, 0, 0, 0, 5, 6], 1) == (20,)


def test_the_shared_table_proposes_one_token_after_another() -> None:
    draft = SharedDraft()
    assert draft.propose([1, 2, 3, 4], 3) == ()
    draft.learn([1, 2, 3, 4, 5, 6], 2)
    assert draft.propose([1, 2, 3, 4], 3) == (5, 6)
    assert draft.propose([9, 3, 4], 1) == (5,)
    draft.learn([8, 3, 4, 7], 1)
    # Longer n-grams first; of two continuations of the same n-gram the later one.
    assert draft.propose([1, 2, 3, 4], 1) == (5,)
    assert draft.propose([9, 3, 4], 1) == (7,)
    assert draft.propose([4], 2) == ()


def test_a_consistent_continuation_beats_that_of_a_longer_ngram_seen_once() -> None:
    draft = SharedDraft()
    for _ in range(8):
        draft.learn([9, 3, 4, 5], 1)
    draft.learn([1, 2, 3, 4, 6], 1)
    assert draft.propose([1, 2, 3, 4], 1) == (5,)


def test_a_draft_ends_where_its_confidence_is_too_low() -> None:
    strict, lenient = SharedDraft(0.7), SharedDraft(0.0)
    for draft in (strict, lenient):
        for _ in range(8):
            draft.learn([2, 3, 4], 1)
        draft.learn([2, 3, 4, 5], 1)
    assert strict.propose([2, 3], 4) == (4,)
    assert lenient.propose([2, 3], 4) == (4, 5)


def test_the_models_own_prediction_replaces_a_less_consistent_continuation() -> None:
    draft = SharedDraft()
    for _ in range(8):
        draft.learn([2, 3, 4], 1)
    draft.learn([3, 4, 5], 1)
    # 4 always follows 2 3. The token after 3 4 was seen once.
    assert draft.propose([2, 3], 3, predicted=[7, 8, 9]) == (4, 8, 9)
    assert draft.propose([2, 3], 2) == (4, 5)
    assert draft.propose([60, 61], 3, predicted=[7]) == (7,)


def test_ngrams_that_were_not_seen_for_long_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpc.engine.drafts._TABLE_SIZE", 8)
    draft = SharedDraft()
    draft.learn([1, 2, 3], 1)
    draft.learn([4, 5, 6, 7, 8, 9], 3)
    draft.learn([20, 21, 22], 1)
    # It is in the older table now, and still known.
    assert draft.propose([1, 2], 1) == (3,)
    draft.learn([30, 31, 32, 33, 34, 35], 3)
    draft.learn([40, 41, 42], 1)
    assert draft.propose([1, 2], 1) == ()
    assert draft.propose([40, 41], 1) == (42,)
