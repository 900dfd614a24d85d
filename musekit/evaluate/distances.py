"""distances: how far what is generated lies from held-out music, by every measure at once.

A distance means nothing without its embedding, its reference set, both numbers of clips and their length: each row
carries them. Beside the distance stands its ruler: how far one half of the reference lies from the other half.

Two embeddings: our own joint embedding, in which Stage 1 generates (so it may flatter itself), and what librosa hears,
which learned nothing from anyone (timbre and onset statistics, standardised by the reference).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from musekit.corpus.captions import evaluation_prompts
from musekit.evaluate import generated
from musekit.evaluate.ceiling import like_prompts
from musekit.evaluate.judge import pace
from musekit.evaluate.subject import Subject, table
from musekit.statistics import KernelDistance, frechet, interval, neighbours, spread, spread_draws, unit_distances
from musekit.statistics.kernel import median_distance

LIBROSA = "librosa timbre and onsets (nothing learned)"
COLUMNS = ("source", "name", "value", "low", "high", "r2", "n", "m", "seconds", "embedding")


def standardised(heard: Sequence[dict], reference: Sequence[dict]) -> np.ndarray:
    """Timbre and onset statistics (n, D) in standard deviations of the reference's; what does not vary there is 0."""
    x, real = pace(heard), pace(reference)
    deviation = real.std(0)
    varies = deviation > 1e-6
    return np.where(varies, (x - real.mean(0)) / np.where(varies, deviation, 1.0), 0.0)


def compare(x: np.ndarray, y: np.ndarray, **about) -> list[dict]:
    """One row a measure of the set x (n, D) against the reference y (m, D); `about` is what each row must tell.

    A measure that needs more rows than there are, or rows that differ, is None.
    """
    n, m = len(x), len(y)
    kernel = KernelDistance(y) if min(n, m) > 1 and median_distance(y) > 0 else None
    infinite = frechet.at_infinity(x, y) if min(n, m) > 9 else {"value": None, "r2": None}
    inside = neighbours.manifold(x, y) if min(n, m) > neighbours.DENSITY_K else {}
    measured = [
        {"name": "kernel distance (KAD)", **(kernel.measured(x) if kernel else {})},
        {"name": "Frechet distance", "value": frechet.distance(x, y) if min(n, m) > 1 else None},
        {"name": "Frechet distance, N to infinity", "value": infinite["value"], "r2": infinite["r2"]},
        *({"name": name, **inside.get(name, {})} for name in ("precision", "recall", "density", "coverage")),
        spread_row(x),
        {**spread_row(y), "name": "spread of the reference"},
    ]
    about |= {"n": n, "m": m}
    more = {
        "kernel distance (KAD)": {"bandwidth": kernel.bandwidth if kernel else None},
        "coverage": {"of_one_distribution": neighbours.expected_coverage(m, n) if inside else None},
    }
    empty = {"value": None, "low": None, "high": None}
    return [{"measure": "distance", **about, **empty, **row, **more.get(row["name"], {})} for row in measured]


def spread_row(x: np.ndarray) -> dict:
    """The spread of rows, with its interval."""
    if len(x) < 2:
        return {"name": "spread", "value": None}
    distances = unit_distances(x)
    low, high = interval(spread_draws(distances, seed=0))
    return {"name": "spread", "value": spread(distances), "low": low, "high": high}


def halves(y: np.ndarray, **about) -> list[dict]:
    """The ruler: one half of the reference against the other half. The reference's order must be random."""
    half = len(y) // 2
    return compare(y[:half], y[half:], **{**about, "source": "ruler: half of the reference against the other half"})


def measure_distances(subject: Subject) -> None:
    """Writes results/distances.json: pieces made from prompts, Stage 1's embeddings alone, and the codec alone."""
    prompts = evaluation_prompts(subject.n)
    paths, real = generated.from_prompts(subject, prompts), like_prompts(subject)
    facts = [generated.facts(p) for p in paths]
    seconds = {"seconds": subject.muse.config.sample.seconds, "reference": "held-out clips, like the prompts"}
    about = {**seconds, "embedding": subject.embedding_name}
    y = subject.embeddings(real)
    asked = subject.unit([np.array(f["embedding"]) for f in facts])
    half = len(real) // 2
    trips = subject.round_trips(real[:half])
    rows = halves(y, **about)
    rows += compare(subject.embed_files(trips), y[half:], **about, source="codec: round trips of one half, other half")
    rows += compare(asked, y, **about, source="Stage 1's embeddings")
    rows += compare(subject.embed_files(paths), y, **about, source="generated audio")
    shown = subject.hear_clips(real)
    about = {**seconds, "embedding": LIBROSA}
    y = standardised(shown, shown)
    rows += halves(y, **about)
    through = standardised(subject.hear_files(trips, "listening to codec round trips"), shown)
    rows += compare(through, y[half:], **about, source="codec: round trips of one half, other half")
    heard = standardised(subject.hear_files(paths, "listening to generated clips"), shown)
    rows += compare(heard, y, **about, source="generated audio")
    table(rows, *COLUMNS)
    subject.write("distances", rows, seed=generated.PROMPT_SEED)
