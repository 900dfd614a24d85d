"""Rendering: notes in seconds to 44.1 kHz stereo audio through a General MIDI SoundFont.

The SoundFont is TimGM6mb.sf2 by Tim Brechbill (GPL-2.0), which comes with pretty_midi. The synthesiser is
midirenderer (rustysynth, 48 kHz stereo), with General MIDI reverb (CC 91) and pan (CC 10).
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import soundfile

from musekit.corpus.arrange import TABLES
from musekit.corpus.instruments import INSTRUMENTS
from musekit.corpus.sound import SAMPLE_RATE, BadAudio
from musekit.files import write_atomic

SOUNDFONT = "TimGM6mb.sf2 by Tim Brechbill (GPL-2.0), shipped in pretty_midi"
LEVELS = TABLES["level"]  # of a clip in dBFS RMS, by dynamic
PEAK = 0.95
TICKS = 960  # per second: the tempo is fixed at 60 quarter notes per minute


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

    notes: rows [onset s, duration s, pitch, velocity, part]; pans, reverb: 0 to 127. Raises BadAudio when nothing
    sounds, or the first 0.15 s are silent.
    """
    import midirenderer
    import pretty_midi
    import soxr

    midi = pretty_midi.PrettyMIDI(resolution=TICKS, initial_tempo=60)
    for part, name in enumerate(players):
        player = pretty_midi.Instrument(INSTRUMENTS[name].program, is_drum=name == "drums")
        # the last one makes the end
        controls = ((7, 127, 0), (10, pans[part], 0), (91, reverb, 0), (7, 127, seconds + 0.5))
        player.control_changes = [pretty_midi.ControlChange(*control) for control in controls]
        for onset, duration, pitch, velocity, owner in notes:
            if owner == part:
                on = max(0, round(onset * TICKS))
                off = max(on + 1, round((onset + duration) * TICKS) - 1)
                player.notes.append(pretty_midi.Note(int(velocity), int(pitch), on / TICKS, off / TICKS))
        midi.instruments.append(player)
    buffer = io.BytesIO()
    midi.write(buffer)
    soundfont = Path(pretty_midi.__file__).with_name("TimGM6mb.sf2").read_bytes()
    wav = midirenderer.render_wave_from(soundfont, buffer.getvalue())
    audio, rate = soundfile.read(io.BytesIO(wav), dtype="float32", always_2d=True)
    audio = soxr.resample(audio, rate, SAMPLE_RATE, quality="HQ").T  # (2, N)
    samples = round(seconds * SAMPLE_RATE)
    audio = np.pad(audio, ((0, 0), (0, max(0, samples - audio.shape[1]))))[:, :samples]
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


def write_flac(path: Path, audio: np.ndarray, sample_rate: int = SAMPLE_RATE) -> None:
    """16-bit FLAC of audio (2, N) in [-1, 1], clipped and written atomically."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.asarray(audio).T, sample_rate, format="FLAC", subtype="PCM_16")
    write_atomic(path, buffer.getvalue())
