"""Arrangement: from a window of a score to the notes of each player.

Time in a score is in quarter notes, time in a clip in seconds: t = (q - start) * seconds_per_quarter. A piece that is
shorter than its window is repeated from its first bar, as dances and hymns are.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np

from musekit.config import TONICS
from musekit.corpus.instruments import INSTRUMENTS
from musekit.corpus.scores import Score

TABLES = tomllib.loads(Path(__file__).with_name("plan.toml").read_text(encoding="utf-8"))


def window(part: list[list[float]], start: float, quarters: float, length: float) -> np.ndarray:
    """Rows [onset, duration, pitch] of the looped part in [start, start + quarters), onsets counted from `start`.

    A note that begins before `start` and still sounds for a quarter or more begins at onset 0.
    """
    turns = range(int(np.ceil((start + quarters) / length)) + 1)
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


def texture_of(parts: list[np.ndarray]) -> str:
    """Texture: "solo" for one line, "chordal" when most parts share most onsets, else "polyphonic"."""
    if len(parts) == 1:
        alone = np.mean(np.diff(np.sort(parts[0][:, 0])) > 1e-3) if len(parts[0]) > 1 else 1.0
        return "solo" if alone > 0.95 else "chordal"
    times = onset_times(parts)
    together = [sum(bool(np.any(np.abs(p[:, 0] - t) < 1e-3)) for p in parts) for t in times]
    return "chordal" if np.mean(np.array(together) >= max(2, 0.6 * len(parts))) > 0.5 else "polyphonic"


def accompany(melody: np.ndarray, bars: np.ndarray, key: str, mode: str | None, style: str) -> np.ndarray:
    """A second part under a melody: in each bar the triad that shares most sounding time with the melody's notes."""
    tonic = TONICS.index(key)
    rows: list[list[float]] = []
    floor = 48 + (tonic - 48) % 12 - (12 if tonic > 7 else 0)  # tonic between F2 and E3
    for left, right in zip(bars[:-1], bars[1:]):
        if right - left < 0.75:
            continue
        sounding = melody[(melody[:, 0] < right) & (melody[:, 0] + melody[:, 1] > left)]
        best, most = (0, 4 if mode != "minor" else 3), -1.0
        for rank, (root, third) in enumerate(TABLES["triads"].get(mode, ())):
            members = {(tonic + root + step) % 12 for step in (0, third, 7)}
            share = sum(r[1] for r in sounding if int(r[2]) % 12 in members) - 0.05 * rank
            if share > most:
                best, most = (root, third), share
        root = floor + best[0] - (12 if best[0] > 7 else 0)
        chord = [root, root + best[1], root + 7]
        span = right - left
        if style == "drone" or mode is None:
            rows += [[left, span, p] for p in (floor - 12, floor - 5)]
        elif style == "chords":
            rows += [[left, span, p] for p in [root - 12, *chord]]
        elif style == "oom-pah":
            rows.append([left, span / 2, root - 12])
            rows += [[left + span / 2, span / 2, p] for p in chord]
        else:
            step = span / 4
            rows += [[left + i * step, span - i * step, p] for i, p in enumerate([root - 12, *chord])]
    return np.array(sorted(rows)) if rows else np.zeros((0, 3))


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
        about = INSTRUMENTS[name]
        shift = together
        if len(set(players)) > 1:
            own = [cost(part[:, 2] + transpose, name, s) + 0.002 * abs(s - together) for s in shifts]
            shift = shifts[int(np.argmin(own))]
        moved = part.copy()
        moved[:, 2] += transpose + shift
        for _ in range(4):
            moved[:, 2] += 12 * (moved[:, 2] < about.low) - 12 * (moved[:, 2] > about.high)
        fitted.append(moved)
    return fitted


def perform(
    parts: list[np.ndarray], seconds_per_quarter: float, bars: np.ndarray, dynamic: str, rng: np.random.Generator
) -> list[list[float]]:
    """Rows [onset s, duration s, pitch, velocity, part] with a swell every four bars, accents and uneven timing."""
    bar = float(np.median(np.diff(bars))) if len(bars) > 1 else 4.0
    phase, depth = rng.uniform(0, 2 * np.pi), rng.uniform(3, 7)
    legato = rng.uniform(0.88, 0.99)
    notes = []
    for index, part in enumerate(parts):
        lead = 5 if index == 0 and len(parts) > 1 else 0
        for onset, duration, pitch in part:
            accent = 5 if np.min(np.abs(bars - onset)) < 1e-3 else 0
            swell = depth * np.sin(2 * np.pi * onset / (4 * bar) + phase)
            velocity = TABLES["velocity"][dynamic] + lead + accent + swell + rng.normal(0, 2.5)
            late = float(np.clip(rng.normal(0, 0.006), -0.015, 0.015))
            t = max(0.0, onset * seconds_per_quarter + late)
            length = max(0.05, duration * seconds_per_quarter * legato)
            notes.append([round(t, 4), round(length, 4), int(pitch), int(np.clip(velocity, 20, 122)), index])
    return sorted(notes)


def bars_in(score: Score, start: float, quarters: float) -> np.ndarray:
    """Bar lines of the looped piece inside the window, counted from its start, and the window's end."""
    marks = np.asarray(score.bars or np.arange(0, score.length, 4), float)
    turns = int(np.ceil((start + quarters) / score.length)) + 1
    every = np.concatenate([marks + k * score.length for k in range(turns)]) - start
    inside = every[(every > -1e-6) & (every < quarters)]
    return np.unique(np.round(np.r_[0.0, inside, quarters], 4))


def ordered(score: Score) -> list[list[list[float]]]:
    """Parts from high to low."""
    return sorted(score.parts, key=lambda rows: -sum(r[2] for r in rows) / len(rows))
