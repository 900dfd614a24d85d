"""A beat, keys, chords, figures and the upper line of a sound, from its transcribed notes.

Notes are rows [onset s, offset s, pitch, amplitude ...]. A chord line is what a record of a clip says: [[start s, root
0 to 11, "maj" | "min" | "dim" | "7" | "none"], ...] in order.

In a period of P seconds an onset at t has the phase 2 pi t / P. The mean resultant of n onsets

    R(P) = |sum exp(2 pi i t / P)| / n

is 1 where they lie on a grid of P. Where they fall at random, n R^2 is exponential with mean 1, and the largest of K
independent ones has the mean H_K = 1 + 1/2 + ... + 1/K. In a stretch of T seconds frequencies of a range F have
K = T F. So pulse^2 = (max R^2 - H_K / n) / (1 - H_K / n), 0 at least: near 0 for random onsets of any number, 1 for
a grid.
"""

from collections.abc import Sequence

import numpy as np

from musekit.harmony import key_of

TEMPI = (50.0, 400.0)  # BPM of grids: beats, and their halves and thirds
TAPPED = (40.0, 200.0)  # BPM of beats
LEVELS = {1: 1.0, 2: 0.5, 3: 0.3, 4: 0.3}  # weight of the grids of a beat and of its parts, where a tempo is sought
MULTIPLES = (1 / 4, 1 / 3, 1 / 2, 2 / 3, 1, 3 / 2, 2, 3, 4)  # of what was found, from which the beat is chosen
#: Weights of `evidence`, a logistic choice fitted on transcriptions of 206 training clips: right on 78 % of them and of
#: held-out clips, where 97 % are right up to an octave.
CHOICE = np.array([-0.05, 1.57, 1.63, 2.77, 2.26, 1.17, 1.42, 2.78, -2.64, -1.61, 2.64, -1.44])
STEP = 0.004  # ratio of one tempo to the next
TOLERANCE = 0.04  # by which a tempo may be off
OCTAVES = (1 / 3, 1 / 2, 2 / 3, 1, 3 / 2, 2, 3)  # ratios by which tempi of one music are mistaken
STRETCH = 12.0  # seconds, in which a pulse is measured
TOGETHER = 0.03  # seconds within which notes begin together
THIRDS = {"maj": 4, "7": 4, "min": 3, "dim": 3}
FIGURE = 4  # notes of the tune
FRAME = 0.05  # seconds, in which two lines are compared


# -- beats


def onsets_of(notes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Times (n,) and weights (n,) of the onsets of notes (m, >= 3) [onset s, offset s, pitch, ...].

    Notes that begin within 30 ms are one onset. Its weight is the square root of their number, and twice that with a
    note below middle C, as bass notes mark the beat.
    """
    if not len(notes):
        return np.zeros(0), np.zeros(0)
    rows = notes[np.argsort(notes[:, 0])]
    groups = np.split(rows, np.flatnonzero(np.diff(rows[:, 0]) > TOGETHER) + 1)
    weights = [np.sqrt(len(g)) * (2 if g[:, 2].min() < 60 else 1) for g in groups]
    return np.array([g[:, 0].mean() for g in groups]), np.array(weights)


def resultants(times: np.ndarray, weights: np.ndarray, bpm: np.ndarray) -> np.ndarray:
    """R^2 of weighted onsets on grids of so many beats per minute, less what is due to chance at each of them alone."""
    phases = np.exp(2j * np.pi * np.outer(bpm / 60, times))
    n = weights.sum() ** 2 / (weights**2).sum()
    return (np.abs(phases @ weights) ** 2 / weights.sum() ** 2 - 1 / n) / (1 - 1 / n)


def grid(low: float, high: float) -> np.ndarray:
    """Tempi in BPM, in equal ratios."""
    return np.geomspace(low, high, 1 + round(np.log(high / low) / STEP))


def pulse(times: np.ndarray) -> tuple[float, float]:
    """(strength of the pulse of onsets, 0 to 1; BPM of its grid). (0, NaN) for fewer than 6 onsets."""
    n = len(times)
    if n < 6:
        return 0.0, float("nan")
    bpm = grid(*TEMPI)
    squares = np.abs(np.exp(2j * np.pi * np.outer(bpm / 60, times)).mean(1)) ** 2
    best = int(squares.argmax())
    k = max(1, round((times.max() - times.min()) * (TEMPI[1] - TEMPI[0]) / 60))
    chance = (1 / np.arange(1, k + 1)).sum() / n
    strength = (squares[best] - chance) / (1 - chance) if chance < 1 else 0.0
    return float(np.sqrt(max(0.0, strength))), float(bpm[best])


def evidence(notes: np.ndarray, bpm: float) -> np.ndarray:
    """What speaks for a beat, (12,): how well all onsets lie on five grids of it and its parts, the lowest notes on
    three, its distance from 100 BPM in octaves, that of the onsets' number per beat from 1, and their squares."""
    low = onsets_of(notes[notes[:, 2] <= np.percentile(notes[:, 2], 30)])
    times, weights = onsets_of(notes)
    grids = [resultants(times, weights, bpm * np.array([1 / 2, 1, 2, 3, 4]))]
    grids.append(resultants(*low, bpm * np.array([1 / 2, 1, 2])) if len(low[0]) > 3 else np.zeros(3))
    speed, density = np.log2(bpm / 100), np.log2(60 * len(times) / np.ptp(times) / bpm)
    return np.r_[np.maximum(0, np.concatenate(grids)), speed, speed**2, density, density**2]


def tempo(notes: np.ndarray) -> float:
    """The tempo in BPM that one would tap to notes (n, >= 3). NaN for fewer than 8 onsets."""
    times, weights = onsets_of(notes)
    if len(times) < 8:
        return float("nan")
    bpm = grid(*TAPPED)
    score = sum(share * np.maximum(0, resultants(times, weights, k * bpm)) for k, share in LEVELS.items())
    found = bpm[score.argmax()] * np.array(MULTIPLES)
    found = found[(found >= TAPPED[0]) & (found <= TAPPED[1])]
    return float(found[np.argmax([evidence(notes, b) @ CHOICE for b in found])])


def pulse_in(times: np.ndarray, seconds: float) -> float:
    """The mean strength of the pulse in equal stretches of about 12 s, so that sounds of all lengths compare."""
    edges = np.linspace(0, seconds, 1 + max(1, round(seconds / STRETCH)))[1:-1]
    return float(np.mean([pulse(part)[0] for part in np.split(times, np.searchsorted(times, edges))]))


def met(found: float, asked: float, ratios: tuple[float, ...] = (1,)) -> bool:
    """Whether a tempo is within 4 % of the asked one, or of one of these multiples of it."""
    return any(abs(found / (asked * ratio) - 1) <= TOLERANCE for ratio in ratios)


def steady(times: np.ndarray, seconds: float) -> bool:
    """Whether the pulse's grid is the same in both halves of a sound, up to a factor of 2."""
    first, second = (pulse(half)[1] for half in (times[times < seconds / 2], times[times >= seconds / 2]))
    return met(first, second, (1 / 2, 1, 2))


def at_random(times: np.ndarray, seconds: float, seed: int) -> np.ndarray:
    """As many onsets at random: what has no beat."""
    return np.sort(np.random.default_rng(seed).uniform(0, seconds, len(times)))


# -- keys, chords and tunes


def key(notes: np.ndarray) -> tuple[str, str]:
    """Tonic and mode of notes by Krumhansl's profiles, each note as long as it sounds and as strong as it is."""
    tonic, mode, _, _ = key_of(notes[:, 2], (notes[:, 1] - notes[:, 0]) * notes[:, 3])
    return tonic, mode


def chroma(notes: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Time that each pitch class sounds between successive edges in seconds, times amplitude, (len(edges) - 1, 12)."""
    overlap = np.minimum(notes[:, None, 1], edges[1:]) - np.maximum(notes[:, None, 0], edges[:-1])  # (n, spans)
    weights = np.maximum(0, overlap) * notes[:, 3:4]
    return weights.T @ np.eye(12)[notes[:, 2].astype(int) % 12]


def triads(found: np.ndarray) -> np.ndarray:
    """The best major (0 to 11, by its root) or minor triad (12 to 23) of chroma (n, 12); -1 where nothing sounds.

    The best has the most of the square roots of chroma, the root counting a little more.
    """
    shape = np.zeros((24, 12))
    for k in range(12):
        for row, third in ((k, 4), (12 + k, 3)):
            shape[row, [k, (k + third) % 12, (k + 7) % 12]] = 1.1, 1.0, 1.0
    return np.where(found.sum(1) > 1e-9, (np.sqrt(found) @ shape.T).argmax(1), -1)


def distinct_triads(notes: np.ndarray, seconds: float) -> int:
    """How many different triads sound, one in each second."""
    return len({*triads(chroma(notes, np.arange(int(seconds) + 1)))} - {-1})


def chords_met(notes: np.ndarray, line: Sequence[Sequence], seconds: float) -> np.ndarray:
    """For each chord of a line whether its root and third are those of the triad that is heard, booleans."""
    edges = np.array([start for start, *_ in line] + [seconds], float)
    heard = triads(chroma(notes, edges))
    asked = [(root, THIRDS.get(kind)) for _, root, kind in line]
    return np.array([h == root + 12 * (third == 3) for h, (root, third) in zip(heard, asked) if third], bool)


def upper_line(notes: np.ndarray) -> np.ndarray:
    """The notes above which no other sounds when they begin."""
    rows = notes[np.lexsort((-notes[:, 2], notes[:, 0]))]
    covered = (rows[:, None, 0] >= rows[:, 0] - 0.03) & (rows[:, None, 0] < rows[:, 1] - 0.03)  # (i, by j)
    return rows[~(covered & (rows[:, 2] > rows[:, None, 2])).any(1)]


def figures_return(notes: np.ndarray) -> float:
    """Share of the figures of the upper line, 4 notes, that come again later with the same steps and rhythm.

    Steps are unisons, seconds, thirds, ... up or down; of the three distances those above half of the longest are long,
    the others short. Figures with fewer than three pitches are left out. NaN without figures.
    """
    line = upper_line(notes)
    found: list[tuple] = []
    for i in range(len(line) - FIGURE + 1):
        steps, waits = np.diff(line[i : i + FIGURE, 2]), np.diff(line[i : i + FIGURE, 0])
        if len({*line[i : i + FIGURE, 2]}) > 2:
            found.append((i, (*np.sign(steps) * ((np.abs(steps) + 1) // 2), *(waits > waits.max() / 2))))
    last = {figure: i for i, figure in found}
    return float(np.mean([last[figure] - i >= FIGURE for i, figure in found])) if found else float("nan")


def melody_f1(notes: np.ndarray, melody: Sequence[Sequence[float]], seconds: float) -> float:
    """F1 of the upper line against a melody [[onset s, duration s, pitch], ...], by 50 ms, within a semitone."""

    def frames(rows: np.ndarray) -> np.ndarray:
        out = np.full(round(seconds / FRAME), -99.0)
        for onset, offset, pitch in rows:
            out[round(onset / FRAME) : max(round(onset / FRAME) + 1, round(offset / FRAME))] = pitch
        return out

    rows = np.asarray(melody, float)
    asked, heard = frames(np.c_[rows[:, 0], rows[:, 0] + rows[:, 1], rows[:, 2]]), frames(upper_line(notes)[:, :3])
    right = ((np.abs(asked - heard) <= 1) & (asked > 0)).sum()
    return float(2 * right / max(1, (asked > 0).sum() + (heard > 0).sum()))


def loud(notes: np.ndarray, share: float) -> np.ndarray:
    """The notes with at least this share of the median amplitude: a transcriber's doubtful ones are softer."""
    return notes[notes[:, 3] >= share * np.median(notes[:, 3])] if len(notes) else notes


def shuffled(line: Sequence[Sequence], seed: int) -> list[list]:
    """A chord line with its chords in a random order at the same times; "none" where the same chord came back."""
    order = np.random.default_rng(seed).permutation(len(line))
    moved = [(start, chord, line[k][1:]) for (start, *chord), k in zip(line, order)]
    return [[start, *(other if [*other] != chord else (0, "none"))] for start, chord, other in moved]
