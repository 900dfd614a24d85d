"""Statistics of the evaluation: how sure a number is. scipy's where it has them, the rest from their definitions.

Intervals are 95 % and two-sided; everything random is seeded.
"""

from __future__ import annotations

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 2000


def wilson(correct: int, n: int) -> tuple[float, float]:
    """Wilson's interval of a proportion (Wilson 1927), (0, 1) when n = 0."""
    from scipy.stats import binomtest

    if n == 0:
        return 0.0, 1.0
    interval = binomtest(int(correct), int(n)).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def accuracy(right: np.ndarray) -> dict:
    """{"n", "correct", "accuracy", "low", "high"} of an array of booleans; accuracy is None when it is empty."""
    n, correct = len(right), int(np.sum(right))
    low, high = wilson(correct, n)
    return {"n": n, "correct": correct, "accuracy": correct / n if n else None, "low": low, "high": high}


def unit_distances(x: np.ndarray, y: np.ndarray | None = None) -> np.ndarray:
    """Euclidean distances between rows of x (n, D) and of y (m, D, default x): (n, m). Exact zeros on x's diagonal."""
    from scipy.spatial.distance import cdist

    return cdist(x, x if y is None else y)


def spread(distances: np.ndarray, counts: np.ndarray | None = None) -> float:
    """Average distance of two different rows: sum_ij w_i w_j d_ij / (n^2 - sum_i w_i^2), n = sum_i w_i.

    `distances` (n, n) has a zero diagonal; `counts` (n,) is how often a bootstrap sample drew each row, so that a row
    drawn twice is never a pair with itself. Unbiased for any n, so spreads of unequal numbers of rows compare. Raises
    ValueError when there is no pair.
    """
    w = np.ones(len(distances)) if counts is None else np.asarray(counts, float)
    pairs = w.sum() ** 2 - (w**2).sum()
    if pairs <= 0:
        raise ValueError("a spread needs two different rows")
    return float(w @ distances @ w / pairs)


def spread_draws(distances: np.ndarray, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Bootstrap draws (resamples,) of the spread; draws in which one row is all there is are left out."""
    n, rng = len(distances), np.random.default_rng(seed)
    w = rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)
    pairs = w.sum(1) ** 2 - (w**2).sum(1)
    return ((w @ distances) * w).sum(1)[pairs > 0] / pairs[pairs > 0]


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The central 95 % of bootstrap draws."""
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(draws, [tail, 100 - tail])
    return float(low), float(high)


def percentile_difference(x: np.ndarray, y: np.ndarray, percent: float, seed: int) -> dict:
    """percentile(x) - percentile(y) with its bootstrap interval (percentile method, both samples redrawn)."""
    from scipy.stats import bootstrap

    def difference(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.percentile(a, percent, axis=axis) - np.percentile(b, percent, axis=axis)

    found = bootstrap(
        (np.asarray(x), np.asarray(y)), difference, n_resamples=RESAMPLES, confidence_level=CONFIDENCE,
        method="percentile", vectorized=True, rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return {"difference": float(difference(x, y)), "low": float(found.low), "high": float(found.high)}


def hoyer(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """(sqrt(n) - l1 / l2) / (sqrt(n) - 1) of non-negative x: 1 for one spike, 0 for a constant (Hoyer 2004)."""
    root = np.sqrt(x.shape[axis])
    l2 = np.sqrt((x**2).sum(axis))
    return (root - np.abs(x).sum(axis) / np.maximum(l2, 1e-12)) / (root - 1) * (l2 > 0)
