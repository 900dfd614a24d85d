"""Spread: the average distance between two different rows of a set, with its bootstrap."""

from __future__ import annotations

import numpy as np

from musekit.statistics.intervals import RESAMPLES, counts, interval


def unit_distances(x: np.ndarray, y: np.ndarray | None = None) -> np.ndarray:
    """Euclidean distances between rows of x (n, D) and of y (m, D, default x): (n, m). Exact zeros on x's diagonal."""
    from scipy.spatial.distance import cdist

    return cdist(x, x if y is None else y)


def spread(x: np.ndarray) -> float:
    """Average distance of two different rows of x (n, D). Unbiased for any n, so sets of unequal size compare."""
    return float(unit_distances(x).sum() / (len(x) * (len(x) - 1)))


def spread_draws(x: np.ndarray, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Bootstrap draws (resamples,) of the spread of x (n, D), n >= 2, without draws that consist of one row only.

    A row drawn twice is no pair with itself: sum_ij w_i w_j d_ij / (n^2 - sum_i w_i^2), w_i the times row i was drawn.
    """
    w = counts(len(x), seed, resamples)
    pairs = w.sum(1) ** 2 - (w**2).sum(1)
    return ((w @ unit_distances(x)) * w).sum(1)[pairs > 0] / pairs[pairs > 0]


def spread_with_interval(x: np.ndarray, seed: int = 0) -> tuple[float | None, float | None, float | None]:
    """The spread of x (n, D) and its interval; None for fewer than two rows."""
    return (spread(x), *interval(spread_draws(x, seed))) if len(x) > 1 else (None, None, None)
