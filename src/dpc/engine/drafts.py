"""N-gram drafts for speculative decoding. A rejected draft costs time and never changes an answer."""

from __future__ import annotations

from collections.abc import Sequence

# Sizes of the n-grams of a first answer, in the order in which they are looked up.
_FIRST_ANSWER_SIZES = (4, 3, 2)
# Sizes of the n-grams in the shared table. Short ones recur as phrases, long ones as steps of a calculation.
_SIZES = (6, 4, 3, 2)
LONGEST = _SIZES[0]
# More observations in a row than this add no confidence.
_MOST_COUNTED = 8
# When a table has this many n-grams, a new one is begun and the one before the last is dropped.
_TABLE_SIZE = 2**15
# The model's own prediction replaces a continuation with less confidence than the first, and counts as the second.
_LOW_CONFIDENCE, _PREDICTION_CONFIDENCE = 0.65, 0.4


class FirstAnswerDraft:
    """Drafts for a second pass: n-grams of the first answer."""

    def __init__(self, first: Sequence[int]) -> None:
        self._first = tuple(first)
        self._after: dict[tuple[int, ...], list[int]] = {}
        for size in _FIRST_ANSWER_SIZES:
            for stop in range(size, len(self._first)):
                self._after.setdefault(self._first[stop - size : stop], []).append(stop)

    def propose(self, written: Sequence[int], most: int) -> tuple[int, ...]:
        """Up to ``most`` tokens that follow the last n-gram of ``written`` in the first answer; empty if it has none.

        Of several occurrences the nearest to the current position, because answers to one question run in parallel.
        """
        for size in _FIRST_ANSWER_SIZES:
            places = self._after.get(tuple(written[-size:]))
            if places:
                at = min(places, key=lambda place: abs(place - len(written)))
                return self._first[at : at + most]
        return ()


class SharedDraft:
    """Drafts for every pass: an n-gram table of all answers of a drain.

    Answers to one benchmark under one prompt share phrases. least: the lowest confidence of a whole draft, from 0 (a
    continuation that was seen once) to 1 (no draft at all).
    """

    def __init__(self, least: float = 0.0) -> None:
        self._least = least
        # For each n-gram the next token and its count: observations in a row, halved by each other next token.
        self._next: dict[tuple[int, ...], tuple[int, int]] = {}
        self._older = self._next

    def learn(self, text: Sequence[int], new: int) -> None:
        """Count the last ``new`` tokens of ``text``, each as the next token of the n-grams before it."""
        if len(self._next) >= _TABLE_SIZE:
            self._older, self._next = self._next, {}
        known, older, text = self._next, self._older, tuple(text)
        for at in range(len(text) - new, len(text)):
            token = text[at]
            for size in _SIZES:
                if at >= size:
                    context = text[at - size : at]
                    before, count = known.get(context) or older.get(context, (token, 0))
                    if before == token:
                        known[context] = token, min(count + 1, _MOST_COUNTED)
                    else:
                        known[context] = (before, count // 2) if count > 1 else (token, 0)

    def propose(self, text: Sequence[int], most: int, predicted: Sequence[int] = ()) -> tuple[int, ...]:
        """Up to ``most`` tokens to follow ``text``; fewer where the confidence in the whole draft would be too low.

        predicted: the model's own predictions for the positions after a rejected token of the last draft. They are
        used where the table has no continuation with more confidence.
        """
        tail = tuple(text[-LONGEST:])
        proposed: list[int] = []
        total = 1.0
        while len(proposed) < most:
            token, confidence = self._most_consistent(tail)
            if confidence < _LOW_CONFIDENCE and len(proposed) < len(predicted):
                own = predicted[len(proposed)]
                token, confidence = own, max(_PREDICTION_CONFIDENCE, confidence if own == token else 0.0)
            total *= confidence
            if not confidence or total < self._least:
                break
            proposed.append(token)
            tail = (*tail, token)
        return tuple(proposed)

    def _most_consistent(self, tail: tuple[int, ...]) -> tuple[int, float]:
        """The next token with the highest count of all n-grams that end ``tail``, and its confidence; 0 if unknown."""
        token, highest = -1, -1
        for size in _SIZES:
            context = tail[-size:]
            found = self._next.get(context) or self._older.get(context)
            if found is not None and found[1] > highest:
                token, highest = found
        return token, (highest + 0.5) / (highest + 1.5) if highest >= 0 else 0.0
