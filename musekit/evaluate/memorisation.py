"""memorisation: is what is generated nearer to the training clips than new music is?

A clip is a sequence of chroma vectors of an STFT, 10.8 a second. Two clips are compared over every time shift that
overlaps by half, and every transposition:

    distance = 1 - max over (shift, transposition) of mean over the overlap of corr(chroma_a, chroma_b)

0 for a transposed or shifted copy at the same tempo, about 1 for unrelated sounds. A copy played at another tempo
is not found.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from musekit.corpus.captions import evaluation_prompts
from musekit.evaluate import generated
from musekit.evaluate.ceiling import like_prompts
from musekit.evaluate.subject import Subject, bar, read_audio, table, target
from musekit.statistics import percentile_difference

WINDOW, HOP = 8192, 4096  # samples at 44.1 kHz: 10.8 steps a second
PERCENT = 5


def normal(chroma: np.ndarray) -> np.ndarray:
    """Chroma (12, S) >= 0 -> each step of mean 0 and length 1, or 0 where all classes are alike; same shape."""
    x = np.sqrt(chroma)  # a root, so that quiet notes count
    x = x - x.mean(0)
    return (x / np.maximum(np.linalg.norm(x, axis=0), 1e-6)).astype(np.float32)


def sequence(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """audio (2, N) -> normal chroma steps (12, S)."""
    import librosa

    options = {"n_fft": WINDOW, "hop_length": HOP, "tuning": 0.0, "norm": None}
    return normal(librosa.feature.chroma_stft(y=audio.mean(0), sr=sample_rate, **options))


def sequences(paths: Sequence[Path], text: str) -> list[np.ndarray]:
    """Of each file."""
    return [sequence(*read_audio(p)) for p in bar(paths, text)]


class Nearest:
    """Shift-aligned chroma distances to a library of sequences, by one two-dimensional FFT a query.

    The correlation over transpositions (circular in pitch class) and shifts (in time) is a product of transforms.
    """

    def __init__(self, library: list[np.ndarray], least: float = 0.5):
        import torch

        self.least, self.steps = least, max(x.shape[1] for x in library)
        self.size = 2 * self.steps  # no shift wraps round onto another
        self.lengths = np.array([x.shape[1] for x in library])
        padded = np.stack([np.pad(x, ((0, 0), (0, self.size - x.shape[1]))) for x in library])
        self.spectra = torch.fft.rfft2(torch.from_numpy(padded))

    def distances(self, query: np.ndarray) -> np.ndarray:
        """query (12, S), S no longer than the library's longest -> its distance to each sequence (n,)."""
        import torch

        query = query[:, : self.steps]
        x = torch.fft.rfft2(torch.from_numpy(np.pad(query, ((0, 0), (0, self.size - query.shape[1])))))
        similarity = torch.fft.irfft2(self.spectra * x.conj(), s=(12, self.size)).amax(1).numpy()  # (n, shifts)
        shifts = np.arange(self.size)
        shifts = np.where(shifts < self.steps, shifts, shifts - self.size)  # of the query against the library
        length, n = query.shape[1], self.lengths[:, None]
        overlap = np.minimum(shifts + length, n) - np.maximum(shifts, 0)  # (n, shifts)
        allowed = overlap >= self.least * np.minimum(length, n)
        return 1 - np.where(allowed, similarity / np.maximum(overlap, 1), -np.inf).max(1)


def nearest(library: Nearest, queries: list[np.ndarray], text: str) -> tuple[np.ndarray, np.ndarray]:
    """Of each sequence: the distance to its nearest one of the library, and which one it is."""
    each = [library.distances(query) for query in bar(queries, text)]
    return np.array([d.min() for d in each]), np.array([d.argmin() for d in each])


def measure_memorisation(subject: Subject) -> None:
    """Writes results/memorisation.json. Held-out clips are of the kinds that the prompts ask for."""
    train = subject.split("train")
    library = Nearest(sequences([subject.path(c) for c in train], "chroma of the training clips"))
    prompts = evaluation_prompts(subject.n)
    paths = generated.from_prompts(subject, prompts)
    held_out = like_prompts(subject)
    clips = train[:8]  # the ruler: a training clip through the codec is found again
    sources = {
        "generated": paths,
        "held-out originals": [subject.path(c) for c in held_out],
        "held-out round trips": subject.round_trips(held_out),
        "round trips of training clips": subject.round_trips(clips),
    }
    found, rows = {}, []
    for source, files in sources.items():
        queries = sequences(files, f"chroma, {source}")
        found[source], which = nearest(library, queries, f"nearest training clip, {source}")
        some = {f"p{p}": float(np.percentile(found[source], p)) for p in (5, 25, 50, 95)}
        rows.append({"measure": "nearest training clip", "source": source, "n": len(files), **some})
        if source == "generated":
            closest = np.argsort(found[source])[:10]
            near = [{"measure": "closest", "distance": float(found[source][i]), "file": paths[i].name} for i in closest]
            for row, i in zip(near, closest):
                row |= {"prompt": prompts[i]["text"], "train": train[which[i]]["id"]}
    bars = []
    for source in ("held-out originals", "held-out round trips"):
        gap = percentile_difference(found["generated"], found[source], PERCENT, seed=0)
        rows.append({"measure": "difference of 5th percentiles", "source": f"generated - {source}", **gap})
        # "no smaller": the bootstrap finds no evidence that generated clips lie nearer
        bars.append(target(f"memorisation: generated - {source}, upper end of 95 % interval", gap["high"], at_least=0))
    table(rows[: len(sources)], "source", "n", "p5", "p25", "p50", "p95")
    table(rows[len(sources) :], "source", "difference", "low", "high")
    table(near, "distance", "prompt", "train")
    table(bars, "name", "value", "bar", "met")
    subject.write("memorisation", rows + near + bars, seed=generated.PROMPT_SEED)
