"""Audio files: what the header promises, and the samples of one clip in stereo at one rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SILENCE = 1e-4  # RMS, -80 dBFS
MIN_SECONDS = 1.0
MAX_FRAMES = 2**40  # for a stream of unknown length libsndfile answers with a larger number


class BadAudio(ValueError):  # noqa: N818 - its name is part of the reasons in cache manifests
    """An audio file that is not usable; the message says why in a few words."""


def header(path: Path) -> tuple[int, int]:
    """(frames, sample rate in Hz) of an audio file by its header; nothing is decoded. Raises BadAudio."""
    import soundfile

    if not path.is_file():
        raise BadAudio("no such file")
    try:
        about = soundfile.info(path)
    except soundfile.LibsndfileError as error:
        raise BadAudio(f"not readable as audio ({error.error_string})") from error
    if about.frames > MAX_FRAMES:
        raise BadAudio("its header does not say how long it is")
    if about.frames < MIN_SECONDS * about.samplerate:
        raise BadAudio(f"shorter than {MIN_SECONDS:g} s")
    return about.frames, about.samplerate


def read_audio(
    path: Path | str, sample_rate: int = 44100, start: float = 0.0, seconds: float | None = None
) -> np.ndarray:
    """`seconds` of an audio file from `start` on (both in seconds; None: to its end), float32 (2, N) at `sample_rate`.

    Mono is copied to both channels; of more than two channels the first two are taken. Raises BadAudio with the reason:
    missing, not audio, truncated, short, not finite, or silent.
    """
    import soundfile
    import soxr

    frames, rate = header(Path(path))
    first = round(start * rate)
    wanted = frames - first if seconds is None else min(frames - first, round(seconds * rate))
    try:
        audio, _ = soundfile.read(path, max(0, wanted), first, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise BadAudio(f"not readable as audio ({error.error_string})") from error
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
