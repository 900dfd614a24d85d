"""A tune from a MIDI file, or from a sound that somebody hums or plays, as the notes of `Controls.melody`."""

import functools
from pathlib import Path

from musekit.config import MuseError
from musekit.controls import read_melody

Note = tuple[float, float, int]  # onset and duration in seconds, MIDI pitch
SECONDS, RATE, FRAME, HOP = 60.0, 16_000, 1024, 256  # of a sound, at most; Hz; samples
VIBRATO, LEAST = 9, 6  # frames of 16 ms: over which a pitch is smoothed, of a note
SURE = 0.1  # median probability of a pitch where there is one: noise has 0.01, a voice as loud as noise 0.02
QUIET = 0.2  # of the median level of what has a pitch; a repeated note begins behind such a dip


def melody_of(path: str) -> str | tuple[Note, ...]:
    """`Settings.melody` of a file: the path of a MIDI file as it is, or the notes of a recording (`read_tune`).

    Raises MuseError for a file that cannot be read.
    """
    try:
        with open(path, "rb") as file:
            if file.read(4) == b"MThd" or Path(path).suffix.lower() in (".mid", ".midi"):
                return path
            return _notes(Path(path).read_bytes(), Path(path).name)
    except OSError as error:
        why = f"cannot read the melody {path!r:.80}: {error.strerror or error}"
        raise MuseError(f"{why}; give a MIDI file, or a recording of one voice") from error


@functools.lru_cache(4)  # the lines of a file of prompts may share a recording
def _notes(data: bytes, name: str) -> tuple[Note, ...]:
    return tuple(read_tune(data, name)[0])


def read_tune(data: bytes, name: str) -> tuple[list[Note], float | None]:
    """The notes, the first at 0, and the tempo in BPM, which a sound does not tell (None).

    A sound is one voice from C2 to E6. Its pitches come from pyin (Mauch and Dixon 2014), are moved together onto the
    nearest semitones, and last as long as they do. Raises MuseError where there are no notes.
    """
    if data[:4] == b"MThd":
        return read_melody(data, name)
    import librosa
    import numpy as np
    import soxr
    from scipy.ndimage import median_filter

    from musekit.entry import read_audio

    audio, rate = read_audio(data, name, SECONDS)
    x = np.pad(soxr.resample(audio.mean(0), rate, RATE), (0, FRAME))
    f0, voiced, sure = librosa.pyin(x, fmin=65.0, fmax=1320.0, sr=RATE, frame_length=FRAME, hop_length=HOP)
    level = librosa.feature.rms(y=x, frame_length=FRAME // 2, hop_length=HOP)[0]
    voiced &= level > QUIET * np.median(level[voiced]) if voiced.any() else False
    pitch = librosa.hz_to_midi(np.where(voiced, f0, 440.0))
    off = np.angle(np.exp(2j * np.pi * pitch[voiced]).mean()) / (2 * np.pi) if voiced.any() else 0.0  # semitones
    last = np.maximum.accumulate(np.where(voiced, np.arange(len(pitch)), 0))  # gaps have the pitch before them
    steps = np.where(voiced, np.rint(median_filter(pitch[last], VIBRATO) - off), 0).astype(int)
    edges = [0, *(np.flatnonzero(np.diff(steps)) + 1), len(steps)]
    runs = [(a, b, int(steps[a])) for a, b in zip(edges, edges[1:]) if steps[a] > 0 and b - a >= LEAST]
    if not runs or np.median(sure[voiced]) < SURE:
        raise MuseError(f"no notes were heard in {name[:60]!r}; hum or play one line of notes")
    second = HOP / RATE
    return [(round(float(a - runs[0][0]) * second, 3), round(float(b - a) * second, 3), p) for a, b, p in runs], None
