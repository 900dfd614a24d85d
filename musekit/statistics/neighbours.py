"""Nearest neighbours: are generated rows like real ones (precision), and are all real ones covered (recall)?

A set's manifold is the union of balls around its rows, each reaching to the row's third nearest neighbour in the set.
Precision is the share of generated rows inside the real manifold, recall the share of real rows inside the generated
one (Kynkaanniemi et al. 2019, arXiv 1904.06991).
"""

from __future__ import annotations

import numpy as np

from musekit.statistics.intervals import accuracy
from musekit.statistics.spread import unit_distances

NEIGHBOURS = 3


def radii(x: np.ndarray, k: int = NEIGHBOURS) -> np.ndarray:
    """Distance of each row of x (n, D) to its k-th nearest other row, (n,). Raises ValueError for n <= k."""
    if len(x) <= k:
        raise ValueError(f"balls of {k} neighbours need more than {k} rows, not {len(x)}")
    return np.partition(unit_distances(x), k, axis=1)[:, k]  # the row itself is at 0


def nearest(x: np.ndarray, library: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row of x (n, D): the distance to its nearest row of the library (m, D), and its index."""
    d = unit_distances(np.atleast_2d(x), library)
    return d.min(1), d.argmin(1)


def precision_and_recall(generated: np.ndarray, real: np.ndarray) -> dict[str, dict]:
    """{"precision", "recall"}, each {"value", "low", "high"}; both sets need more than 3 rows.

    Intervals are those of the counted rows (Wilson), for fixed manifolds.
    """
    d = unit_distances(generated, real)  # (n, m)
    shares = {
        "precision": accuracy((d <= radii(real)[None]).any(1)),
        "recall": accuracy((d <= radii(generated)[:, None]).any(0)),
    }
    return {name: {"value": s["accuracy"], "low": s["low"], "high": s["high"]} for name, s in shares.items()}
