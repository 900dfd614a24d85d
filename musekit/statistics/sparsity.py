"""Sparsity: is it a few spikes or an even spread?"""

from __future__ import annotations

import numpy as np


def hoyer(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """(sqrt(n) - l1 / l2) / (sqrt(n) - 1) of non-negative x: 1 for one spike, 0 for a constant (Hoyer 2004)."""
    root = np.sqrt(x.shape[axis])
    l2 = np.sqrt((x**2).sum(axis))
    return (root - np.abs(x).sum(axis) / np.maximum(l2, 1e-12)) / (root - 1) * (l2 > 0)
