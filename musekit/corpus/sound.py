"""Audio files as they are: their true length, and any stretch of their samples, in stereo at one rate.

libsndfile decodes, and is helped where it does not know a length. FLAC that was written into a pipe is decoded once. An
MP3 without a Xing frame, whose length libsndfile guesses from its first frame, is given one. The links of a chained Ogg
file (recorded radio) are opened one after another. A WAV of length 0 has the length of its file.
"""

import contextlib
import io
import itertools
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

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

HAS_LENGTH = re.compile(rb"(?:Xing|Info)\0{3}[\x01\x03\x05\x07\x09\x0b\x0d\x0f]|VBRI")  # in an MP3's first frame
KBPS_1 = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)  # of Layer III in MPEG 1
KBPS_2 = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)  # in MPEG 2 (version 2) and 2.5 (version 0)
#: Bytes of a Layer III frame by its first three bytes (ISO 11172-3 and 13818-3).
FRAMES = {
    bytes([255, 226 | version << 3 | unprotected, index << 4 | rate << 2 | padded << 1 | private]): padded
    + (144_000 if version == 3 else 72_000) * kbps // ((44100, 48000, 32000)[rate] >> halvings)
    for version, halvings, rates in ((3, 0, KBPS_1), (2, 1, KBPS_2), (0, 2, KBPS_2))
    for index, kbps in enumerate(rates, 1)
    for rate, unprotected, padded, private in itertools.product(range(3), range(2), range(2), range(2))
}


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
    """An open audio file: exact `frames`, `samplerate` in Hz, `channels`. Headers are read, and where need be more.

    source: a file, or its bytes. least: the shortest sound in seconds. Raises BadAudio: no file, not audio, too short
    or too long, an odd sample rate.
    """

    def __init__(self, source: Path | str | bytes, least: float = MIN_SECONDS):
        with reasons():
            if not isinstance(source, bytes) and not stat.S_ISREG(os.stat(source).st_mode):
                raise BadAudio("not a regular file")
            first = Decoder(source)
            self.samplerate, self.sources, self.parts = first.samplerate, [source], [first]
            if not RATES[0] <= self.samplerate <= RATES[1]:
                raise BadAudio(f"a sample rate outside {RATES[0]:,} to {RATES[1]:,} Hz ({self.samplerate:,} Hz)")
            if first.format in REPAIRS:
                with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
                    if pieces := REPAIRS[first.format](file, first.frames):
                        self.sources, self.parts = pieces, [Decoder(piece) for piece in pieces]
            self.lengths = [self.length(part) for part in self.parts]
            self.places = [0 if part.frames <= UNKNOWN else -1 for part in self.parts]  # the next frame of each
        self.frames, self.channels = sum(self.lengths), min(part.channels for part in self.parts)
        if {part.samplerate for part in self.parts} != {self.samplerate}:
            raise BadAudio("a chain of several sample rates")
        if self.frames < least * self.samplerate:
            raise BadAudio(f"shorter than {least:g} s")
        if self.frames > MAX_HOURS * 3600 * self.samplerate:
            raise BadAudio(f"longer than {MAX_HOURS} hours")

    def length(self, part: Decoder) -> int:
        """Frames of a part; where its header has none, it is decoded to its end, or to the most that is taken."""
        n, most = 0, MAX_HOURS * 3600 * part.samplerate
        if part.frames <= UNKNOWN:
            return part.frames
        with contextlib.suppress(soundfile.LibsndfileError):  # damaged from here on
            while n <= most and (block := len(part.read(2**13, "int16"))):
                n += block
        return n

    def blocks(self, start: int = 0, frames: int | None = None) -> Iterator[np.ndarray]:
        """Up to `frames` (None: all) from frame `start` on, in blocks (n, channels) of float32. Raises BadAudio.

        What follows the last block is read without a seek: a long file is decoded once. The samples are the same.
        """
        stop, before = self.frames if frames is None else min(self.frames, start + frames), 0
        for i, length in enumerate(self.lengths):
            at, end = max(start - before, 0), min(stop - before, length)
            with reasons():
                if at < end and at != self.places[i]:
                    self.parts[i].close()  # in a decoder that has read, a seek in Vorbis may be off
                    part = self.parts[i] = Decoder(self.sources[i])
                    lead = min(at, LEAD_SECONDS * self.samplerate) if part.format in ("MP3", "OGG") else 0
                    part.seek(at - lead)
                    part.read(lead)
                while at < end:
                    block = self.parts[i].read(min(end - at, BLOCK // self.channels), "float32", always_2d=True)
                    if not len(block):
                        break
                    at = self.places[i] = at + len(block)
                    yield block[:, : self.channels]
            before += length


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


def ogg_links(file: BinaryIO, guess: int) -> list[bytes]:
    """The links of a chained Ogg file (RFC 3533), each a stream of its own; none where the file is one stream."""
    serial, size = file.read(18)[14:], file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 2**17))
    tail = file.read()
    page = tail.rfind(b"OggS\0")
    if tail[page + 14 : page + 18] == serial:
        return []
    file.seek(0)
    data, starts, end = file.read(), [], 0
    for found in re.finditer(rb"OggS\0\x02.{20}(.)", data, re.DOTALL):  # pages that begin a stream
        if not starts or found.start() != end:  # else a second stream of the same link
            starts.append(found.start())
        end = found.end() + found[1][0] + sum(data[found.end() : found.end() + found[1][0]])
    return [data[a:b] for a, b in itertools.pairwise([*starts, size])] if len(starts) > 1 else []


def mp3_with_length(file: BinaryIO, guess: int) -> list[bytes]:
    """An MP3 with a Xing frame that holds its number of frames; none where it has one, or the guess is right."""
    at = 0
    while (tag := file.read(10))[:3] == b"ID3" and len(tag) == 10:
        at += 10 + sum((byte & 127) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0)))
        file.seek(at)
    file.seek(at)
    if HAS_LENGTH.search(file.read(2048)):
        return []
    file.seek(0)
    data, n, starts, last = file.read(), 0, [], at
    while at >= 0:
        length = FRAMES.get(data[at : at + 3])
        while length and (at + length >= len(data) or data[at + length : at + length + 3] in FRAMES):
            starts = starts or [at]
            at, n = at + length, n + 1
            last, length = at, FRAMES.get(data[at : at + 3])
        at = data.find(b"\xff", at + 1, last + 2**16)  # lost: the next frame, if it is near
    one, two, three = data[starts[0] + 1 : starts[0] + 4] if starts else (0, 0, 0)
    version_1, mono = one & 0x18 == 0x18, three >> 6 == 3
    if not starts or abs(n * (1152 if version_1 else 576) - guess) <= 2304:
        return []
    head = bytes([0xFF, one | 1, two & 0x0C | 0x90, three])
    side = bytes(([17, 9], [32, 17])[not mono][not version_1])
    frame = head + side + b"Xing\0\0\0\1" + n.to_bytes(4, "big")
    return [frame.ljust(FRAMES[head[:3]], b"\0") + data[starts[0] :]]


def wav_with_length(file: BinaryIO, guess: int) -> list[bytes]:
    """A WAV whose writer never came back to fill in its length, with one; none where it says how long it is."""
    data = b"" if guess else file.read()
    at = data.find(b"data\0\0\0\0", 12) + 4
    return [data[:at] + (len(data) - at - 4).to_bytes(4, "little") + data[at + 4 :]] if at >= 16 else []


REPAIRS = {"OGG": ogg_links, "MP3": mp3_with_length, "WAV": wav_with_length, "WAVEX": wav_with_length}


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
