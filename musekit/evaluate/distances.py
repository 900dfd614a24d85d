"""distances: how far generated clips are from held-out music, by every measure at once.

A distance means nothing without its embedding, its reference set, both numbers of clips and their length: each row has
them. The ruler is the distance of one half of the reference from the other half.

Two embeddings: our own joint embedding, in which Stage 1 generates (so it may flatter the system), and librosa's onset
and timbre statistics, which were learned from nothing, standardised by the reference.
"""

from __future__ import annotations

import numpy as np

from musekit.evaluate.diversity import spread_with_interval
from musekit.evaluate.features import standardised
from musekit.evaluate.prompts import PROMPT_SEED, evaluation_pieces
from musekit.evaluate.study import Study
from musekit.statistics import KernelDistance, neighbours
from musekit.statistics.kernel import median_distance

LIBROSA = "librosa timbre and onsets (nothing learned)"
KERNEL = "kernel distance (KAD)"


def compare(x: np.ndarray, y: np.ndarray, **about) -> list[dict]:
    """One row per measure of the set x (n, D) against the reference y (m, D); `about` goes into each row.

    A measure that needs more or more different embeddings than there are is None.
    """
    n, m = len(x), len(y)
    found = {KERNEL: {"bandwidth": None}, "precision": {}, "recall": {}, "density": {}}
    found["coverage"] = {"of_one_distribution": None}
    if min(n, m) > 1 and median_distance(y) > 0:
        kernel = KernelDistance(y)
        found[KERNEL] = kernel.measured(x) | {"bandwidth": kernel.bandwidth}
    if min(n, m) > neighbours.DENSITY_K:
        found |= neighbours.manifold(x, y)
        found["coverage"] = found["coverage"] | {"of_one_distribution": neighbours.expected_coverage(m, n)}
    for name, some in (("spread", x), ("spread of the reference", y)):
        found[name] = dict(zip(("value", "low", "high"), spread_with_interval(some)))
    about = {"measure": "distance", **about, "n": n, "m": m}
    return [{**about, "name": name, "value": None, "low": None, "high": None, **row} for name, row in found.items()]


def halves(y: np.ndarray, **about) -> list[dict]:
    """The ruler: one half of the reference, whose order must be random, against the other half."""
    half = len(y) // 2
    return compare(y[:half], y[half:], **about, source="ruler: half of the reference against the other half")


def measure_distances(study: Study) -> None:
    """Writes results/distances.json: pieces made from prompts, Stage 1's embeddings, and codec round trips."""
    _, paths, sampled = evaluation_pieces(study)
    real, rows = study.prompt_like(), []
    half = len(real) // 2
    trips = study.round_trips(real[:half])
    shown = study.features(study.paths(real))
    embeddings = {
        study.embedding_name: (study.embeddings(real), study.embed_files(trips), study.embed_files(paths)),
        LIBROSA: [standardised(f, shown) for f in (shown, study.features(trips), study.features(paths))],
    }
    for embedding, (y, through_codec, audio) in embeddings.items():
        about = {"seconds": study.muse.config.sample.seconds, "reference": "held-out clips, like the prompts"}
        about["embedding"] = embedding
        rows += halves(y, **about)
        rows += compare(through_codec, y[half:], **about, source="codec: round trips of one half, other half")
        if embedding != LIBROSA:
            rows += compare(sampled, y, **about, source="Stage 1's embeddings")
        rows += compare(audio, y, **about, source="generated audio")
    study.write("distances", rows, seed=PROMPT_SEED)
