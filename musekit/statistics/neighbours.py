"""Nearest neighbours: are generated rows like real ones (precision, density), are all real ones covered (recall,
coverage)?

A set's manifold is the union of balls around its rows, each reaching to the row's k-th nearest neighbour in the set.

    precision  share of generated rows inside the real manifold: Kynkaanniemi et al. 2019, arXiv 1904.06991; k = 3
    recall     share of real rows inside the generated manifold
    density    how many real balls a generated row lies in, divided by k: Naeem et al. 2020, arXiv 2002.09797; k = 5
    coverage   share of real balls that contain a generated row

Two samples of one distribution have density 1 and the coverage of `expected_coverage`, whatever the distribution.
"""

from __future__ import annotations

import numpy as np

from musekit.statistics.intervals import accuracy, mean_interval
from musekit.statistics.spread import unit_distances

MANIFOLD_K = 3
DENSITY_K = 5


def radii(x: np.ndarray, k: int) -> np.ndarray:
    """Distance of each row of x (n, D) to its k-th nearest other row, (n,). Raises ValueError for n <= k."""
    if len(x) <= k:
        raise ValueError(f"balls of {k} neighbours need more than {k} rows, not {len(x)}")
    return np.partition(unit_distances(x), k, axis=1)[:, k]  # the row itself is at 0


def nearest(x: np.ndarray, library: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row of x (n, D): the distance to its nearest row of the library (m, D), and its index."""
    d = unit_distances(np.atleast_2d(x), library)
    return d.min(1), d.argmin(1)


def expected_coverage(real: int, generated: int, k: int = DENSITY_K) -> float:
    """The expected coverage of two samples of one distribution (Naeem et al. 2020, Lemma 2).

    1 - (real - 1) ... (real - k) / ((real + generated - 1) ... (real + generated - k)).
    """
    i = np.arange(1, k + 1)
    return float(1 - np.prod((real - i) / (real + generated - i)))


def manifold(generated: np.ndarray, real: np.ndarray) -> dict[str, dict]:
    """{"precision", "recall", "density", "coverage"}, each {"value", "low", "high"}; both sets need more than 5 rows.

    Intervals are those of the counted rows (Wilson; density: bootstrap), for fixed manifolds.
    """
    d = unit_distances(generated, real)  # (n, m)
    precision = accuracy((d <= radii(real, MANIFOLD_K)[None]).any(1))
    recall = accuracy((d <= radii(generated, MANIFOLD_K)[:, None]).any(0))
    inside = d <= radii(real, DENSITY_K)[None]
    density, coverage = mean_interval(inside.sum(1) / DENSITY_K), accuracy(inside.any(0))
    shares = {"precision": precision, "recall": recall, "coverage": coverage}
    found = {name: {"value": s["accuracy"], "low": s["low"], "high": s["high"]} for name, s in shares.items()}
    return found | {"density": {"value": density["mean"], "low": density["low"], "high": density["high"]}}
