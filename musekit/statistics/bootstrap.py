"""Bootstrap: how sure a number is (Efron 1979). Intervals: 95 %, two-sided, percentile method, seeded."""

from __future__ import annotations

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 2000


def counts(n: int, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """How often each of n rows is drawn in each bootstrap sample, (resamples, n).

    The same seed gives the same draws: statistics of rows that belong together (the same seeds, prompts or clips) are
    redrawn together, and the interval of their difference is the paired one.
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
    """{"difference", "low", "high"} of the mean of x (n,) less that of y (n,); x_i and y_i belong together.

    Raises ValueError when their numbers differ.
    """
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
