"""path: does interpolation mean something? Is the music along a great circle heard to move from one end to the other?

A path goes from one prompt's sample of Stage 1 to another prompt's, by equal angles and with one noise. Each place is
rendered and embedded again. With h the embedding of what is heard and a, b the ends,

    d = cos(h, b) - cos(h, a)

should rise with the position: Spearman's rank correlation of d and position, 1 where it always rises.
"""

from __future__ import annotations

import numpy as np
import torch

from musekit.evaluate.subject import Subject, bar, table, target
from musekit.lab.lab import Lab
from musekit.muse import Muse

PLACES, SECONDS, QUALITY, SEED = 9, 6.0, "good", 90_000
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


def rises(similarity: np.ndarray, position: np.ndarray) -> float:
    """Spearman's rank correlation; 0 where the similarity does not move at all."""
    from scipy.stats import spearmanr

    if np.ptp(similarity) == 0:
        return 0.0
    return float(spearmanr(position, similarity).statistic)


def path_row(lab: Lab, first: str, last: str, places: int, seed: int) -> dict:
    """One path: its correlation, and the similarity difference at each place."""
    ends = lab.draw(first, 1, seed)[0], lab.draw(last, 1, seed + 1)[0]
    way, rate = lab.path(ends, places), lab.muse.config.codec.sample_rate
    heard = torch.cat([lab.muse.embedder.embed_audio(lab.sound(p).audio[None], rate) for p in way]).double().cpu()
    a, b = (end.embedding.double() for end in ends)
    d = (heard @ b - heard @ a).numpy()
    ends_equal = all(torch.equal(lab.sound(x).audio, lab.sound(y).audio) for x, y in zip(ends, (way[0], way[-1])))
    row = {"measure": "path", "first": first, "last": last, "spearman": rises(d, np.arange(places))}
    return row | {"difference": [round(float(x), 4) for x in d], "angle": float(torch.rad2deg(torch.arccos(a @ b))),
                  "ends_equal": ends_equal}  # fmt: skip


def path_rows(muse: Muse, n: int = len(PAIRS), places: int = PLACES, seconds: float = SECONDS) -> list[dict]:
    """n paths, and the bar: the mean correlation is 0.8 or more, and the ends sound as the ends alone, to the bit."""
    rows = []
    for k, (first, last) in enumerate(bar(PAIRS[:n], "paths")):
        lab = Lab(muse, seconds=seconds, quality=QUALITY, noise_seed=SEED + 10 * k)
        rows.append(path_row(lab, first, last, places, SEED + 10 * k))
    found = [row["spearman"] for row in rows]
    at_least = f"{sum(x >= 0.8 for x in found)} of {len(found)} paths"
    name = "interpolation: Spearman of similarity difference and position, mean"
    rows.append(target(name, float(np.mean(found)), 0.8, above=at_least, least=min(found)))
    equal = sum(row["ends_equal"] for row in rows[:-1])
    rows.append(target("interpolation: paths whose ends sound as the ends alone, to the bit", equal, len(found)))
    return rows


def measure_path(subject: Subject) -> None:
    """Writes results/path.json."""
    rows = path_rows(subject.muse, *((2, 3, 1.0) if subject.quick else ()))
    table([r for r in rows if r["measure"] == "path"], "spearman", "angle", "ends_equal", "first", "last")
    table([r for r in rows if r["measure"] == "bar"], "name", "value", "bar", "met", "above", "least")
    subject.write("path", rows, seed=SEED, places=PLACES, seconds=SECONDS, quality=QUALITY)
