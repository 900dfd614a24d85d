"""Landscape: embeddings as a map with hills. UMAP lays them out, a kernel density makes the hills, tags name them.

Only neighbourhoods on the map have a meaning; the distance between two hills has none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from musekit.config import MuseError
from musekit.lab.rendering import threads

GRID = 72  # cells a side of the density
MIN_POINTS = 4
MIN_UMAP_POINTS = 12  # fewer points are laid out by their two principal components
NEIGHBOURS = 15
BANDWIDTH = 0.6  # of the density's kernel, times Scott's: a narrower kernel shows more hills
TEMPERATURE = 0.03  # of the cosine, where a new point is placed


@dataclass(frozen=True)
class Peak:
    """The top of a hill."""

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
        """Places (..., 2) of other embeddings (..., 512): the mean of all points, weighted by a softmax of cosines."""
        cosine = np.asarray(rows, dtype=np.float64) @ self.embeddings.T.astype(np.float64)  # (..., n)
        weight = np.exp((cosine - cosine.max(-1, keepdims=True)) / TEMPERATURE)
        return weight @ self.xy / weight.sum(-1, keepdims=True)


def landscape(embeddings: np.ndarray, seed: int = 0, most_peaks: int = 8) -> Landscape:
    """The map of embeddings (n, 512) of unit length; the same points and seed give the same map.

    Raises MuseError for fewer than 4 points. The first call imports UMAP, which takes some seconds.
    """
    rows = np.ascontiguousarray(np.asarray(embeddings, dtype=np.float32))
    if rows.ndim != 2 or len(rows) < MIN_POINTS:
        raise MuseError(f"a map needs {MIN_POINTS} points or more; sample more embeddings first")
    xy = principal(rows) if len(rows) < MIN_UMAP_POINTS else umap_layout(rows, seed)
    x, y, density = hills(xy)
    return Landscape(rows, xy, x, y, density, peaks(xy, x, y, density, most_peaks))


def umap_layout(rows: np.ndarray, seed: int = 0) -> np.ndarray:
    """UMAP by cosine (McInnes et al. 2018, arXiv 1802.03426): (n, 2)."""
    import warnings

    from umap import UMAP

    options = {"n_neighbors": min(NEIGHBOURS, len(rows) - 1), "min_dist": 0.15, "metric": "cosine"}
    with warnings.catch_warnings(), threads(torch.get_num_threads()):  # numba changes torch's threads, and so its bits
        warnings.simplefilter("ignore")  # about a fixed seed that means one thread, and a graph that is not connected
        found = UMAP(**options, random_state=seed, n_jobs=1).fit_transform(rows)
    return np.nan_to_num(np.asarray(found, dtype=np.float64))


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


# -- names of places

WORDS = (
    "sad", "happy", "calm", "agitated", "cheerful", "dark", "serene", "solemn", "slow", "fast", "moderate", "soft",
    "loud", "baroque", "renaissance", "medieval", "folk", "romantic", "ragtime", "solo", "chordal", "polyphonic",
)  # fmt: skip
FORMS = ("chorale", "jig", "reel", "hornpipe", "waltz", "march", "polka", "minuet", "madrigal", "lament")
MODES = ("in a minor key", "in a major key")


def sentences() -> dict[str, str]:
    """{tag: the sentence that is embedded for it}."""
    from musekit.corpus.instruments import INSTRUMENTATIONS

    found = {word: f"{word} music" for word in WORDS}
    found |= {name: f"{name} music" for name in INSTRUMENTATIONS}
    found |= {form: f"a {form}" for form in FORMS}
    return found | {mode.removeprefix("in a "): f"music {mode}" for mode in MODES}


class Vocabulary:
    """Tags that name places, through the joint text-audio embedding.

    A tag is near a sound when the embedding of "<tag> music" is. Some tags are near to everything, so a place is named
    by the tags that are nearer to it than to music on average.
    """

    def __init__(self, embedder, tags: dict[str, str] | None = None):
        """embedder: `JointEmbedder`; tags: {tag: sentence}, default `sentences()`."""
        self.embedder, self.tags = embedder, sentences() if tags is None else tags

    @cached_property
    def embeddings(self) -> Tensor:
        """(tags, 512), unit length."""
        return self.embedder.embed_text(list(self.tags.values()))

    def scores(self, rows: Tensor, background: Tensor | None = None) -> Tensor:
        """Cosines (n, tags) of rows (n, 512) with the tags, minus the mean over the rows of `background`."""
        cosines = rows.float() @ self.embeddings.T
        return cosines if background is None else cosines - (background.float() @ self.embeddings.T).mean(0)

    def nearest(self, rows: Tensor, background: Tensor | None = None, k: int = 3) -> list[str]:
        """The k tags nearest to rows (n, 512) on average."""
        best = self.scores(rows, background).mean(0).argsort(descending=True)
        return [list(self.tags)[i] for i in best[:k]]

    def named(self, land: Landscape) -> Landscape:
        """The map with each hill named by the tags nearest to its points, relative to all points."""
        x = torch.from_numpy(land.embeddings)
        background = x if len(land.peaks) > 1 else None
        names = [", ".join(self.nearest(x[list(peak.points)], background)) for peak in land.peaks]
        return replace(land, peaks=tuple(replace(peak, label=name) for peak, name in zip(land.peaks, names)))
