"""Audio files as they are: their true length, and any stretch of their samples, in stereo at one rate.

libsndfile decodes. FLAC that was written into a pipe, whose header has no length, is decoded once to know it.
"""

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

SAMPLE_RATE = 44100  # Hz, at which clips are read
SILENCE = 1e-4  # RMS, -80 dBFS
MIN_SECONDS = 1.0
MAX_HOURS = 24  # of one file
RATES = (2_000, 768_000)  # Hz
BLOCK = 2**18  # samples that are decoded at a time
LEAD_SECONDS = 2  # decoded and dropped after a seek: MP3 needs earlier frames, Vorbis seeks badly near its end
UNKNOWN = 2**40  # frames: libsndfile's answer for an unknown length is larger


class BadAudio(ValueError):  # noqa: N818 - its name is part of the reasons in cache manifests
    """An audio file that is not usable. The message is a reason that many files share (and details of this one)."""


class Decoder(soundfile.SoundFile):
    """A SoundFile that reads straight on: soundfile seeks after a read, which fails in FLAC of unknown length."""

    def __init__(self, source: Path | str | bytes):
        super().__init__(io.BytesIO(source) if isinstance(source, bytes) else source)

    def seekable(self) -> bool:
        """Whether soundfile seeks after a read. `seek` works all the same."""
        return False


class Sound:
    """An open audio file: exact `frames`, `samplerate` in Hz, `channels`.

    source: a file, or its bytes. least: the shortest sound in seconds. Raises BadAudio: no file, not audio, too short
    or too long, an odd sample rate.
    """

    def __init__(self, source: Path | str | bytes, least: float = MIN_SECONDS):
        self.source = source
        with reasons():
            if not isinstance(source, bytes) and not stat.S_ISREG(os.stat(source).st_mode):
                raise BadAudio("not a regular file")
            self.decoder = Decoder(source)
            self.samplerate, self.channels = self.decoder.samplerate, self.decoder.channels
            if not RATES[0] <= self.samplerate <= RATES[1]:
                raise BadAudio(f"a sample rate outside {RATES[0]:,} to {RATES[1]:,} Hz ({self.samplerate:,} Hz)")
            self.frames = self.length()
        if self.frames < least * self.samplerate:
            raise BadAudio(f"shorter than {least:g} s")
        if self.frames > MAX_HOURS * 3600 * self.samplerate:
            raise BadAudio(f"longer than {MAX_HOURS} hours")

    def length(self) -> int:
        """Frames; where the header has none, the file is decoded to its end, or to the most that is taken."""
        n, most, self.place = 0, MAX_HOURS * 3600 * self.samplerate, 0  # place: the next frame
        if self.decoder.frames <= UNKNOWN:
            return self.decoder.frames
        with contextlib.suppress(soundfile.LibsndfileError):  # damaged from here on
            while n <= most and (block := len(self.decoder.read(2**13, "int16"))):
                n += block
        self.place = n
        return n

    def blocks(self, start: int = 0, frames: int | None = None) -> Iterator[np.ndarray]:
        """Up to `frames` (None: all) from frame `start` on, in blocks (n, channels) of float32. Raises BadAudio.

        What follows the last block is read without a seek: a long file is decoded once. The samples are the same.
        """
        stop = self.frames if frames is None else min(self.frames, start + frames)
        with reasons():
            if start < stop and start != self.place:
                self.decoder.close()  # in a decoder that has read, a seek in Vorbis may be off
                self.decoder, self.place = Decoder(self.source), start
                lead = min(start, LEAD_SECONDS * self.samplerate) if self.decoder.format in ("MP3", "OGG") else 0
                self.decoder.seek(start - lead)
                self.decoder.read(lead)
            while start < stop:
                block = self.decoder.read(min(stop - start, BLOCK // self.channels), "float32", always_2d=True)
                if not len(block):
                    break
                start = self.place = start + len(block)
                yield block


@contextlib.contextmanager
def reasons() -> Iterator[None]:
    """Errors of libsndfile and of the system as BadAudio."""
    try:
        yield
    except soundfile.LibsndfileError as error:
        raise BadAudio(f"not readable as audio ({error.error_string or 'its frames are damaged'})") from error
    except FileNotFoundError as error:
        raise BadAudio("no such file") from error
    except (OSError, TypeError) as error:  # TypeError: the name of a file without a header
        raise BadAudio(f"cannot be opened ({error})") from error


def read_audio(
    source: Path | str | Sound, sample_rate: int = SAMPLE_RATE, start: float = 0.0, seconds: float | None = None
) -> np.ndarray:
    """`seconds` of an audio file from `start` on (both in seconds; None: to its end), float32 (2, N) at `sample_rate`.

    Mono is copied to both channels; of more than two channels the first two are taken. Raises BadAudio with the reason:
    those of `Sound`, truncated, short, not finite, or silent.
    """
    import soxr

    sound = source if isinstance(source, Sound) else Sound(source)
    rate, first = sound.samplerate, round(start * sound.samplerate)
    wanted = sound.frames - first if seconds is None else min(sound.frames - first, round(seconds * rate))
    audio, n = np.empty((min(2, sound.channels), max(0, wanted)), np.float32), 0
    for block in sound.blocks(first, wanted):
        audio[:, n : n + len(block)] = block[:, :2].T
        n += len(block)
    if n < wanted - rate // 10:
        raise BadAudio("truncated: it ends before its header says it should")
    if n < MIN_SECONDS * rate:
        raise BadAudio(f"shorter than {MIN_SECONDS:g} s")
    audio = np.ascontiguousarray(audio[:, :n])
    energy = float(np.vdot(audio, audio))
    if not np.isfinite(energy):
        raise BadAudio("holds NaN or infinite samples")
    if energy < SILENCE**2 * audio.size:
        raise BadAudio("silent")
    if rate != sample_rate:
        audio = soxr.resample(audio.T, rate, sample_rate, quality="HQ").T
    peak = max(1.0, float(audio.max()), -float(audio.min()))
    audio = np.ascontiguousarray(audio if peak == 1 else audio / np.float32(peak))
    return audio if len(audio) == 2 else np.repeat(audio, 2, axis=0)
