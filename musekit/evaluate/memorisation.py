"""memorisation: how near do pieces come to training clips, beside held-out clips of the same kinds?

A clip is a sequence of STFT chroma vectors, 10.8 per second. Two clips are compared over every transposition and every
time shift that overlaps by half:

    distance = 1 - max over (shift, transposition) of mean over the overlap of corr(chroma_a, chroma_b)

0 for a transposed or shifted copy at the same tempo, about 1 for unrelated sounds; other tempi are not found. A piece's
distance is that to its nearest training clip. Pieces may not lie nearer than held-out clips do, up to margins that
random halves of the held-out clips reach against each other (`margins`, computed before any piece is looked at), and
none may lie within COPY, where most round trips of training clips lie.

A copy of the melody alone, with other chords on another instrument, may have another chroma. So upper lines are
compared in the same way: a step is the highest salient pitch, the distance 1 - the share of steps with equal pitches.
"""

from collections.abc import Sequence

import numpy as np
import torch

from musekit.cache import config_hash
from musekit.config import home
from musekit.evaluate.judge import PROMPT_SEED, evaluation_pieces
from musekit.evaluate.study import Sound, Study, cached, progress, target
from musekit.statistics import two_sample

WINDOW, HOP = 8192, 4096  # samples at 44.1 kHz: 10.8 chroma steps per second
PERCENT = (1, 5, 25, 50, 75, 95)
COPY = 0.15  # of valid's held-out clips of these kinds none lies within it, of round trips of training clips 4 in 5 do
HALVINGS, HONEST = 100, 0.95  # of held-out clips, and the least probability that such a half meets both bars
CLOSEST, CHUNK = 10, 500  # listed pairs; training clips whose chroma is one file


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


def melody(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """audio (2, N) -> its upper line, steps of one-hot pitches (48, S): E3 to G6, then 8 empty rows that keep
    transpositions by up to 8 semitones from wrapping around. A pitch's salience is the sum of its first five partials.
    """
    import librosa

    x = np.sqrt(np.abs(librosa.stft(audio.mean(0), n_fft=WINDOW, hop_length=HOP)))
    bins = np.outer(librosa.midi_to_hz(np.arange(52, 92)), np.arange(1, 6)) * WINDOW / sample_rate
    salience = (x[np.round(bins).astype(int)] * 0.8 ** np.arange(5)[:, None]).sum(1)  # (40, S)
    peak = (salience >= np.roll(salience, 1, 0)) & (salience >= np.roll(salience, -1, 0))
    top = 39 - (peak & (salience >= 0.75 * salience.max(0)))[::-1].argmax(0)  # the highest of the salient pitches
    loud = salience.max(0) > 0.1 * salience.max()
    return np.pad((np.arange(40)[:, None] == top) & loud, ((0, 8), (0, 0))).astype(np.float32)


class Nearest:
    """Shift-aligned distances to a library of chroma or of melodies, by one two-dimensional FFT per query.

    The correlation over transpositions (circular) and shifts (in time) is a product of transforms.
    """

    def __init__(self, library: list[np.ndarray], least: float = 0.5):
        self.least, self.steps = least, max(x.shape[1] for x in library)
        self.size = 2 * self.steps  # no shift wraps around onto another
        self.lengths = np.array([x.shape[1] for x in library])
        padded = np.stack([np.pad(x, ((0, 0), (0, self.size - x.shape[1]))) for x in library])
        self.spectra = torch.fft.rfft2(torch.from_numpy(padded))

    def distances(self, query: np.ndarray) -> np.ndarray:
        """query (P, S), S no longer than the library's longest -> its distance to each sequence (n,)."""
        query = query[:, : self.steps]
        x = torch.fft.rfft2(torch.from_numpy(np.pad(query, ((0, 0), (0, self.size - query.shape[1])))))
        shape, parts = (len(query), self.size), self.spectra.split(16)  # few at a time stay in the processor's cache
        similarity = torch.cat([torch.fft.irfft2(part * x.conj(), s=shape).amax(1) for part in parts]).numpy()
        shifts = np.arange(self.size)
        shifts = np.where(shifts < self.steps, shifts, shifts - self.size)  # of the query against the library
        length, n = query.shape[1], self.lengths[:, None]
        overlap = np.minimum(shifts + length, n) - np.maximum(shifts, 0)  # (n, shifts)
        allowed = overlap >= self.least * np.minimum(length, n)
        return 1 - np.where(allowed, similarity / np.maximum(overlap, 1), -np.inf).max(1)


KINDS = {"chroma": sequence, "melody": melody}


def training_library(study: Study, kind: str = "chroma") -> Nearest:
    """The chroma or melodies of all training clips, kept under MUSEKIT_HOME in files of CHUNK clips."""
    clips, found = study.split("train"), []
    for i in progress(range(0, len(clips), CHUNK), f"{kind} of the training clips"):
        some = clips[i : i + CHUNK]
        place = home() / "eval" / kind / f"{config_hash([c['id'] for c in some], study.data, WINDOW, HOP)}.npz"
        made = cached(place, lambda some=some: {c["id"]: KINDS[kind](*study.read(c)) for c in some})
        found += [made[c["id"]] for c in some]
    return Nearest(found)


def nearest(
    study: Study, library: Nearest, sounds: Sequence[Sound], text: str, kind: str = "chroma"
) -> tuple[np.ndarray, np.ndarray]:
    """Distances (n,) of sounds, cut to a piece's length, to their nearest training clips, and these clips' numbers."""
    long = study.muse.config.sample.seconds  # what is shorter finds a near clip more easily
    bar = progress(sounds, f"nearest {kind} of {text}")
    found = [library.distances(KINDS[kind](*study.read(sound, long))) for sound in bar]
    return np.array([d.min() for d in found]), np.array([d.argmin() for d in found])


def nearer(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The probability that an item of x (..., n) is smaller than one of y (..., m): (...,)."""
    return (x[..., :, None] < y[..., None, :]).mean((-1, -2))


def tail(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The share of x (..., n) below the 5th percentile of y (..., m): (...,)."""
    return (x < np.percentile(y, 5, axis=-1, keepdims=True)).mean(-1)


def margins(y: np.ndarray, seed: int = 0) -> dict[str, float]:
    """{"nearer", "tail"}: where the intervals of honest halves of held-out clips' distances y (m,) end (Bonferroni)."""
    rng, ends = np.random.default_rng(seed), []
    for _ in range(HALVINGS):
        y = rng.permutation(y)
        ends.append([two_sample(y[::2], y[1::2], of)["high"] for of in (nearer, tail)])
    found = np.percentile(ends, 100 - 50 * (1 - HONEST), axis=0)
    return {"nearer": float(found[0]), "tail": float(found[1])}


def bars(x: np.ndarray, y: np.ndarray, of: str, most: dict[str, float], kind: str = "chroma") -> list[dict]:
    """The bars of pieces' distances x (n,) beside held-out clips' distances y (m,). Only chroma has one on copies.

    most: the margins.
    """
    name, copies = f"memorisation, {'' if kind == 'chroma' else f'{kind}, '}{of}", int((x < COPY).sum())
    near = target(f"{name}: pieces within {COPY:g} of a training clip", copies, at_most=0, n=len(x))
    closer, below = two_sample(x, y, nearer), two_sample(x, y, tail)
    return [
        *([near] if kind == "chroma" else []),
        target(f"{name}: probability to lie nearer than a held-out clip", at_most=most["nearer"], **closer),
        target(f"{name}: share nearer than 95 % of held-out clips", at_most=most["tail"], **below),
    ]


def smallest_share(copies: np.ndarray, n: int, probability: float = 0.9) -> float | None:
    """The smallest share of copies, at these distances, that n pieces show with this probability; None: never."""
    seen = float((copies < COPY).mean())
    return min(1.0, (1 - (1 - probability) ** (1 / n)) / seen) if seen else None


def measure_memorisation(study: Study) -> None:
    """Writes results/memorisation.json. Held-out clips are of the kinds that the prompts ask for."""
    train, held_out = study.split("train"), study.prompt_like()
    prompts, pieces, _ = evaluation_pieces(study)
    sources = {
        "generated": (pieces, [p["text"] for p in prompts]),
        "held-out originals": (held_out, [c["id"] for c in held_out]),
        "held-out round trips": (study.round_trips(held_out), [c["id"] for c in held_out]),
        "round trips of training clips": (study.round_trips(train[:24]), [c["id"] for c in train[:24]]),  # copies
    }
    rows = comparison(study, sources, "chroma") + comparison(study, sources, "melody")
    study.write("memorisation", rows, seed=PROMPT_SEED)


def comparison(study: Study, sources: dict[str, tuple[Sequence[Sound], list[str]]], kind: str) -> list[dict]:
    """The rows of one kind of distance; sources: sounds and their names."""
    library, found, rows, about = training_library(study, kind), {}, [], {} if kind == "chroma" else {"kind": kind}
    for source, (sounds, names) in sources.items():
        found[source], which = nearest(study, library, sounds, source, kind)
        percentiles = {f"p{p}": float(np.percentile(found[source], p)) for p in PERCENT}
        row = {"measure": "nearest training clip" if kind == "chroma" else f"nearest {kind}", "source": source}
        rows.append({**row, "n": len(sounds), "training_clips": len(library.lengths), **percentiles})
        for i in found[source].argsort()[:CLOSEST]:
            row = {"measure": "closest", "source": source, "distance": float(found[source][i]), "piece": names[i]}
            rows.append({**row, **about, "train": study.split("train")[which[i]]["id"]})
    for of in ("held-out originals", "held-out round trips"):
        most = margins(found[of])
        rows.append({"measure": "margin", "source": of, "n": len(found[of]), **about, **most})
        rows += bars(found["generated"], found[of], f"beside {of}", most, kind)
    return rows
