"""Columns of a map that many rows read: attention sinks, and where saliency gathers."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from dpc.analysis.store import Array
from dpc.settings import ActSettings

# A mean over fewer rows says little of a column.
FEWEST_READERS = 4


def column_means(matrix: Float[Array, "row column"]) -> Float[Array, " column"]:
    """What each position is read with on average, over the rows after it; NaN where these are fewer than four.

    The last row of ``matrix`` stands at the last column; no position sees a later one.
    """
    rows, columns = matrix.shape
    position = np.arange(columns - rows, columns)[:, None]
    readers = position > np.arange(columns)[None]
    count = readers.sum(0)
    total = np.where(readers, matrix, 0.0).sum(0)
    return np.where(count >= FEWEST_READERS, total / np.maximum(count, 1), np.nan)


def attention_sinks(
    attention: Float[Array, "row column"], alpha: float = ActSettings().alpha
) -> Bool[Array, " column"]:
    """Positions read with more than ``alpha / N`` on average, N being all positions (Yu et al. 2024, arXiv:2406.15765).

    There every row counts, here those of question and rationale, after the position itself.
    """
    found: Array = np.nan_to_num(column_means(attention)) > alpha / attention.shape[1]
    return found


def gathering_columns(saliency: Float[Array, "row column"], k: float) -> Bool[Array, " column"]:
    """Positions that gather more than ``k`` times the mean of all: Eq 7, asked of every column of ``[p | q | r]``."""
    means = column_means(saliency)
    of_all = np.nanmean(means) if np.isfinite(means).any() else 0.0
    found: Array = np.nan_to_num(means) > k * of_all
    return found
