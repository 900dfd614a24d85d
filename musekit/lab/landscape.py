"""Landscape: embeddings as a map with hills. UMAP lays them out, a kernel density makes the hills, tags name them.

Only neighbourhoods on the map have a meaning; the distance between two hills has none.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from musekit.config import MuseError
from musekit.lab.umap_worker import layout

GRID = 72  # cells a side of the density
MIN_POINTS = 4
MIN_UMAP_POINTS = 12  # fewer points are laid out by their two principal components
NEIGHBOURS = 15
BANDWIDTH = 0.6  # of the density's kernel, times Scott's: a narrower kernel shows more hills


@dataclass(frozen=True)
class Peak:
    """The top of a hill."""

    x: float
    y: float
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


def landscape(embeddings: np.ndarray, seed: int = 0) -> Landscape:
    """The map of embeddings (n, 512) of unit length; the same points and seed give the same map.

    Raises MuseError for fewer than 4 points. UMAP takes some seconds to start.
    """
    rows = np.ascontiguousarray(np.asarray(embeddings, dtype=np.float32))
    if rows.ndim != 2 or len(rows) < MIN_POINTS:
        raise MuseError(f"a map needs {MIN_POINTS} points or more; sample more embeddings first")
    xy = principal(rows) if len(rows) < MIN_UMAP_POINTS else umap_layout(rows, seed)
    x, y, density = hills(xy)
    return Landscape(rows, xy, x, y, density, peaks(xy, x, y, density))


def umap_layout(rows: np.ndarray, seed: int = 0) -> np.ndarray:
    """UMAP by cosine (McInnes et al. 2018, arXiv 1802.03426): (n, 2)."""
    neighbours = min(NEIGHBOURS, len(rows) - 1)
    places = layout(rows, n_neighbors=neighbours, min_dist=0.15, metric="cosine", random_state=seed)
    return np.nan_to_num(places.astype(np.float64))


def principal(rows: np.ndarray) -> np.ndarray:
    """The two principal components of rows (n, D), n > 2: (n, 2)."""
    centred = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    return u[:, :2] * s[:2]


def hills(xy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A Gaussian kernel density of points (n, 2) on a grid around them: x, y and values up to 1."""
    from scipy.stats import gaussian_kde

    low, high = xy.min(0), xy.max(0)
    width = BANDWIDTH * len(xy) ** (-1 / 6) * xy.std(0)  # of the kernel, along each axis
    margin = np.maximum(0.05 * np.maximum(high - low, 1e-3), 2.7 * width)  # the hills end inside the grid
    x, y = (np.linspace(low[i] - margin[i], high[i] + margin[i], GRID) for i in (0, 1))
    places = np.stack(np.meshgrid(x, y)).reshape(2, -1)
    try:
        density = gaussian_kde(xy.T, bw_method=lambda kde: BANDWIDTH * kde.scotts_factor())(places).reshape(GRID, GRID)
    except np.linalg.LinAlgError:  # all on one line or in one place
        density = np.zeros((GRID, GRID))
    return x, y, density / max(float(density.max()), 1e-12)


def peaks(xy: np.ndarray, x: np.ndarray, y: np.ndarray, density: np.ndarray, most: int = 8) -> tuple[Peak, ...]:
    """Local maxima of the density, highest first, and the points nearest to each."""
    from scipy.ndimage import maximum_filter

    tops = np.argwhere((density == maximum_filter(density, size=GRID // 8)) & (density > 0.15))
    found, members = [], max(3, len(xy) // 25)
    for i, j in sorted(tops.tolist(), key=lambda ij: -density[ij[0], ij[1]])[:most]:
        order = ((xy - [x[j], y[i]]) ** 2).sum(1).argsort()[:members]
        found.append(Peak(float(x[j]), float(y[i]), tuple(order.tolist())))
    return tuple(found)


# -- names of places

WORDS = (
    "sad", "happy", "calm", "agitated", "cheerful", "dark", "serene", "solemn", "slow", "fast", "moderate", "soft",
    "loud", "baroque", "renaissance", "medieval", "folk", "romantic", "ragtime", "solo", "chordal", "polyphonic",
)  # fmt: skip
FORMS = ("chorale", "jig", "reel", "hornpipe", "waltz", "march", "polka", "minuet", "madrigal", "lament")


def sentences() -> dict[str, str]:
    """{word that can name a place: the sentence that is embedded for it}."""
    from musekit.corpus.instruments import INSTRUMENTATIONS

    found = {word: f"{word} music" for word in (*WORDS, *INSTRUMENTATIONS)}
    found |= {form: f"a {form}" for form in FORMS}
    return found | {f"{mode} key": f"music in a {mode} key" for mode in ("minor", "major")}


def named(land: Landscape, words: dict[str, Tensor]) -> Landscape:
    """The map with each hill named by the three words whose embeddings are nearest to its points.

    Some words are near to every sound, so the cosine with a word counts relative to its mean over all points.
    """
    x = torch.from_numpy(land.embeddings)
    cosines = x.float() @ torch.stack(list(words.values())).T  # (points, words)
    if len(land.peaks) > 1:
        cosines = cosines - cosines.mean(0)
    named_peaks = []
    for peak in land.peaks:
        best = cosines[list(peak.points)].mean(0).argsort(descending=True)[:3]
        named_peaks.append(replace(peak, label=", ".join(list(words)[i] for i in best)))
    return replace(land, peaks=tuple(named_peaks))
