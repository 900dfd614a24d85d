"""Audio files: what the header promises, and the samples of one clip in stereo at one rate."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np

SILENCE = 1e-4  # RMS, -80 dBFS
MIN_SECONDS = 1.0
MAX_FRAMES = 2**40  # for a stream of unknown length libsndfile answers with a larger number


class BadAudio(ValueError):  # noqa: N818 - its name is part of the reasons in cache manifests
    """An audio file that is not usable; `reason` says why in a few words."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


@contextlib.contextmanager
def _opened(path: Path):
    """The file as a `soundfile.SoundFile`, by its content and not its name; every failure becomes a BadAudio."""
    import soundfile

    if not path.is_file():
        raise BadAudio("no such file")
    if path.stat().st_size == 0:
        raise BadAudio("empty file")
    try:
        with open(path, "rb") as handle, soundfile.SoundFile(handle) as file:
            if file.frames > MAX_FRAMES:
                raise BadAudio("its header does not say how long it is")
            yield file
    except BadAudio:
        raise
    except Exception as error:  # libsndfile's own errors, and its wrapper's
        raise BadAudio(f"not readable as audio ({str(error).strip()[:80]})") from None


def header(path: Path) -> tuple[int, int]:
    """(frames, sample rate in Hz) of an audio file by its header; nothing is decoded. Raises BadAudio."""
    with _opened(path) as file:
        frames, rate = file.frames, file.samplerate
    if frames < MIN_SECONDS * rate:
        raise BadAudio(f"shorter than {MIN_SECONDS:g} s")
    return frames, rate


def read_audio(
    path: Path | str, sample_rate: int = 44100, start: float = 0.0, seconds: float | None = None
) -> np.ndarray:
    """`seconds` of an audio file from `start` on (both in seconds; None: to its end), float32 (2, N) at `sample_rate`.

    Mono is copied to both channels; of more than two channels the first two are taken. Raises BadAudio with the reason:
    missing, empty, not audio, truncated, short, not finite, or silent.
    """
    import soxr

    path = Path(path)
    with _opened(path) as file:
        rate, promised = file.samplerate, file.frames
        first, wanted = round(start * rate), -1 if seconds is None else round(seconds * rate)
        if first > promised:
            raise BadAudio("ends before this clip starts")
        file.seek(first)
        audio = file.read(wanted, dtype="float32", always_2d=True)
    left = promised - first
    if len(audio) < (left if wanted < 0 else min(left, wanted)) - rate // 10:
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
