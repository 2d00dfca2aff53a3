"""Near duplicates between splits: rows that would leak test questions into train or dev.

Two rows are near duplicates where the Jaccard similarity of their 3-grams of characters is at least 0.8. The 3-grams
are those of the question and its options, without the options' letters and in alphabetical order, after normalisation:
lower case, and neither punctuation nor repeated spaces. Characters are used instead of words, because exam questions
are short: ARC's train row Mercury_7107380 differs from test row Mercury_406136 by one word, and their similarity is
0.91 by characters and 0.76 by words.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import chain
from math import ceil

from dpc.tasks.base import NearDuplicate
from dpc.tasks.choices import show_options
from dpc.types import Example

SIMILARITY = Fraction(4, 5)
GRAM = 3  # characters
HITS = 8  # entries of the index that two similar rows share at least
# The splits that a split is compared with: those used after it to choose a prompt or to report an accuracy.
LATER = {"train": ("dev", "test"), "dev": ("test",), "test": ()}

# Mathematical signs count as words, because they change a question; other punctuation is dropped.
_WORD = re.compile(r"[^\W_]+|[+*/^<>=≤≥%√]|[-−](?=[0-9])")


def near_duplicates(rows: Iterable[Example], others: Sequence[Example]) -> list[NearDuplicate]:
    """Those of ``rows`` that are near duplicates of one of ``others``, in order, each with its most similar other.

    The result is exact: an index of rare 3-grams only saves comparisons. If two sets of n and m grams have a similarity
    of s, they share at least s * n and s * m grams. So in any fixed order of all grams, the first n - s * n + k of one
    and the first m - s * m + k of the other share at least k. With rare grams first, few other pairs do.
    """
    sets = [_grams(example) for example in others]
    counts = Counter(gram for grams in sets for gram in grams)
    rank = {gram: place for place, gram in enumerate(sorted(counts, key=lambda gram: (counts[gram], gram)))}
    ranked = [frozenset(rank[gram] for gram in grams) for grams in sets]
    needed = [_needed(len(grams)) for grams in ranked]
    index: dict[int, list[int]] = defaultdict(list)
    for place, grams in enumerate(ranked):
        for gram in sorted(grams)[: _compared(len(grams))]:
            index[gram].append(place)
    nearest = []
    for example in rows:
        own = _grams(example)
        # Grams that occur in none of the others come first in the order, and have no entry in the index.
        known = sorted(rank[gram] for gram in own if gram in rank)
        rare = known[: max(0, _compared(len(own)) - len(own) + len(known))]
        hits = Counter(chain.from_iterable(index.get(gram, ()) for gram in rare))
        shared, enough = frozenset(known), _needed(len(own))
        found = (place for place, count in hits.items() if count >= enough or count >= needed[place])
        similar = [(s, -place) for place in found if (s := _similarity(len(own), shared, ranked[place]))]
        if similar:
            similarity, place = max(similar)
            nearest.append(NearDuplicate(example.id, others[-place].id, similarity))
    return nearest


def split_without(split: str, rows_of: Callable[[str], Sequence[Example]]) -> tuple[list[Example], list[NearDuplicate]]:
    """The rows of ``split`` without near duplicates of later splits, and these near duplicates.

    rows_of: the rows of a split by its name; an empty list where the data has no such split.
    """
    rows = rows_of(split)
    later = [example for name in LATER[split] for example in rows_of(name)]
    left_out = near_duplicates(rows, later)
    names = {duplicate.row for duplicate in left_out}
    return [example for example in rows if example.id not in names], left_out


def _grams(example: Example) -> frozenset[str]:
    question = example.question.removesuffix(show_options("", example.choices))
    text = " ".join([_normal(question), *sorted(map(_normal, example.choices))]).strip() or example.question
    return frozenset(text[start : start + GRAM] for start in range(max(1, len(text) - GRAM + 1)))


def _normal(text: str) -> str:
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def _least(grams: int) -> int:
    """How many grams a set with ``grams`` shares with a similar one at least."""
    return ceil(SIMILARITY * grams)


def _needed(grams: int) -> int:
    return min(HITS, _least(grams))


def _compared(grams: int) -> int:
    """How many of its grams, the rarest first, a set looks up in the index."""
    return grams - _least(grams) + _needed(grams)


def _similarity(grams: int, known: frozenset[int], other: frozenset[int]) -> float:
    """The Jaccard similarity of a set of ``grams``, of which only ``known`` occur elsewhere; 0 below ``SIMILARITY``."""
    over, under = SIMILARITY.as_integer_ratio()
    if min(grams, len(other)) * under < max(grams, len(other)) * over:
        return 0.0
    shared = len(known & other)
    either = grams + len(other) - shared
    return shared / either if shared * under >= either * over else 0.0
