"""Drafts: what an answer may say next, guessed from texts like it. A wrong guess costs time, never a token."""

from __future__ import annotations

from collections.abc import Sequence

# Tokens that must agree before a text is taken to go on as another did; longer agreement is tried first.
NGRAMS = (4, 3, 2)


class FirstAnswerDraft:
    """For a second pass: finds where the text being written meets the first answer again."""

    def __init__(self, first: Sequence[int]) -> None:
        self._first = tuple(first)
        self._after: dict[tuple[int, ...], list[int]] = {}
        for size in NGRAMS:
            for stop in range(size, len(self._first)):
                self._after.setdefault(self._first[stop - size : stop], []).append(stop)

    def propose(self, written: Sequence[int], most: int) -> tuple[int, ...]:
        """Up to ``most`` tokens that followed, in the first answer, what ``written`` ends with; empty for no match.

        Of several places the one nearest to where ``written`` stands: answers to one question go about in step.
        """
        for size in NGRAMS:
            places = self._after.get(tuple(written[-size:]))
            if places:
                at = min(places, key=lambda place: abs(place - len(written)))
                return self._first[at : at + most]
        return ()


class SharedDraft:
    """For every pass: what followed, in any answer of the same stream, the tokens that a text ends with.

    Answers to one benchmark under one prompt share their turns of phrase, and each teaches the next.
    """

    def __init__(self) -> None:
        self._next: dict[tuple[int, ...], int] = {}

    def learn(self, text: Sequence[int], new: int) -> None:
        """Take down what the last ``new`` tokens of ``text`` followed; of two continuations the later one counts."""
        for at in range(len(text) - new, len(text)):
            for size in NGRAMS:
                if at >= size:
                    self._next[tuple(text[at - size : at])] = text[at]

    def propose(self, text: Sequence[int], most: int) -> tuple[int, ...]:
        """Up to ``most`` tokens, each from those before it; fewer where nothing is known."""
        tail = list(text[-NGRAMS[0] :])
        proposed: list[int] = []
        while len(proposed) < most:
            found = next((self._next[key] for size in NGRAMS if (key := tuple(tail[-size:])) in self._next), None)
            if found is None:
                break
            proposed.append(found)
            tail.append(found)
        return tuple(proposed)
