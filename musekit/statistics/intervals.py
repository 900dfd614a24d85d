"""Confidence intervals: 95 %, two-sided. Means and percentiles by the seeded percentile bootstrap (Efron 1979),
proportions by Wilson's method (Wilson 1927)."""

from __future__ import annotations

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 2000


def counts(n: int, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """How often each of n items is drawn in each bootstrap sample, (resamples, n).

    The same seed gives the same draws, so statistics of paired items (same seeds, prompts or clips) are redrawn
    together, and the interval of their difference is the paired one.
    """
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The central 95 % of bootstrap draws."""
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(draws, [tail, 100 - tail])
    return float(low), float(high)


def mean_interval(x: np.ndarray, seed: int = 0) -> dict:
    """{"mean", "low", "high"}: the mean of x (n,) and its interval."""
    x = np.asarray(x, float)
    low, high = interval(counts(len(x), seed) @ x / len(x))
    return {"mean": float(x.mean()), "low": low, "high": high}


def paired_difference(x: np.ndarray, y: np.ndarray, seed: int = 0) -> dict:
    """{"difference", "low", "high"} of mean(x) - mean(y); x_i and y_i are pairs. ValueError for unequal sizes."""
    if np.shape(x) != np.shape(y):
        raise ValueError(f"pairs need as many x as y, not {np.shape(x)} and {np.shape(y)}")
    found = mean_interval(np.asarray(x, float) - np.asarray(y, float), seed)
    return {"difference": found["mean"], "low": found["low"], "high": found["high"]}


def percentile_difference(x: np.ndarray, y: np.ndarray, percent: float, seed: int) -> dict:
    """percentile(x) - percentile(y) with its interval; x and y are redrawn independently."""
    from scipy.stats import bootstrap

    def difference(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.percentile(a, percent, axis=axis) - np.percentile(b, percent, axis=axis)

    found = bootstrap(
        (np.asarray(x), np.asarray(y)), difference, n_resamples=RESAMPLES, confidence_level=CONFIDENCE,
        method="percentile", vectorized=True, rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return {"difference": float(difference(x, y)), "low": float(found.low), "high": float(found.high)}


def wilson(correct: int, n: int) -> tuple[float, float]:
    """Wilson's interval of a proportion, (0, 1) for n = 0."""
    from scipy.stats import binomtest

    if n == 0:
        return 0.0, 1.0
    interval = binomtest(int(correct), int(n)).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def accuracy(right: np.ndarray) -> dict:
    """{"n", "correct", "accuracy", "low", "high"} of an array of booleans; accuracy is None for an empty array."""
    n, correct = len(right), int(np.sum(right))
    low, high = wilson(correct, n)
    return {"n": n, "correct": correct, "accuracy": correct / n if n else None, "low": low, "high": high}
