"""Audio files: what the header promises, and the samples of one clip in stereo at one rate."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

SAMPLE_RATE = 44100  # Hz, at which clips are read
SILENCE = 1e-4  # RMS, -80 dBFS
MIN_SECONDS = 1.0
MAX_FRAMES = 2**40  # for a stream of unknown length libsndfile answers with a larger number


class BadAudio(ValueError):  # noqa: N818 - its name is part of the reasons in cache manifests
    """An audio file that is not usable; the message says why in a few words."""


@contextlib.contextmanager
def open_audio(path: Path | str) -> Iterator:
    """An audio file as a `soundfile.SoundFile`; nothing is decoded. Raises BadAudio, also for errors in the block."""
    if not Path(path).is_file():
        raise BadAudio("no such file")
    try:
        with soundfile.SoundFile(path) as file:
            if file.frames > MAX_FRAMES:
                raise BadAudio("its header does not say how long it is")
            if file.frames < MIN_SECONDS * file.samplerate:
                raise BadAudio(f"shorter than {MIN_SECONDS:g} s")
            yield file
    except soundfile.LibsndfileError as error:
        raise BadAudio(f"not readable as audio ({error.error_string})") from error


def read_audio(
    path: Path | str, sample_rate: int = SAMPLE_RATE, start: float = 0.0, seconds: float | None = None
) -> np.ndarray:
    """`seconds` of an audio file from `start` on (both in seconds; None: to its end), float32 (2, N) at `sample_rate`.

    Mono is copied to both channels; of more than two channels the first two are taken. Raises BadAudio with the reason:
    missing, not audio, truncated, short, not finite, or silent.
    """
    import soxr

    with open_audio(path) as file:
        rate, first = file.samplerate, round(start * file.samplerate)
        wanted = file.frames - first if seconds is None else min(file.frames - first, round(seconds * rate))
        if wanted > 0:
            file.seek(first)
        audio = file.read(max(0, wanted), dtype="float32", always_2d=True)
    if len(audio) < wanted - rate // 10:
        raise BadAudio("truncated: it ends before its header says it should")
    if len(audio) < MIN_SECONDS * rate:
        raise BadAudio(f"shorter than {MIN_SECONDS:g} s")
    if not np.isfinite(audio).all():
        raise BadAudio("holds NaN or infinite samples")
    if np.sqrt(np.mean(np.square(audio, dtype=np.float64))) < SILENCE:
        raise BadAudio("silent")
    audio = audio[:, :2] if audio.shape[1] > 1 else np.repeat(audio, 2, axis=1)
    if rate != sample_rate:
        audio = soxr.resample(audio, rate, sample_rate, quality="HQ")
    peak = float(np.abs(audio).max())
    return np.ascontiguousarray(audio.T / max(1.0, peak), dtype=np.float32)
