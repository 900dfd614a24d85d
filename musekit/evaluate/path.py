"""path: does interpolation mean something? Does the music along a great circle move from one end to the other?

A path goes from one prompt's sample of Stage 1 to another prompt's, by equal angles and with one noise. Each place is
rendered and embedded again. With h the embedding of the rendered sound and a, b the ends,

    d = cos(h, b) - cos(h, a)

should rise with the position: Spearman's rank correlation of d and position is 1 where it always rises.
"""

from __future__ import annotations

import numpy as np

from musekit.evaluate.study import Study, progress, target
from musekit.muse import Settings

PLACES, SECONDS, SEED = 9, 6.0, 90_000
PAIRS = (  # 20 paths: other instruments, other moods, both, and neither named
    ("a sad piano melody", "a happy flute tune"), ("calm organ music", "fast harpsichord music"),
    ("a slow lament for cello", "a merry jig for violin"), ("something sad", "something happy"),
    ("soft harp music", "loud trumpet music"), ("a choir sings a slow chorale", "a fast guitar piece"),
    ("piano music", "organ music"), ("a violin melody", "a clarinet melody"), ("flute music", "cello music"),
    ("slow vibraphone music", "fast vibraphone music"), ("slow piano music", "fast piano music"),
    ("a string quartet", "solo flute music"), ("harp music", "harpsichord music"), ("dark music", "bright music"),
    ("slow music in a minor key", "fast music in a major key"), ("a trumpet tune", "a choir"),
    ("guitar music", "vibraphone music"), ("a slow clarinet melody", "a fast trumpet tune"),
    ("a church hymn for organ", "a folk dance for violin"), ("calm music", "stormy music"),
)  # fmt: skip


def great_circle(a: np.ndarray, b: np.ndarray, n: int) -> np.ndarray:
    """n unit vectors (n, D) from a to b, unit vectors (D,) that are not opposite, by equal angles."""
    angle, t = np.arccos(np.clip(a @ b, -1, 1)), np.linspace(0, 1, n)[:, None]
    x = np.sin((1 - t) * angle) * a + np.sin(t * angle) * b
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def rises(difference: np.ndarray) -> float:
    """Spearman's rank correlation with the position; 0 where the difference is constant."""
    from scipy.stats import spearmanr

    return float(spearmanr(np.arange(len(difference)), difference).statistic) if np.ptp(difference) else 0.0


def measure_path(study: Study) -> None:
    """Writes results/path.json: 20 paths, and the bar: a mean correlation of at least 0.8."""
    n, places, seconds = (2, 3, 1.0) if study.quick else (len(PAIRS), PLACES, SECONDS)
    rows = []
    for k, (first, last) in enumerate(progress(PAIRS[:n], "paths")):
        seed = SEED + 10 * k
        a, b = study.samples(first, 1, seed)[0], study.samples(last, 1, seed + 1)[0]
        recipes = [study.muse.recipe(first, seed, Settings(seconds=seconds))] * places
        d = study.embed(study.render(great_circle(a, b, places), recipes)) @ (b - a)
        row = {"measure": "path", "first": first, "last": last, "spearman": rises(d)}
        rows.append(row | {"difference": d.round(4).tolist(), "angle": float(np.degrees(np.arccos(a @ b)))})
    found = [row["spearman"] for row in rows]
    above = f"{sum(x >= 0.8 for x in found)} of {n} paths"
    name = "interpolation: Spearman of similarity difference and position, mean"
    rows.append(target(name, float(np.mean(found)), 0.8, above=above, least=min(found)))
    study.write("path", rows, seed=SEED, places=places, seconds=seconds)
