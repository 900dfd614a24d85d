"""The sound of a clip: a file, or a stretch of a recording that several clips were cut from."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from musekit.config import MuseError
from musekit.files import sha256, write_atomic


@dataclass(frozen=True)
class Stretch:
    """A clip that is a part of a longer recording."""

    path: Path
    start: float  # seconds
    seconds: float
    sample_rate: int  # Hz, of the clip: the recording may have another

    def __str__(self) -> str:
        return f"{self.path} ({self.seconds:g} s from {self.start:g} s on)"


def read_audio(path: Path | Stretch) -> tuple[np.ndarray, int]:
    """(2, N) float32 and its rate in Hz, of a file or as `cache.precompute` reads a clip; mono is doubled.

    Raises MuseError when a stretch is not usable.
    """
    import soundfile

    if isinstance(path, Stretch):
        from musekit.corpus import sound

        try:
            return sound.read_audio(path.path, path.sample_rate, path.start, path.seconds), path.sample_rate
        except sound.BadAudio as error:
            raise MuseError(f"{path} cannot be heard ({error}); run `musekit cache` for this data again") from error
    x, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return (x.T if x.shape[1] == 2 else np.repeat(x[:, :1], 2, axis=1).T), rate


def cut(audio: np.ndarray, rate: int, seconds: float | None) -> tuple[np.ndarray, int]:
    """The first `seconds` of audio (2, N), all of it where that is None or more, and the rate."""
    return (audio if seconds is None else audio[:, : round(seconds * rate)]), rate


def sound_key(path: Path | Stretch, seconds: float | None = None, length: int = 24) -> str:
    """Names what is heard in a file: a hash of its bytes, and how much of it from where on."""
    which = ""
    if isinstance(path, Stretch):
        which = f"-{round(1000 * path.start)}to{round(1000 * (path.start + path.seconds))}ms-{path.sample_rate}Hz"
        path = path.path
    return sha256(path)[:length] + which + ("" if seconds is None else f"-{round(1000 * seconds)}ms")


def write_flac(path: Path, audio: np.ndarray, sample_rate: int) -> None:
    """audio (2, N) as 16-bit FLAC, written aside and renamed."""
    import soundfile

    data = io.BytesIO()
    soundfile.write(data, np.clip(audio.T, -1, 1), sample_rate, format="FLAC", subtype="PCM_16")
    write_atomic(path, data.getvalue())
