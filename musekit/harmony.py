"""Harmony for pieces that are given none: a chain of chords, counted in the training clips, from which lines are drawn.

One vector may say the key of a piece, not which chord sounds when. So a plan is drawn first, as tempo and metre are,
and Stage 2 follows it. The chord of a beat depends on that of the beat before, on
the mode and on whether a bar begins; it is counted from the tonic: 5 (semitones above it) + quality.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from musekit.conditions import QUALITIES, key_index
from musekit.config import TONICS

SIGNS = ("", "m", "dim", "7")  # of the qualities, in their order, as `controls.read_chords` reads them
FIRST = STATES = 12 * len(QUALITIES)  # as a chord before, FIRST is none: a piece begins
SHAPE = (2, 2, STATES + 1, STATES)  # major, minor; within a bar, at its beginning; chord before; chord
BARS = 8  # of a line, which begins again when it is over


def chain(clips: Iterable[Mapping]) -> np.ndarray:
    """Probabilities (SHAPE) in clips (`conditions.compact`) with chords, beats and key; zero where nothing is known."""
    counts = np.zeros(SHAPE)
    for clip in clips:
        if (key := key_index(clip)) < 0 or not {"chords", "bpm", "beats_per_bar", "first_beat"} <= clip.keys():
            continue
        onsets, roots, qualities = clip["chords"].astype(np.float64).T
        last, beat, before = onsets[-1], 60 / clip["bpm"], FIRST
        for k in range(int((last - clip["first_beat"]) / beat) + 1):
            i = int(np.searchsorted(onsets, clip["first_beat"] + (k + 0.5) * beat, "right")) - 1
            if i >= 0 and qualities[i] < len(SIGNS):  # a chord, not a rest
                now = int((roots[i] - key) % 12) * len(QUALITIES) + int(qualities[i])
                counts[key // 12, int(k % clip["beats_per_bar"] == 0), before, now] += 1
                before = now
    return counts / np.maximum(counts.sum(-1, keepdims=True), 1)


def line(probabilities: np.ndarray, rng: np.random.Generator, key: int, metre: int) -> str:
    """A chord line of BARS bars, as `Controls.chords`, in a key of `conditions.key_index`; "" where none is known."""
    rows, before, bars = probabilities[key // 12].astype(np.float64), FIRST, []
    if not rows[1, FIRST].any():
        return ""
    for _ in range(BARS):
        chords = []
        for beat in range(metre):
            p = rows[int(beat == 0), before]
            p = p if p.any() else rows[1, FIRST]
            before = int(rng.choice(STATES, p=p / p.sum()))
            root, quality = divmod(before, len(QUALITIES))
            chords.append(TONICS[(key + root) % 12] + SIGNS[quality])
        bars.append(chords[0] if len({*chords}) == 1 else " ".join(chords))
    return " | ".join(bars)
