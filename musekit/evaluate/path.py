"""path: does interpolation mean something? Does the music along a great circle move from one end to the other?

A path goes from one prompt's sample of Stage 1 to another prompt's, by equal angles and with one noise. Each place is
rendered and embedded again. With h the embedding of the rendered sound and a, b the ends,

    d = cos(h, b) - cos(h, a)

should rise with the position: Spearman's rank correlation of d and position is 1 where it always rises.
"""

from __future__ import annotations

import numpy as np
import torch

from musekit.evaluate.sounds import progress
from musekit.evaluate.study import Study, target
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


def rises(difference: np.ndarray, position: np.ndarray) -> float:
    """Spearman's rank correlation; 0 where the difference is constant."""
    from scipy.stats import spearmanr

    return float(spearmanr(position, difference).statistic) if np.ptp(difference) else 0.0


def path_row(muse: Muse, first: str, last: str, places: int, seed: int, seconds: float) -> dict:
    """One path: its correlation, the similarity difference at each place, and whether its ends sound as they do
    in a lab that has rendered nothing before, bit for bit."""

    def new_lab() -> Lab:
        return Lab(muse, seconds=seconds, quality=QUALITY, noise_seed=seed)

    lab, rate = new_lab(), muse.config.codec.sample_rate
    ends = lab.draw(first, 1, seed)[0], lab.draw(last, 1, seed + 1)[0]
    audio = [lab.sound(place).audio for place in lab.path(ends, places)]
    x = torch.cat([muse.embedder.embed_audio(sound[None], rate) for sound in audio]).double().cpu()
    a, b = (end.embedding.double() for end in ends)
    d = (x @ b - x @ a).numpy()
    fresh = new_lab().sound(ends[1]).audio, new_lab().sound(ends[0]).audio
    row = {"measure": "path", "first": first, "last": last, "spearman": rises(d, np.arange(places))}
    row |= {"difference": [round(float(v), 4) for v in d], "angle": float(torch.rad2deg(torch.arccos(a @ b)))}
    return row | {"ends_equal": torch.equal(fresh[1], audio[0]) and torch.equal(fresh[0], audio[-1])}


def path_rows(muse: Muse, n: int = len(PAIRS), places: int = PLACES, seconds: float = SECONDS) -> list[dict]:
    """n paths, and the bars: a mean correlation of at least 0.8, and ends that do not depend on what was rendered."""
    rows = [
        path_row(muse, first, last, places, SEED + 10 * k, seconds)
        for k, (first, last) in enumerate(progress(PAIRS[:n], "paths"))
    ]
    found, equal = [row["spearman"] for row in rows], sum(row["ends_equal"] for row in rows)
    above = f"{sum(x >= 0.8 for x in found)} of {n} paths"
    name = "interpolation: Spearman of similarity difference and position, mean"
    rows.append(target(name, float(np.mean(found)), 0.8, above=above, least=min(found)))
    rows.append(target("interpolation: paths whose ends sound as the ends alone, to the bit", equal, n))
    return rows


def measure_path(study: Study) -> None:
    """Writes results/path.json."""
    rows = path_rows(study.muse, *((2, 3, 1.0) if study.quick else ()))
    study.write("path", rows, seed=SEED, places=PLACES, seconds=SECONDS, quality=QUALITY)
