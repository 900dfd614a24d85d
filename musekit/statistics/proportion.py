"""Proportion: how many of n, and how sure that is."""

from __future__ import annotations

import numpy as np

from musekit.statistics.bootstrap import CONFIDENCE


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
