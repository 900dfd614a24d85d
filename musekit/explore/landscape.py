"""Landscape: embeddings as a map with hills. UMAP lays them out, a kernel density makes the hills, tags name them.

Distances on the map are local: who lies beside whom is meant, how far apart two hills are is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from musekit.config import MuseError

GRID = 72  # cells a side of the density
LEAST = 4  # points of a map
FEW = 12  # below that, UMAP has nothing to go by: the two principal directions are shown
NEIGHBOURS = 15
BANDWIDTH = 0.6  # of the hills' kernel, in Scott's widths: narrower shows more hills
SHARP = 0.03  # of the cosine: how much nearer a point must be to count e times as much when another is placed


@dataclass(frozen=True)
class Peak:
    """A hill's top."""

    x: float
    y: float
    density: float  # relative to the highest, 0 to 1
    points: tuple[int, ...]  # the points nearest to it, nearest first
    label: str = ""


@dataclass(frozen=True)
class Landscape:
    """A map of n points."""

    embeddings: np.ndarray  # (n, 512) unit length
    xy: np.ndarray  # (n, 2)
    x: np.ndarray  # (GRID,)
    y: np.ndarray  # (GRID,)
    density: np.ndarray  # (GRID, GRID), rows are y; its highest value is 1
    peaks: tuple[Peak, ...]

    def place(self, rows: np.ndarray) -> np.ndarray:
        """Where other embeddings (..., 512) belong: (..., 2), the mean of all points weighted by exp(cosine / SHARP).

        Noise, about as near to every point as to any other, lands in the middle; a sample beside its like.
        """
        cosine = np.asarray(rows, dtype=np.float64) @ self.embeddings.T.astype(np.float64)  # (..., n)
        weight = np.exp((cosine - cosine.max(-1, keepdims=True)) / SHARP)
        return weight @ self.xy / weight.sum(-1, keepdims=True)

    def nearest(self, x: float, y: float) -> int:
        """The point nearest to a place of the map."""
        return int(((self.xy - [x, y]) ** 2).sum(1).argmin())


def landscape(embeddings: np.ndarray, seed: int = 0, most_peaks: int = 8) -> Landscape:
    """The map of embeddings (n, 512) of unit length; the same points and seed give the same map.

    Raises MuseError for fewer than 4 points. The first call imports UMAP, which takes seconds.
    """
    rows = np.ascontiguousarray(np.asarray(embeddings, dtype=np.float32))
    if rows.ndim != 2 or len(rows) < LEAST:
        raise MuseError(f"a map needs {LEAST} points or more; sample some more embeddings first")
    xy = principal(rows) if len(rows) < FEW else umap_layout(rows, seed)
    x, y, density = hills(xy)
    return Landscape(rows, xy, x, y, density, peaks(xy, x, y, density, most_peaks))


def umap_layout(rows: np.ndarray, seed: int = 0) -> np.ndarray:
    """UMAP by cosine (McInnes et al. 2018, arXiv 1802.03426): (n, 2). Imported here, since numba takes its time."""
    import warnings

    from umap import UMAP

    options = {"n_neighbors": min(NEIGHBOURS, len(rows) - 1), "min_dist": 0.15, "metric": "cosine"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a fixed seed means one thread; that parts of the graph are apart
        found = UMAP(**options, random_state=seed, n_jobs=1).fit_transform(rows)
    return np.nan_to_num(np.asarray(found, dtype=np.float64))


def principal(rows: np.ndarray) -> np.ndarray:
    """The two principal components of rows (n, D), n > 2: (n, 2)."""
    centred = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    return u[:, :2] * s[:2]


def hills(xy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A Gaussian kernel density of points (n, 2) on a grid that holds its slopes: x, y and values up to 1."""
    from scipy.stats import gaussian_kde

    low, high = xy.min(0), xy.max(0)
    width = BANDWIDTH * len(xy) ** (-1 / 6) * xy.std(0)  # of the kernel, along each axis
    margin = np.maximum(0.05 * np.maximum(high - low, 1e-3), 2.7 * width)  # no slope is cut off
    x, y = (np.linspace(low[i] - margin[i], high[i] + margin[i], GRID) for i in (0, 1))
    places = np.stack(np.meshgrid(x, y)).reshape(2, -1)
    try:
        density = gaussian_kde(xy.T, bw_method=lambda kde: BANDWIDTH * kde.scotts_factor())(places).reshape(GRID, GRID)
    except np.linalg.LinAlgError:  # all on one line or in one place
        density = np.zeros((GRID, GRID))
    return x, y, density / max(float(density.max()), 1e-12)


def peaks(xy: np.ndarray, x: np.ndarray, y: np.ndarray, density: np.ndarray, most: int, least=0.15) -> tuple[Peak, ...]:
    """Local maxima of the density, highest first, and the points nearest to each."""
    from scipy.ndimage import maximum_filter

    tops = np.argwhere((density == maximum_filter(density, size=GRID // 8)) & (density > least))
    tops = sorted(tops.tolist(), key=lambda ij: -density[ij[0], ij[1]])[:most]
    members = max(3, len(xy) // 25)
    found = []
    for i, j in tops:
        order = ((xy - [x[j], y[i]]) ** 2).sum(1).argsort()[:members]
        found.append(Peak(float(x[j]), float(y[i]), float(density[i, j]), tuple(int(k) for k in order)))
    return tuple(found)
