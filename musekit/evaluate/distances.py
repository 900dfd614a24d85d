"""distances: how far are generated clips, all together, from held-out music? (`conditional` looks at each prompt.)

A distance means nothing without its embedding, its reference set, both numbers of clips and their length: each row has
them. Every set is compared with the same half of the held-out clips, at equal numbers; the ruler is the other half. Two
embeddings: our own joint embedding, in which Stage 1 generates (so it may flatter the system), and librosa's onset and
timbre statistics, which were learned from nothing, standardised by the reference.
"""

import numpy as np

from musekit.evaluate.features import standardised
from musekit.evaluate.judge import PROMPT_SEED, evaluation_pieces
from musekit.evaluate.study import Study
from musekit.statistics import NEIGHBOURS, KernelDistance, precision_and_recall

LIBROSA = "librosa timbre and onsets (nothing learned)"
KERNEL = "kernel distance (KAD)"


def compare(x: np.ndarray, y: np.ndarray, **about) -> list[dict]:
    """Rows of the kernel distance, precision and recall of x against the reference y, (n, D) each, n above 1."""
    kernel, x = KernelDistance(y), x[: len(y)]
    found = {KERNEL: kernel.measured(x) | {"bandwidth": kernel.bandwidth}}
    if min(len(x), len(y)) > NEIGHBOURS:
        found |= precision_and_recall(x, y)
    return [
        {"measure": "distance", **about, "n": len(x), "m": len(y), "name": name, **row} for name, row in found.items()
    ]


def measure_distances(study: Study) -> None:
    """Writes results/distances.json: pieces made from prompts, Stage 1's embeddings, and codec round trips."""
    _, paths, sampled = evaluation_pieces(study)
    real, rows = study.prompt_like(), []  # in random order
    half = len(real) // 2
    trips = study.round_trips(real[:half])
    real_features = study.features(real)
    embeddings = {
        study.embedding_name: [study.embed(sounds) for sounds in (real, trips, paths)],
        LIBROSA: [standardised(study.features(sounds), real_features) for sounds in (real, trips, paths)],
    }
    for embedding, (y, through_codec, audio) in embeddings.items():
        about = {"seconds": study.muse.config.sample.seconds, "reference": "held-out clips, like the prompts"}
        about["embedding"] = embedding
        sources = {"ruler: half of the reference against the other half": y[:half]}
        sources["codec: round trips of one half, other half"] = through_codec
        if embedding != LIBROSA:
            sources["Stage 1's embeddings"] = sampled
        for source, x in (sources | {"generated audio": audio}).items():
            rows += compare(x, y[half : 2 * half], **about, source=source)
    study.write("distances", rows, seed=PROMPT_SEED)
