"""Arrangement: from a window of a score to the notes of each player.

Time in a score is in quarter notes, time in a clip in seconds: t = (q - start) * seconds_per_quarter. A piece that is
shorter than its window is repeated from its first bar, as dances and hymns are.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from musekit.corpus.instruments import INSTRUMENTS
from musekit.corpus.scores import Score

TABLES = tomllib.loads(Path(__file__).with_name("plan.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Piece:
    """A score on its grid: bars of `bar` quarters begin at `upbeat` + k * bar; the loop lasts whole bars.

    parts: rows [onset, duration, pitch] in quarters, from the highest part to the lowest; density: distinct onsets per
    quarter of all parts and of the highest; metre: "four", "three" or
    "six" (the kind of pattern), beats: what may be tapped, as quarters, the most natural first.
    """

    score: Score
    parts: list[np.ndarray]
    density: tuple[float, float]
    bar: float
    upbeat: float
    length: float
    metre: str
    beats: list[float]

    def on_grid(self, start: float, bars: int) -> bool:
        """Whether nine in ten bar lines from `start` on are bar lines of the score."""
        lines = np.round((start + self.bar * np.arange(bars)) % self.length, 3)
        return bool(np.mean(np.isin(lines, np.round(self.score.bars, 3))) >= 0.9)


def piece_of(score: Score) -> Piece | None:
    """The score on its grid, or None when its metre is none of two, three or four beats."""
    count, _, unit = score.metre.partition("/")
    if not unit or int(count) not in (2, 3, 4, 6, 9, 12):
        return None
    bar, note = 4 * int(count) / int(unit), 4 / int(unit)
    if int(count) in (6, 9, 12):
        metre, beats = "six", [3 * note]
    elif int(count) == 3:
        metre, beats = "three", [note]
    else:
        metre, beats = "four", {"2/2": [2.0, 1.0], "2/4": [1.0, 0.5], "4/4": [1.0, 2.0]}.get(score.metre, [note])
    upbeat = score.bars[1] if len(score.bars) > 1 and score.bars[1] < bar - 1e-3 else 0.0
    parts = [np.asarray(p, float) for p in ordered(score)]
    density = (len(onset_times(parts)) / score.length, len(onset_times(parts[:1])) / score.length)
    return Piece(score, parts, density, bar, upbeat, bar * np.ceil(score.length / bar - 1e-3), metre, beats)


def window(part: list[list[float]], start: float, quarters: float, length: float) -> np.ndarray:
    """Rows [onset, duration, pitch] of the looped part in [start, start + quarters), onsets counted from `start`.

    A note that begins before `start` and still sounds for a quarter or more begins at onset 0.
    """
    turns = range(int(start // length), int(np.ceil((start + quarters) / length)) + 1)
    moved = np.concatenate([np.asarray(part, float) + [turn * length - start, 0, 0] for turn in turns])
    first = moved[: len(part)]
    held = first[(first[:, 0] < -1e-6) & (first[:, 0] + first[:, 1] >= 1)]
    held[:, 1] += held[:, 0]
    held[:, 0] = 0
    out = np.concatenate([moved[(moved[:, 0] >= -1e-6) & (moved[:, 0] < quarters - 1e-6)], held])
    return out[np.lexsort((out[:, 2], out[:, 0]))]


def onset_times(parts: list[np.ndarray], tolerance: float = 1e-3) -> np.ndarray:
    """Distinct onset times of all parts merged."""
    times = np.sort(np.concatenate([p[:, 0] for p in parts]))
    return times[np.r_[True, np.diff(times) > tolerance]] if len(times) else times


def top_line(part: np.ndarray) -> np.ndarray:
    """The highest note of each onset, each ended by the next."""
    rows = part[np.lexsort((-part[:, 2], np.round(part[:, 0], 3)))]
    rows = rows[np.r_[True, np.diff(rows[:, 0]) > 1e-3]] if len(rows) else rows
    rows[:-1, 1] = np.minimum(rows[:-1, 1], np.diff(rows[:, 0]))
    return rows


def texture_of(parts: list[np.ndarray]) -> str:
    """Texture: "solo" for one line, "chordal" when most parts share most onsets, else "polyphonic"."""
    if len(parts) == 1:
        alone = np.mean(np.diff(np.sort(parts[0][:, 0])) > 1e-3) if len(parts[0]) > 1 else 1.0
        return "solo" if alone > 0.95 else "chordal"
    times = onset_times(parts)
    together = sum(np.isin(np.round(times, 2), np.round(p[:, 0], 2)).astype(int) for p in parts)
    return "chordal" if np.mean(together >= max(2, 0.6 * len(parts))) > 0.5 else "polyphonic"


def fold(rows: np.ndarray, name: str) -> np.ndarray:
    """Single notes that lie outside of the player's range, moved into it by octaves."""
    about = INSTRUMENTS[name]
    for _ in range(4):
        rows[:, 2] += 12 * (rows[:, 2] < about.low) - 12 * (rows[:, 2] > about.high)
    return rows


def to_range(parts: list[np.ndarray], players: list[str], transpose: int) -> list[np.ndarray]:
    """Transpose the parts, shift them by octaves into the players' ranges, and fold single notes that lie outside."""

    def cost(pitches: np.ndarray, name: str, shift: int) -> float:
        about = INSTRUMENTS[name]
        moved = pitches + shift
        outside = np.mean((moved < about.low) | (moved > about.high))
        return float(outside + 0.01 * abs(moved.mean() - (about.low + about.high) / 2))

    shifts = (-36, -24, -12, 0, 12, 24, 36)
    together = min(shifts, key=lambda s: sum(cost(p[:, 2] + transpose, n, s) for p, n in zip(parts, players)))
    fitted = []
    for part, name in zip(parts, players):
        shift = together
        if len(set(players)) > 1:
            own = [cost(part[:, 2] + transpose, name, s) + 0.002 * abs(s - together) for s in shifts]
            shift = shifts[int(np.argmin(own))]
        fitted.append(fold(part + [0, 0, transpose + shift], name))
    return fitted


def swung(beats: np.ndarray, ratio: float) -> np.ndarray:
    """Times in beats, the second half of each beat moved to `ratio` of the beat (0: straight)."""
    whole, part = np.floor(beats + 1e-6), beats - np.floor(beats + 1e-6)
    late = np.where(part < 0.5, part * 2 * ratio, ratio + (part - 0.5) * 2 * (1 - ratio))
    return whole + late if ratio else beats


def perform(
    parts: list[np.ndarray], levels: list[int], timing, dynamic: str, legato: float, rng: np.random.Generator
) -> list[list[float]]:
    """Rows [onset s, duration s, pitch, velocity, part] with a swell every four bars, accents and uneven timing.

    parts: rows [onset, duration, pitch, accent] in quarters; levels: velocity above the clip's, by part; timing: a
    function from quarters to seconds, its `bar` and `first` (the first downbeat) in quarters.
    """
    phase, depth = rng.uniform(0, 2 * np.pi), rng.uniform(3, 7)
    notes = []
    for index, (part, level) in enumerate(zip(parts, levels)):
        onset, duration, pitch, accent = part.T
        downbeat = np.abs((onset - timing.first + 1e-4) % timing.bar) < 1e-3
        swell = depth * np.sin(2 * np.pi * onset / (4 * timing.bar) + phase)
        velocity = TABLES["velocity"][dynamic] + level + accent + 5 * downbeat + swell + rng.normal(0, 2.5, len(part))
        t = np.maximum(0, timing(onset) + np.clip(rng.normal(0, 0.006, len(part)), -0.015, 0.015))
        length = timing(onset + duration) - timing(onset)
        length = np.maximum(0.05, np.maximum(length * legato, length - 0.25))  # long notes are held, staccato or not
        columns = [np.round(t, 3), np.round(length, 3), pitch.astype(int), np.clip(velocity, 20, 122).astype(int)]
        notes += [[*row, index] for row in zip(*(c.tolist() for c in columns))]
    return sorted(notes)


def ordered(score: Score) -> list[list[list[float]]]:
    """Parts from high to low."""
    return sorted(score.parts, key=lambda rows: -sum(r[2] for r in rows) / len(rows))
