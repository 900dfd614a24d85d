"""Sound files as they come: what the header promises, and the samples of one clip, at one rate and in stereo."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SILENCE = 1e-4  # RMS, -80 dBFS
MIN_SECONDS = 1.0
UNKNOWN_LENGTH = 2**40  # frames: libsndfile's answer for a stream is larger


class BadAudio(ValueError):  # noqa: N818, the name that the package's parts share
    """A file that cannot be used; `reason` says why in a few words."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def cut_short(path: Path) -> bool:
    """True when a RIFF or Ogg file ends before its own headers say it does."""
    with open(path, "rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
            size = path.stat().st_size
            while len(chunk := file.read(8)) == 8:
                length = int.from_bytes(chunk[4:], "little")
                if chunk[:4] == b"data":
                    streamed = length in (0, 0xFFFFFFFF, 0x7FFFFFFF)  # a pipe could not know its length
                    return not streamed and file.tell() + length > size
                file.seek(length + length % 2, 1)
            return True  # no data chunk
        if head[:4] == b"OggS":
            file.seek(max(0, path.stat().st_size - 131072))
            tail = file.read()
            page = tail[max(0, tail.rfind(b"OggS")) :]
            if len(page) < 27 or not page[5] & 4:  # no page that ends the stream
                return True
            return len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])  # header, segment table, segments
    return False


def header(path: Path) -> tuple[int, int]:
    """(frames, sample rate in Hz) that a sound file promises; nothing is decoded.

    Raises BadAudio with the reason: missing, empty, not audio, truncated, short.
    """
    import soundfile

    if not path.is_file():
        raise BadAudio("no such file")
    try:
        if path.stat().st_size == 0:
            raise BadAudio("empty file")
        with open(path, "rb") as handle, soundfile.SoundFile(handle) as file:
            frames, rate = file.frames, file.samplerate
        short = cut_short(path)
    except BadAudio:
        raise
    except Exception as error:  # libsndfile's own errors, and its wrapper's
        raise BadAudio(f"not readable as audio ({str(error).strip()[:80]})") from None
    if short:
        raise BadAudio("truncated: it ends before its header says it should")
    if frames < MIN_SECONDS * rate:
        raise BadAudio(f"shorter than {MIN_SECONDS:g} s")
    return frames, rate


def read_audio(
    path: Path | str, sample_rate: int = 44100, start: float = 0.0, seconds: float | None = None
) -> np.ndarray:
    """`seconds` of a sound file from `start` on (both in seconds; None: to its end), float32 (2, N) at `sample_rate`.

    The content decides the format, not the name. Mono sounds on both sides; of more than two channels the front left
    and right are taken. Raises BadAudio with the reason: missing, empty, not audio, truncated, not finite, silent...
    """
    import soundfile
    import soxr

    path = Path(path)
    if not path.is_file():
        raise BadAudio("no such file")
    if path.stat().st_size == 0:
        raise BadAudio("empty file")
    try:
        with open(path, "rb") as handle, soundfile.SoundFile(handle) as file:
            rate, promised = file.samplerate, file.frames
            known = 0 < promised < UNKNOWN_LENGTH
            first = round(start * rate)
            if known and first >= promised:
                raise BadAudio("ends before this clip starts")
            if first:
                file.seek(first)
            wanted = -1 if seconds is None else round(seconds * rate)
            audio = file.read(wanted, dtype="float32", always_2d=True)
    except BadAudio:
        raise
    except Exception as error:  # libsndfile's own errors, and its wrapper's
        raise BadAudio(f"not readable as audio ({str(error).strip()[:80]})") from None
    left = promised - first if known else 0
    expected = left if wanted < 0 else min(left, wanted)
    if cut_short(path) or len(audio) < expected - rate // 10:
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
