"""The key of notes and of what a piece is asked to follow; and harmony for pieces that are given none: a chain of
chords, counted in the training clips, from which lines are drawn.

One vector may say the key of a piece, not which chord sounds when. So a plan is drawn first, as tempo and metre are,
and Stage 2 follows it. The chord of a beat depends on that of the beat before, on
the mode and on whether a bar begins; it is counted from the tonic: 5 (semitones above it) + quality.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from musekit.conditions import QUALITIES, key_index
from musekit.config import TONICS
from musekit.controls import Controls, read_chords

# How long each pitch class sounds, from the tonic on: Aarden 2003, as music21.analysis.discrete.AardenEssen has it
MAJOR = [17.7661, 0.145624, 14.9265, 0.160186, 19.8049, 11.3587, 0.291248, 22.062, 0.145624, 8.15494, 0.232998, 4.95122]
MINOR = [18.2648, 0.737619, 14.0499, 16.8599, 0.702494, 14.4362, 0.702494, 18.6161, 4.56621, 1.93186, 7.37619, 1.75623]
KEYS = np.stack([np.roll(row - np.mean(row), k) for row in (MAJOR, MINOR) for k in range(12)])  # (24, 12), centred

SIGNS = ("", "m", "dim", "7")  # of the qualities, in their order, as `controls.read_chords` reads them
FIRST = STATES = 12 * len(QUALITIES)  # as a chord before, FIRST is none: a piece begins
SHAPE = (2, 2, STATES + 1, STATES)  # major, minor; within a bar, at its beginning; chord before; chord
BARS = 8  # of a line, which begins again when it is over


def key_of(pitches: Sequence[int], durations: Sequence[float]) -> tuple[str, str, float, float]:
    """Tonic, mode, correlation of that key with the pitch-class durations, and its lead over the second best.

    Krumhansl & Schmuckler's key finder (Krumhansl 1990), as music21's `analyze("key")`.
    """
    histogram = np.bincount(np.asarray(pitches, int) % 12, weights=durations, minlength=12)
    if histogram.std() == 0:
        return "C", "major", 0.0, 0.0
    h = histogram - histogram.mean()
    r = KEYS @ h / np.sqrt((KEYS**2).sum(1) * (h**2).sum())
    best, second = np.argsort(-r)[:2]
    return TONICS[best % 12], ("major", "minor")[best // 12], float(r[best]), float(r[best] - r[second])


def keyed(controls: Controls) -> Controls:
    """Controls with the key of their chords, or else of their melody, where they name none.

    The embedding has a key, too: one that was sampled without regard to the chords would pull the music away from them.
    """
    if controls.key is not None:
        return controls
    if controls.chords:
        bars = read_chords(controls.chords)
        bars.append(bars[0])  # where a line begins is its home
        tones = [(root + k, 1 / len(bar)) for bar in bars for root, quality in bar for k in QUALITIES[quality]]
    else:
        tones = [(pitch, length) for _, length, pitch in controls.melody or ()]
    tonic, mode, fit, _ = key_of(*zip(*tones)) if tones else ("", "", 0.0, 0.0)
    return replace(controls, key=tonic, mode=mode) if fit else controls


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
