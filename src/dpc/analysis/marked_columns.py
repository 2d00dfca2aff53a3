"""Columns of a heat map that are marked: attention sinks, and columns in which saliency gathers."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from dpc.analysis.store import Array
from dpc.settings import ActSettings

# A mean over fewer rows is too noisy.
FEWEST_READERS = 4


def column_means(matrix: Float[Array, "row column"]) -> Float[Array, " column"]:
    """Mean of each column over the rows after its position; NaN where these are fewer than four.

    The last row of ``matrix`` is the position of the last column; no position reads a later one.
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
    """Positions with a mean attention above ``alpha / N``, N being all positions (Yu et al. 2024, arXiv:2406.15765).

    They take the mean over all rows. Here it is over the rows of question and rationale after the position itself.
    """
    found: Array = np.nan_to_num(column_means(attention)) > alpha / attention.shape[1]
    return found


def gathering_columns(saliency: Float[Array, "row column"], k: float) -> Bool[Array, " column"]:
    """Positions that gather more than ``k`` times the mean of all: Eq 7 for every column of ``[p | q | r]``."""
    means = column_means(saliency)
    of_all = np.nanmean(means) if np.isfinite(means).any() else 0.0
    found: Array = np.nan_to_num(means) > k * of_all
    return found
