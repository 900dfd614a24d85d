"""Spread: the average distance between two different rows of a set, with its bootstrap."""

from __future__ import annotations

import numpy as np

from musekit.statistics.intervals import RESAMPLES, counts


def unit_distances(x: np.ndarray, y: np.ndarray | None = None) -> np.ndarray:
    """Euclidean distances between rows of x (n, D) and of y (m, D, default x): (n, m). Exact zeros on x's diagonal."""
    from scipy.spatial.distance import cdist

    return cdist(x, x if y is None else y)


def spread(distances: np.ndarray, counts: np.ndarray | None = None) -> float:
    """Average distance of two different rows: sum_ij w_i w_j d_ij / (n^2 - sum_i w_i^2), n = sum_i w_i.

    `distances` (n, n) has a zero diagonal; `counts` (n,) is how often a bootstrap sample drew each row (a row drawn
    twice is no pair with itself). Unbiased for any n, so spreads of sets of unequal size compare. Raises ValueError
    when there is no pair.
    """
    w = np.ones(len(distances)) if counts is None else np.asarray(counts, float)
    pairs = w.sum() ** 2 - (w**2).sum()
    if pairs <= 0:
        raise ValueError("a spread needs two different rows")
    return float(w @ distances @ w / pairs)


def spread_draws(distances: np.ndarray, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Bootstrap draws (resamples,) of the spread, without draws that consist of one row only."""
    w = counts(len(distances), seed, resamples)
    pairs = w.sum(1) ** 2 - (w**2).sum(1)
    return ((w @ distances) * w).sum(1)[pairs > 0] / pairs[pairs > 0]
