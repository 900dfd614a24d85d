"""Keys, chords, figures and the upper line of a sound, from its transcribed notes.

Notes are rows [onset s, offset s, pitch, amplitude ...]. A chord line is what a record of a clip says: [[start s, root
0 to 11, "maj" | "min" | "dim" | "7" | "none"], ...] in order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from musekit.corpus.scores import key_of

THIRDS = {"maj": 4, "7": 4, "min": 3, "dim": 3}
FIGURE = 4  # notes of the tune
STRETCH = 12  # seconds in which chords are counted
FRAME = 0.05  # seconds, in which two lines are compared


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


def chords_met(notes: np.ndarray, line: Sequence[Sequence], seconds: float) -> np.ndarray:
    """For each chord of a line whether its root and third are those of the triad that is heard, booleans."""
    edges = np.array([start for start, *_ in line] + [seconds], float)
    heard = triads(chroma(notes, edges))
    asked = [(root, THIRDS.get(kind)) for _, root, kind in line]
    return np.array([h == root + 12 * (third == 3) for h, (root, third) in zip(heard, asked) if third], bool)


def distinct_chords(notes: np.ndarray, seconds: float) -> float:
    """How many different triads are heard in 12 s, one in each second; the mean of several such stretches."""
    heard = triads(chroma(notes, np.arange(0, seconds + 1e-6)))
    parts = [heard[i : i + STRETCH] for i in range(0, max(1, len(heard) - STRETCH + 1), STRETCH)]
    return float(np.mean([len({*part.tolist()} - {-1}) for part in parts]))


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
    """F1 of the upper line against a melody [[onset s, duration s, pitch], ...]: in frames of 50 ms, the same pitch
    within a semitone."""

    def frames(rows: np.ndarray) -> np.ndarray:
        out = np.full(round(seconds / FRAME), -99.0)
        for onset, offset, pitch in rows:
            out[round(onset / FRAME) : max(round(onset / FRAME) + 1, round(offset / FRAME))] = pitch
        return out

    rows = np.asarray(melody, float)
    asked, heard = frames(np.c_[rows[:, 0], rows[:, 0] + rows[:, 1], rows[:, 2]]), frames(upper_line(notes)[:, :3])
    right = ((np.abs(asked - heard) <= 1) & (asked > 0)).sum()
    return float(2 * right / max(1, (asked > 0).sum() + (heard > 0).sum()))


def same_key(notes: np.ndarray, record: dict) -> bool:
    """Whether the heard key is the record's "key" and "mode"."""
    return len(notes) > 0 and key(notes) == (record["key"], record["mode"])


def loud(notes: np.ndarray, share: float) -> np.ndarray:
    """The notes with at least this share of the median amplitude: a transcriber's doubtful ones are softer."""
    return notes[notes[:, 3] >= share * np.median(notes[:, 3])] if len(notes) else notes


def shuffled(line: Sequence[Sequence], seed: int) -> list[list]:
    """A chord line with its chords in a random order at the same times; "none" where the same chord came back."""
    order = np.random.default_rng(seed).permutation(len(line))
    moved = [(start, chord, line[k][1:]) for (start, *chord), k in zip(line, order)]
    return [[start, *(other if [*other] != chord else (0, "none"))] for start, chord, other in moved]
