"""How far are generated clips from held-out music (distances), and from the training clips (memorisation)?

A distance means nothing without its embedding, its reference set, both numbers of clips and their length: each row has
them. The ruler is the distance of one half of the reference from the other half. Two embeddings: our own joint
embedding, in which Stage 1 generates (so it may flatter the system), and librosa's onset and timbre statistics, which
were learned from nothing, standardised by the reference.

For memorisation a clip is a sequence of STFT chroma vectors, 10.8 per second. Two clips are compared over every
transposition and every time shift that overlaps by half:

    distance = 1 - max over (shift, transposition) of mean over the overlap of corr(chroma_a, chroma_b)

0 for a transposed or shifted copy at the same tempo, about 1 for unrelated sounds. A copy played at another tempo
is not found.
"""

from __future__ import annotations

import numpy as np
import torch

from musekit.evaluate.features import standardised
from musekit.evaluate.prompts import PROMPT_SEED, evaluation_pieces
from musekit.evaluate.study import Study, progress, target
from musekit.statistics import NEIGHBOURS, KernelDistance, percentile_difference, precision_and_recall

LIBROSA = "librosa timbre and onsets (nothing learned)"
KERNEL = "kernel distance (KAD)"
WINDOW, HOP = 8192, 4096  # samples at 44.1 kHz: 10.8 chroma steps per second
PERCENT = 5


def compare(x: np.ndarray, y: np.ndarray, **about) -> list[dict]:
    """Rows of the kernel distance, precision and recall of x (n, D) against the reference y (m, D), n and m above 1."""
    kernel = KernelDistance(y)
    found = {KERNEL: kernel.measured(x) | {"bandwidth": kernel.bandwidth}}
    if min(len(x), len(y)) > NEIGHBOURS:
        found |= precision_and_recall(x, y)
    return [
        {"measure": "distance", **about, "n": len(x), "m": len(y), "name": name, **row} for name, row in found.items()
    ]


def measure_distances(study: Study) -> None:
    """Writes results/distances.json: pieces made from prompts, Stage 1's embeddings, and codec round trips."""
    _, paths, sampled = evaluation_pieces(study)
    real, rows = study.prompt_like(), []
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
        ruler = "ruler: half of the reference against the other half"  # prompt_like's order is random
        rows += compare(y[:half], y[half:], **about, source=ruler)
        rows += compare(through_codec, y[half:], **about, source="codec: round trips of one half, other half")
        if embedding != LIBROSA:
            rows += compare(sampled, y, **about, source="Stage 1's embeddings")
        rows += compare(audio, y, **about, source="generated audio")
    study.write("distances", rows, seed=PROMPT_SEED)


# -- memorisation


def normal(chroma: np.ndarray) -> np.ndarray:
    """Chroma (12, S) >= 0 -> each step of mean 0 and length 1, or 0 where all pitch classes are equal; same shape."""
    x = np.sqrt(chroma)  # the root lets quiet notes count
    x = x - x.mean(0)
    return (x / np.maximum(np.linalg.norm(x, axis=0), 1e-6)).astype(np.float32)


def sequence(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """audio (2, N) -> normal chroma steps (12, S)."""
    import librosa

    options = {"n_fft": WINDOW, "hop_length": HOP, "tuning": 0.0, "norm": None}
    return normal(librosa.feature.chroma_stft(y=audio.mean(0), sr=sample_rate, **options))


class Nearest:
    """Shift-aligned chroma distances to a library of sequences, by one two-dimensional FFT per query.

    The correlation over transpositions (circular in pitch class) and shifts (in time) is a product of transforms.
    """

    def __init__(self, library: list[np.ndarray], least: float = 0.5):
        self.least, self.steps = least, max(x.shape[1] for x in library)
        self.size = 2 * self.steps  # no shift wraps around onto another
        self.lengths = np.array([x.shape[1] for x in library])
        padded = np.stack([np.pad(x, ((0, 0), (0, self.size - x.shape[1]))) for x in library])
        self.spectra = torch.fft.rfft2(torch.from_numpy(padded))

    def distances(self, query: np.ndarray) -> np.ndarray:
        """query (12, S), S no longer than the library's longest -> its distance to each sequence (n,)."""
        query = query[:, : self.steps]
        x = torch.fft.rfft2(torch.from_numpy(np.pad(query, ((0, 0), (0, self.size - query.shape[1])))))
        similarity = torch.fft.irfft2(self.spectra * x.conj(), s=(12, self.size)).amax(1).numpy()  # (n, shifts)
        shifts = np.arange(self.size)
        shifts = np.where(shifts < self.steps, shifts, shifts - self.size)  # of the query against the library
        length, n = query.shape[1], self.lengths[:, None]
        overlap = np.minimum(shifts + length, n) - np.maximum(shifts, 0)  # (n, shifts)
        allowed = overlap >= self.least * np.minimum(length, n)
        return 1 - np.where(allowed, similarity / np.maximum(overlap, 1), -np.inf).max(1)


def measure_memorisation(study: Study) -> None:
    """Writes results/memorisation.json. Held-out clips are of the kinds that the prompts ask for."""
    train, held_out = study.split("train"), study.prompt_like()
    library = Nearest([sequence(*study.read(clip)) for clip in progress(train, "chroma of the training clips")])
    sources = {
        "generated": evaluation_pieces(study)[1],
        "held-out originals": held_out,
        "held-out round trips": study.round_trips(held_out),
        "round trips of training clips": study.round_trips(train[:8]),  # a check: these must be found again
    }
    found, rows = {}, []
    for source, files in sources.items():
        sounds = progress(files, f"nearest training clip, {source}")
        found[source] = np.array([library.distances(sequence(*study.read(sound))).min() for sound in sounds])
        percentiles = {f"p{p}": float(np.percentile(found[source], p)) for p in (5, 25, 50, 95)}
        rows.append({"measure": "nearest training clip", "source": source, "n": len(files), **percentiles})
    bars = []
    for source in ("held-out originals", "held-out round trips"):
        gap = percentile_difference(found["generated"], found[source], PERCENT, seed=0)
        rows.append({"measure": "difference of 5th percentiles", "source": f"generated - {source}", **gap})
        # met where the bootstrap finds no evidence that generated clips are nearer
        bars.append(target(f"memorisation: generated - {source}, upper end of 95 % interval", gap["high"], at_least=0))
    study.write("memorisation", rows + bars, seed=PROMPT_SEED)
