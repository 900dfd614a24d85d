"""Rendering: notes in seconds to 44.1 kHz stereo audio through a General MIDI SoundFont (`fonts.toml`).

The synthesiser is midirenderer (rustysynth, 48 kHz stereo, 16 bit), with General MIDI reverb (CC 91) and pan (CC 10).
It plays 64 voices, and one note may be several: parts that need more are rendered by several calls and added.
"""

import io
from pathlib import Path

import numpy as np
import soundfile

from musekit.corpus.arrange import TABLES
from musekit.corpus.fonts import preset, ready, subset
from musekit.corpus.sound import SAMPLE_RATE, BadAudio
from musekit.files import write_atomic

LEVELS = TABLES["level"]  # of a clip in dBFS RMS, by dynamic
PEAK = 0.95
TICKS = 960  # per second: the tempo is fixed at 60 quarter notes per minute
VOICES, CHANNELS = 60, 15  # of one call; drums have a channel of their own
TAIL = 1.0  # seconds that a note's voices may need after its end
EVEN = -26.0  # dB: the level of each instrument's notes at velocity 80, by `fonts.toml`


def render(
    notes: list[list[float]],
    players: list[str],
    pans: list[int],
    seconds: float,
    dynamic: str,
    reverb: int = 60,
    font: str = "timgm",
) -> np.ndarray:
    """Audio (2, seconds * 44100) float32 at the dynamic's level, the last 30 ms faded out.

    notes: rows [onset s, duration s, pitch, velocity, part]; players: each part's instrument; pans, reverb: 0 to 127;
    font: a name in `fonts.toml`. Raises BadAudio when nothing sounds, or the first 0.15 s are silent, and MuseError
    without the font or for a player that it lacks.
    """
    import soxr

    audio = np.zeros((round((seconds + 0.5) * 48_000), 2), np.float32)
    for group in groups(notes, players, font):
        audio += synthesise(group, players, pans, seconds, reverb, font)[: len(audio)]
    audio = soxr.resample(audio, 48_000, SAMPLE_RATE, quality="HQ").T[:, : round(seconds * SAMPLE_RATE)]  # (2, N)
    level = float(np.sqrt(np.mean(audio**2)))
    if level < 1e-4:
        raise BadAudio(f"silent: RMS {level:.1e}")
    if np.sqrt(np.mean(audio[:, : round(0.15 * SAMPLE_RATE)] ** 2)) < 0.02 * level:
        raise BadAudio("starts with silence")
    gain = min(10 ** (LEVELS[dynamic] / 20) / level, PEAK / float(np.abs(audio).max()))
    audio = audio * gain
    fade = round(0.03 * SAMPLE_RATE)
    audio[:, -fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    return np.ascontiguousarray(audio, dtype=np.float32)


def events(notes: list[list[float]]) -> list[tuple[int, int, int, int]]:
    """(on, off, pitch, velocity) of one part's notes in ticks, so that no note ends one that began after it.

    A synthesiser knows a note by channel and key: a note that begins while its key sounds ends the earlier one first.
    Of notes that begin together on one key the longest one is played.
    """
    rows: dict[tuple[int, int], tuple[int, int]] = {}
    for onset, duration, pitch, velocity, *_ in notes:
        on = max(0, round(onset * TICKS))
        at = int(pitch), on
        off, loudest = rows.get(at, (0, 0))
        rows[at] = max(off, on + 1, round((onset + duration) * TICKS) - 1), max(loudest, int(velocity))
    ordered = sorted(rows.items())
    after = [at for at, _ in ordered[1:]] + [(-1, 0)]
    return sorted(
        (on, min(off, max(on + 1, then - 1)) if key == pitch else off, pitch, velocity)
        for ((pitch, on), (off, velocity)), (key, then) in zip(ordered, after)
    )


def most_voices(group: dict[int, list], players: list[str], font: str) -> int:
    """The most voices that sound together when one call plays these parts."""
    voices = {part: preset(font, players[part]).voices for part in group}
    on = [(row[0], voices[part]) for part, rows in group.items() for row in rows]
    off = [(row[1] + TAIL * TICKS, -voices[part]) for part, rows in group.items() for row in rows]
    return int(np.cumsum([change for _, change in sorted(on + off)]).max(initial=0))


def groups(notes: list[list[float]], players: list[str], font: str) -> list[dict[int, list]]:
    """Shares of the notes, {part: rows of `events`}, that one call each can play without losing voices."""
    found: list[dict[int, list]] = []
    for part, player in enumerate(players):
        rows = events([row for row in notes if row[4] == part])
        drums = player == "drums"  # a closed hi-hat ends an open one: they stay in one call
        shares = 1 if drums else max(1, -(-most_voices({part: rows}, players, font) // VOICES))
        for own in (rows[share::shares] for share in range(shares if rows else 0)):
            for group in found:
                names = [players[p] for p in group]
                free = part not in group and len(names) < CHANNELS and not (drums and "drums" in names)
                if free and most_voices(group | {part: own}, players, font) <= VOICES:
                    group[part] = own
                    break
            else:
                found.append({part: own})
    return found


def synthesise(group: dict[int, list], players: list[str], pans: list[int], seconds: float, reverb: int, font: str):
    """Audio (N, 2) float32 at 48 kHz of one call, {part: rows of `events`}, each part at the level `EVEN`."""
    import midirenderer
    import pretty_midi

    presets, notes = {part: preset(font, players[part]) for part in group}, {}
    for part, rows in group.items():
        notes.setdefault(presets[part][:2], set()).update(row[2:] for row in rows)
    soundfont = subset(ready(font), notes, notes=notes)
    gains = {part: 10 ** ((EVEN - about.level) / 20) for part, about in presets.items()}
    scale = max(gains.values())
    while True:
        midi = pretty_midi.PrettyMIDI(resolution=TICKS, initial_tempo=60)
        for part, rows in group.items():
            bank, program = presets[part][:2]
            player = pretty_midi.Instrument(program, is_drum=bank == 128)
            volume = round(16383 * (gains[part] / scale) ** 0.5)  # the synthesiser squares it
            controls = [(0, bank % 128), (7, volume >> 7), (39, volume & 127), (10, pans[part]), (91, reverb)]
            player.control_changes = [pretty_midi.ControlChange(*control, 0) for control in controls]
            player.control_changes.append(pretty_midi.ControlChange(91, reverb, seconds + 0.5))  # makes the end
            player.notes = [pretty_midi.Note(v, pitch, on / TICKS, off / TICKS) for on, off, pitch, v in rows]
            midi.instruments.append(player)
        buffer = io.BytesIO()
        midi.write(buffer)
        wav = midirenderer.render_wave_from(soundfont, buffer.getvalue())
        audio, _ = soundfile.read(io.BytesIO(wav), dtype="float32", always_2d=True)
        if np.abs(audio).max(initial=0) < 0.999:
            return audio * np.float32(scale)
        scale *= 2  # 16 bits are full: softer


def write_flac(path: Path, audio: np.ndarray, sample_rate: int = SAMPLE_RATE) -> None:
    """16-bit FLAC of audio (2, N) in [-1, 1], clipped and written atomically."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.asarray(audio).T, sample_rate, format="FLAC", subtype="PCM_16")
    write_atomic(path, buffer.getvalue())
