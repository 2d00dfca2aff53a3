"""Drafts: what the second answer may say next, guessed from the first. A wrong guess costs time, never a token."""

from __future__ import annotations

from collections.abc import Sequence

# Tokens that must agree before the first answer is taken to go on as it did; longer agreement is tried first.
NGRAMS = (4, 3, 2)


class NgramDraft:
    """Finds where the text being written meets the first answer again."""

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
