"""Frechet distance: how far two Gaussians are apart, fitted to two sets of embeddings (FID: Heusel et al. 2017; FAD:
Kilgour et al. 2019).

    d = |m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2))

A sample's d is too large, by about b / N. `at_infinity` draws the line through several N to 1 / N = 0 (Chong & Forsyth
2020, arXiv 1911.07023; for music Gui et al. 2024, arXiv 2311.01616).
"""

from __future__ import annotations

import numpy as np

SHARES = 12  # points on the line
LEAST = 0.4  # the smallest share of the rows
REPEATS = 4  # subsets at each share but the whole


def of_gaussians(mean_x: np.ndarray, cov_x: np.ndarray, mean_y: np.ndarray, cov_y: np.ndarray) -> float:
    """The distance of N(mean_x, cov_x) and N(mean_y, cov_y): means (D,), covariances (D, D)."""
    return _distance(mean_x, _factor(cov_x), mean_y, _factor(cov_y))


def distance(x: np.ndarray, y: np.ndarray) -> float:
    """The distance of Gaussians fitted to the rows of x (n, D) and y (m, D), with unbiased covariances.

    Exact also where there are fewer rows than dimensions. Raises ValueError for a set of fewer than two rows.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError("a Frechet distance needs two rows on each side")
    (mean_x, a), (mean_y, b) = _fit(x), _fit(y)
    return _distance(mean_x, a, mean_y, b)


def at_infinity(x: np.ndarray, y: np.ndarray, seed: int = 0) -> dict:
    """{"value", "r2", "points"}: the distance where both sets had infinitely many rows.

    Both sets are cut to the same share f of their rows, from 0.4 to 1 and evenly in 1 / f, and a straight line in 1 / f
    goes to 0. (Chong & Forsyth cut the generated set alone, because their reference is large; here both are small and
    both biases are of the form b / N.) points: (f, mean distance); r2 tells whether it is a line. With fewer rows than
    the embeddings have directions that matter it is not, and the value is a guess.
    """
    rng, points = np.random.default_rng(seed), []
    for inverse in np.linspace(1, 1 / LEAST, SHARES):
        n, m = (max(2, round(len(s) / inverse)) for s in (x, y))
        repeats = 1 if inverse == 1 else REPEATS
        found = [
            distance(x[rng.choice(len(x), n, replace=False)], y[rng.choice(len(y), m, replace=False)])
            for _ in range(repeats)
        ]
        points.append((1 / inverse, float(np.mean(found))))
    inverse, values = np.array([[1 / f, d] for f, d in points]).T
    slope, value = np.polyfit(inverse, values, 1)
    residual = values - (value + slope * inverse)
    total = ((values - values.mean()) ** 2).sum()
    r2 = 1 - float((residual**2).sum() / total) if total > 0 else 1.0
    return {"value": float(value), "r2": r2, "points": points}


def _fit(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and a factor R (r, D) of the covariance: cov = R' R, r = min(n, D)."""
    x = np.asarray(x, float)
    mean = x.mean(0)
    return mean, np.linalg.qr((x - mean) / np.sqrt(len(x) - 1), mode="r")


def _factor(cov: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(cov)
    return np.sqrt(np.maximum(values, 0))[:, None] * vectors.T


def _distance(mean_x: np.ndarray, a: np.ndarray, mean_y: np.ndarray, b: np.ndarray) -> float:
    """With C_x = a'a and C_y = b'b, the eigenvalues of C_x C_y are the squared singular values of a b', so the trace of
    its root is their sum: no root of a matrix, no imaginary parts to drop.
    """
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    gap = np.asarray(mean_x, float) - mean_y
    return float(max(0.0, gap @ gap + (a**2).sum() + (b**2).sum() - 2 * cross))
