"""Sounds that people bring: decoded as far as needed, or refused with a word. Nothing is written anywhere."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from musekit.config import MuseError

LARGEST = 512 * 2**20  # bytes of an upload
#: What a server must let through for that: a message above Tornado's own 10 MiB ends the kernel's connection.
TORNADO = {"websocket_max_message_size": LARGEST + 2**20}
LONGEST = 20 * 60.0  # seconds of a sound that is taken in whole
SHORTEST = 0.1  # seconds
RATES = (2_000, 768_000)  # Hz
SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64")
SILENT = 1e-4  # of full scale: nothing above it is nothing to hear


@dataclass
class Sound:
    """A decoded sound; `notes` tell what was done to it."""

    name: str
    audio: np.ndarray  # (1 or 2, N) float32
    sample_rate: int  # Hz
    notes: list[str] = field(default_factory=list)


def read_sound(
    source: bytes | str | Path, name: str = "", seconds: float | None = None, rate: int | None = None
) -> Sound:
    """The first `seconds` (None: all) of a file or of its bytes, as stereo at `rate` Hz (None: its own).

    More than two channels are mixed. Only what is asked for is decoded. Raises MuseError for what is no audio, too
    large, too long to be taken in whole, too short or silent.
    """
    import soundfile

    name = Path(name or (str(source) if not isinstance(source, bytes) else "upload")).name[:200]
    size = len(source) if isinstance(source, bytes) else size_of(Path(source), name)
    if size > LARGEST and seconds is None:
        raise MuseError(f"{name!r} has {size / 2**20:,.0f} MB; bring at most {LARGEST / 2**20:,.0f}")
    try:
        with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as file:
            own, channels, total = file.samplerate, file.channels, file.frames / file.samplerate
            if not RATES[0] <= own <= RATES[1]:
                raise MuseError(f"{name!r} says that it has {own} samples a second; save it as 44.1 kHz WAV")
            if seconds is None and total > LONGEST:
                raise MuseError(f"{name!r} lasts {total / 60:.0f} minutes; cut it to at most {LONGEST / 60:.0f}")
            x = file.read(-1 if seconds is None else round(seconds * own), dtype="float32", always_2d=True).T
    except (OSError, RuntimeError, ZeroDivisionError, ValueError, TypeError) as error:
        raise MuseError(f"{name!r} is no sound that can be read here; save it as WAV, FLAC, OGG or MP3") from error
    x, notes = np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0), []
    if x.shape[1] < SHORTEST * own:
        raise MuseError(f"{name!r} lasts {x.shape[1] / own:.2f} s; bring at least {SHORTEST} s")
    if float(np.abs(x).max()) < SILENT:
        start = "" if seconds is None or total <= seconds else f"the first {seconds:g} s of "
        raise MuseError(f"{start}{name!r} is silent; bring a sound that can be heard")
    if seconds is not None and total > seconds + 0.05:
        notes.append(f"only the first {seconds:.1f} s of its {clock(total)} are heard")
    if channels > 2:
        x = x.mean(0, keepdims=True)
        notes.append(f"its {channels} channels were mixed to one")
    if rate is not None and own != rate:
        import soxr

        x = np.ascontiguousarray(soxr.resample(x.T, own, rate).T)
        notes.append(f"resampled from {own / 1000:g} to {rate / 1000:g} kHz")
    if rate is not None and len(x) == 1:
        x = np.repeat(x, 2, axis=0)
    return Sound(name, x, rate or own, notes)


def size_of(path: Path, name: str) -> int:
    """Bytes of a file. Raises MuseError where there is none."""
    try:
        if not path.is_file():
            raise MuseError(f"{name!r} is no file")
        return path.stat().st_size
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise MuseError(f"{name!r} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def clock(seconds: float) -> str:
    """3725 -> "1:02:05"."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
