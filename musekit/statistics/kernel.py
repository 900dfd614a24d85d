"""Kernel distance: KAD (Chung et al. 2025, arXiv 2502.15602), 100 times the squared maximum mean discrepancy (Gretton
et al. 2012) with a Gaussian kernel.

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y),    k(a, b) = exp(-|a - b|^2 / (2 s^2))

Each expectation is a mean over pairs of different rows, so the estimate is unbiased at any N, and may be below 0 where
the distributions are equal. The bandwidth s is the median distance between two rows of the reference set.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from musekit.statistics.intervals import counts, interval
from musekit.statistics.spread import unit_distances

SCALE = 100.0  # the paper's


class KernelDistance:
    """The kernel distance of sets to this reference (m, D). Raises ValueError for fewer than two different rows."""

    def __init__(self, reference: np.ndarray, bandwidth: float | None = None):
        from scipy.spatial.distance import pdist

        if len(reference) < 2:
            raise ValueError("a kernel distance needs two rows on each side")
        self.reference = np.asarray(reference, float)
        self.bandwidth = float(np.median(pdist(self.reference)) if bandwidth is None else bandwidth)
        if not self.bandwidth > 0:
            raise ValueError("the reference's rows are all alike, so a kernel has no bandwidth")

    def kernel(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """k of every row of a (n, D) and b (m, D): (n, m)."""
        return np.exp(-(unit_distances(a, b) ** 2) / (2 * self.bandwidth**2))

    @cached_property
    def _among_reference(self) -> np.ndarray:
        return self.kernel(self.reference, self.reference)

    def draws(self, x: np.ndarray, drawn_x: np.ndarray, drawn_y: np.ndarray) -> np.ndarray:
        """Bootstrap draws (R,) of the distance of x (n, D); `drawn_*` (R, n) and (R, m) are from `bootstrap.counts`.

        Paired sets share `drawn_x`. A row drawn twice is no pair with itself, so draws are unbiased too. A draw that
        consists of one row only has no pair and is NaN.
        """
        cross = ((drawn_x @ self.kernel(x, self.reference)) * drawn_y).sum(1) / (drawn_x.sum(1) * drawn_y.sum(1))
        return SCALE * (_pairs(self.kernel(x, x), drawn_x) + _pairs(self._among_reference, drawn_y) - 2 * cross)

    def of(self, x: np.ndarray) -> float:
        """The distance of x (n, D), n >= 2."""
        return float(self.draws(x, np.ones((1, len(x))), np.ones((1, len(self.reference))))[0])

    def measured(self, x: np.ndarray, seed: int = 0) -> dict:
        """{"value", "low", "high"}: the distance of x (n, D), n >= 2, and its interval, both sets redrawn.

        The interval is valid where the distance is clearly above 0; near 0 it is too wide (the statistic degenerates).
        """
        low, high = _interval(self.draws(x, counts(len(x), seed), counts(len(self.reference), seed + 1)))
        return {"value": self.of(x), "low": low, "high": high}

    def paired_difference(self, x: np.ndarray, other: np.ndarray, seed: int = 0) -> dict:
        """{"difference", "low", "high"} of the distances of x and `other` (n, D); x_i and other_i are a pair."""
        drawn_x, drawn_y = counts(len(x), seed), counts(len(self.reference), seed + 1)
        low, high = _interval(self.draws(x, drawn_x, drawn_y) - self.draws(other, drawn_x, drawn_y))
        return {"difference": self.of(x) - self.of(other), "low": low, "high": high}


def _interval(draws: np.ndarray) -> tuple[float, float]:
    return interval(draws[np.isfinite(draws)])


def _pairs(k: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Mean of k (n, n) over pairs of different rows, weighted by w (R, n): (R,); NaN where a draw has no pair."""
    squares = w**2
    pairs = w.sum(1) ** 2 - squares.sum(1)
    return (((w @ k) * w).sum(1) - squares @ np.diag(k)) / np.where(pairs > 0, pairs, np.nan)
