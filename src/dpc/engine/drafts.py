"""Drafts: what an answer may say next, guessed from texts like it. A wrong guess costs time, never a token."""

from __future__ import annotations

from collections.abc import Sequence

# Tokens that must agree before a text is taken to go on as the first answer did; longer agreement is tried first.
_AGREEING = (4, 3, 2)
# Tokens whose successor is remembered. Short ones know turns of phrase, long ones what was computed from what.
_CONTEXTS = (6, 4, 3, 2)
LONGEST = _CONTEXTS[0]
# A continuation seen this often in a row is as sure as any.
_SUREST = 8
# Contexts that are remembered, once more of those before them: what was not seen for so long is forgotten.
_REMEMBERED = 2**15
# Below this steadiness the model's own guess is believed instead, and taken to be as sure as this.
_STEADY, _OWN = 0.65, 0.4


class FirstAnswerDraft:
    """For a second pass: finds where the text being written meets the first answer again."""

    def __init__(self, first: Sequence[int]) -> None:
        self._first = tuple(first)
        self._after: dict[tuple[int, ...], list[int]] = {}
        for size in _AGREEING:
            for stop in range(size, len(self._first)):
                self._after.setdefault(self._first[stop - size : stop], []).append(stop)

    def propose(self, written: Sequence[int], most: int) -> tuple[int, ...]:
        """Up to ``most`` tokens that followed, in the first answer, what ``written`` ends with; empty for no match.

        Of several places the one nearest to where ``written`` stands: answers to one question go about in step.
        """
        for size in _AGREEING:
            places = self._after.get(tuple(written[-size:]))
            if places:
                at = min(places, key=lambda place: abs(place - len(written)))
                return self._first[at : at + most]
        return ()


class SharedDraft:
    """For every pass: what followed, in any answer of the same stream, the tokens that a text ends with.

    Answers to one benchmark under one prompt share their turns of phrase, and each teaches the next. least: how sure
    all of a draft must be, from 0 (anything that was seen once) to 1 (nothing).
    """

    def __init__(self, least: float = 0.0) -> None:
        self._least = least
        # What followed last, and how often in a row, less what was seen against it.
        self._next: dict[tuple[int, ...], tuple[int, int]] = {}
        self._older = self._next

    def learn(self, text: Sequence[int], new: int) -> None:
        """Take down what the last ``new`` tokens of ``text`` followed."""
        if len(self._next) >= _REMEMBERED:
            self._older, self._next = self._next, {}
        known, older, text = self._next, self._older, tuple(text)
        for at in range(len(text) - new, len(text)):
            token = text[at]
            for size in _CONTEXTS:
                if at >= size:
                    context = text[at - size : at]
                    before, sure = known.get(context) or older.get(context, (token, 0))
                    if before == token:
                        known[context] = token, min(sure + 1, _SUREST)
                    else:
                        known[context] = (before, sure // 2) if sure > 1 else (token, 0)

    def propose(self, text: Sequence[int], most: int, guess: Sequence[int] = ()) -> tuple[int, ...]:
        """Up to ``most`` tokens, each from those before it; fewer where too little is known.

        guess: what the model itself wrote after a draft that was wrong. It counts where nothing steadier is known.
        """
        tail = tuple(text[-LONGEST:])
        proposed: list[int] = []
        chance = 1.0
        while len(proposed) < most:
            token, steady = self._steadiest(tail)
            if steady < _STEADY and len(proposed) < len(guess):
                own = guess[len(proposed)]
                token, steady = own, max(_OWN, steady if own == token else 0.0)
            chance *= steady
            if not steady or chance < self._least:
                break
            proposed.append(token)
            tail = (*tail, token)
        return tuple(proposed)

    def _steadiest(self, tail: tuple[int, ...]) -> tuple[int, float]:
        """What followed the end of ``tail``, and how steadily, from 0 (unknown) to 1: of all contexts the steadiest."""
        token, surest = -1, -1
        for size in _CONTEXTS:
            context = tail[-size:]
            found = self._next.get(context) or self._older.get(context)
            if found is not None and found[1] > surest:
                token, surest = found
        return token, (surest + 0.5) / (surest + 1.5) if surest >= 0 else 0.0
