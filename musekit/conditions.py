"""Conditions of Stage 2 beside the embedding: tempo, key and metre of a piece; beats, chords and melody of each frame.

    of a piece (GLOBALS,)    tempo: 1, x = log2(bpm / 120), sin and cos of 2 pi f x for f = 1/4, 1, 4
                             key: one of 24; metre: one of 12, beats per bar
    of frames (T, LOCALS)    beats: bump at a beat, bump at a downbeat, cos and sin of the phases of beat and bar, 1
                             chords: pitch classes of the chord and of its root, 1
                             melody: pitch class of the note, its octaves above middle C, bump at its onset, 1

A group that is absent is zero, its last value too. A bump is a triangle of one frame to each side, so that it tells
where within the frames it lies. Frame i stands for the time of its middle, in seconds from the beginning of the clip.
A single 512-d embedding cannot carry the phase of a beat; Music ControlNet (Wu et al. 2023, arXiv 2311.07069) and JASCO
(Tal et al. 2024, arXiv 2406.10970) give chords and melody to each frame as is done here.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from musekit.config import TONICS

GLOBALS, LOCALS = 8 + 24 + 12, 7 + 25 + 15
BEATS, CHORDS, MELODY = slice(0, 7), slice(7, 32), slice(32, 47)
QUALITIES = {"maj": (0, 4, 7), "min": (0, 3, 7), "dim": (0, 3, 6), "7": (0, 4, 7, 10), "none": ()}
GROUPS = ("tempo", "key", "metre", "beats", "chords", "melody")
FIELDS = ("bpm", "beats_per_bar", "first_beat", "key", "mode", "chords", "melody")  # of a clip's record


def compact(record: Mapping) -> dict:
    """The fields of a clip's record that are read here, lists as arrays: "chords" (n, 3) of onset, root and index of
    the quality; "melody" (n, 3) of onset, duration and MIDI pitch, in the order of their onsets."""
    found: dict = {name: record[name] for name in FIELDS[:5] if record.get(name) is not None}
    if found.get("beats_per_bar", 1) not in range(1, 13):
        del found["beats_per_bar"]
    if record.get("chords"):
        rows = [(start, root or 0, list(QUALITIES).index(quality)) for start, root, quality in record["chords"]]
        found["chords"] = np.array(rows, np.float32)
    if record.get("melody"):
        found["melody"] = np.array(sorted(record["melody"]), np.float32)
    return found


def key_index(record: Mapping) -> int:
    """Which of the 24 keys a record has, minor ones from 12 on; -1: none."""
    if record.get("mode") not in ("major", "minor") or record.get("key") is None:
        return -1
    return TONICS.index(record["key"]) + 12 * (record["mode"] == "minor")


def of_piece(record: Mapping, groups: Collection[str] = GROUPS) -> np.ndarray:
    """The global conditions (GLOBALS,) of a compact record; only these groups."""
    x = np.zeros(GLOBALS, np.float32)
    if "tempo" in groups and "bpm" in record:
        octaves = np.log2(record["bpm"] / 120)
        turns = 2 * np.pi * octaves * np.array([0.25, 1, 4])
        x[:8] = 1, octaves, *np.sin(turns), *np.cos(turns)
    if "key" in groups and (key := key_index(record)) >= 0:
        x[8 + key] = 1
    if "metre" in groups and "beats_per_bar" in record:
        x[32 + record["beats_per_bar"] - 1] = 1
    return x


def of_frames(
    record: Mapping, start: int, frames: int, frame_seconds: float, groups: Collection[str] = GROUPS
) -> np.ndarray:
    """The local conditions (frames, LOCALS) of a compact record from latent frame `start` on; only these groups."""
    x = np.zeros((frames, LOCALS), np.float32)
    t = (np.arange(start, start + frames, dtype=np.float32) + 0.5) * frame_seconds
    if "beats" in groups and {"bpm", "beats_per_bar", "first_beat"} <= record.keys():
        x[:, BEATS] = beats(t, record["bpm"], record["beats_per_bar"], record["first_beat"], frame_seconds)
    if "chords" in groups and "chords" in record:
        x[:, CHORDS] = chords(t, record["chords"])
    if "melody" in groups and "melody" in record:
        x[:, MELODY] = melody(t, record["melody"], frame_seconds)
    return x


def beats(t: np.ndarray, bpm: float, beats_per_bar: int, first_beat: float, frame_seconds: float) -> np.ndarray:
    """(T, 7) at times t (T,); `first_beat` is the time of a downbeat."""
    beat = (t - np.float32(first_beat)) * np.float32(bpm / 60)
    columns, width = [], np.float32(bpm / 60 * frame_seconds)  # of a frame, in beats
    for phase, length in ((beat, 1), (beat / beats_per_bar, beats_per_bar)):
        columns.append(np.maximum(0, 1 - np.abs(phase - np.round(phase)) * length / width))
    for phase in (beat, beat / beats_per_bar):
        columns += [np.cos(2 * np.pi * (phase % 1)), np.sin(2 * np.pi * (phase % 1))]
    return np.stack([*columns, np.ones_like(t)], 1)


def chords(t: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(T, 25) at times t (T,): a chord lasts until the next one. Before the first one, and for "none", only the 1."""
    tables = np.zeros((len(rows) + 1, 25), np.float32)  # the first is that of the time before the first chord
    tables[:, 24] = 1
    for table, (_, root, quality) in zip(tables[1:], rows, strict=True):
        if steps := list(QUALITIES.values())[int(quality)]:
            table[[(int(root) + step) % 12 for step in steps]] = 1
            table[12 + int(root)] = 1
    return tables[np.searchsorted(rows[:, 0], t, "right")]


def melody(t: np.ndarray, notes: np.ndarray, frame_seconds: float) -> np.ndarray:
    """(T, 15) at times t (T,): of the note that began last, while it sounds. In rests, only the 1."""
    x = np.zeros((len(t), 15), np.float32)
    index = np.searchsorted(notes[:, 0], t, "right") - 1
    onset, duration, pitch = notes[index.clip(0)].T
    sounding = np.flatnonzero((index >= 0) & (t < onset + duration))
    pitch = pitch[sounding]
    x[sounding, pitch.astype(np.int64) % 12] = 1
    x[sounding, 12] = (pitch - 60) / 12
    following = notes[(index + 1).clip(max=len(notes) - 1), 0]
    x[:, 13] = np.maximum(0, 1 - np.minimum(np.abs(t - onset), np.abs(t - following)) / frame_seconds)
    x[:, 14] = 1
    return x


def given_frames(frames: int, draws: Sequence[float]) -> np.ndarray:
    """Which frames of a training crop are given (frames,) bool, by three numbers in [0, 1): none of them (60 %), a
    beginning (15 %), an end (10 %), or all but a gap (15 %)."""
    i, (first, second) = np.arange(frames), (round(frames * (0.02 + 0.96 * u)) for u in draws[1:])
    if draws[0] < 0.6:
        return np.zeros(frames, bool)
    if draws[0] < 0.75:
        return i < first
    low, high = sorted((first, second))
    return i >= first if draws[0] < 0.85 else (i < low) | (i >= max(high, low + 4))
