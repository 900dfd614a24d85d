"""Sound files as encoders, pipes and radio stations leave them: their length, and each of their samples."""

import io
import os

import numpy as np
import pytest
import soundfile

from musekit.corpus import sound
from musekit.corpus.sound import FRAMES, BadAudio, Decoder, Sound, read_audio

RATE = 44100


def noise(seconds: float, rate: int = RATE) -> np.ndarray:
    """Stereo, by turns 3 s loud and 3 s silent: a variable bit rate has something to vary."""
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (round(seconds * rate), 2)).astype(np.float32)
    return x * (np.arange(len(x)) // rate % 6 < 3)[:, None]


def encoded(format: str, seconds: float, rate: int = RATE, **how) -> bytes:
    data, x = io.BytesIO(), noise(seconds, rate)
    with soundfile.SoundFile(data, "w", rate, 2, format=format, **how) as file:
        for start in range(0, len(x), 65536):  # libsndfile crashes on more at a time, in Vorbis
            file.write(x[start : start + 65536])
    return data.getvalue()


def piped_flac(seconds: float = 8) -> bytes:
    """As an encoder leaves it that writes into a pipe: 0 samples in STREAMINFO."""
    data = bytearray(encoded("FLAC", seconds))
    data[21:26] = bytes([data[21] & 0xF0, 0, 0, 0, 0])
    return bytes(data)


def mp3_without_xing() -> bytes:
    data = encoded("MP3", 30, bitrate_mode="VARIABLE", compression_level=0.5)
    return b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + data[FRAMES[data[:3]] :] + b"TAG" + bytes(125)


def wav(length: int) -> bytes:
    """The length that the data chunk claims, of 8 s."""
    data = encoded("WAV", 8)
    return data[:4] + b"\xff" * 4 + data[8:40] + length.to_bytes(4, "little") + data[44:]


def chain(**how) -> bytes:
    return encoded("OGG", 8, **how) + encoded("OGG", 5, **how)


KINDS = {
    "FLAC in a pipe": (piped_flac, 8),
    "a chain of Vorbis": (chain, 13),
    "a chain of Opus": (lambda: chain(rate=48000, subtype="OPUS"), 13),
    "MP3 without Xing": (mp3_without_xing, 30),
    "MP3 of variable rate": (lambda: encoded("MP3", 30, bitrate_mode="VARIABLE", compression_level=0.5), 30),
    "WAV by SoX": (lambda: wav(0x7FFFFFFF - 36), 8),
    "WAV by arecord": (lambda: wav(0x80000000), 8),
    "WAV with RIFF's size": (lambda: wav(8 * RATE * 4 + 36), 8),
    "WAV of a killed recorder": (lambda: wav(0), 8),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_length_is_the_true_one_and_a_stretch_has_the_samples_of_the_whole(kind, tmp_path):
    make, seconds = KINDS[kind]
    data = make()
    (tmp_path / "sound").write_bytes(data)
    opened = Sound(tmp_path / "sound")
    rate = opened.samplerate
    assert opened.frames == pytest.approx(seconds * rate, abs=0.05 * rate) and opened.channels == 2
    whole = np.concatenate([*opened.blocks()])
    assert len(whole) == opened.frames
    again = np.concatenate([*Sound(data).blocks()])
    assert np.array_equal(whole, again)
    level = np.abs(whole[: len(whole) // rate * rate]).reshape(-1, rate, 2).mean((1, 2))
    assert (level[[0, 1]] > 0.1).all() and (level[[4, 5]] < 0.01).all()  # no second is lost or moved
    for start in (opened.frames - rate, opened.frames - 3000, 5 * rate + 77, 8 * rate - 2000, rate, 0):
        stretch = np.concatenate([np.zeros((0, 2)), *opened.blocks(start, rate)])
        assert np.array_equal(stretch, whole[start : start + rate]), start


def test_what_cannot_be_used_says_why(tmp_path, monkeypatch):
    slow = encoded("WAV", 2)
    (tmp_path / "slow").write_bytes(slow[:24] + b"\1\0\0\0" + slow[28:])  # 88,200 s, by its header
    (tmp_path / "long").write_bytes(piped_flac(8))
    (tmp_path / "chain").write_bytes(encoded("OGG", 8) + encoded("OGG", 5, 48000))
    (tmp_path / "cut").write_bytes(piped_flac(8)[:-50_000])
    assert 7.4 * RATE < Sound(tmp_path / "cut").frames < 8 * RATE
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(sound, "MAX_HOURS", 6 / 3600)
    for name, reason in [
        ("slow", "a sample rate outside 2,000 to 768,000 Hz (1 Hz)"), ("long", "longer than"), ("pipe", "not a reg"),
        ("chain", "several sample rates"), ("gone", "no such file"), (".", "not a regular file"),
    ]:  # fmt: skip
        with pytest.raises(BadAudio, match=reason.replace("(", r"\(").replace(")", r"\)")):
            read_audio(tmp_path / name)


def test_a_long_file_is_opened_and_decoded_once(tmp_path, monkeypatch):
    from musekit.cache import Shards
    from musekit.cache.precompute import precompute
    from musekit.config import smoke
    from musekit.corpus.readers import read_corpus

    folder, out, decoded = tmp_path / "in", tmp_path / "out", []
    folder.mkdir()
    (folder / "mix.mp3").write_bytes(encoded("MP3", 102 * 1.5, 16000, bitrate_mode="VARIABLE"))
    (folder / "mix.txt").write_text("noise")
    records, _ = read_corpus("folder", folder, out, 1.5)
    monkeypatch.setattr(Decoder, "seek", lambda *_: pytest.fail("a seek"))
    read = Decoder.read
    monkeypatch.setattr(Decoder, "read", lambda file, n, *how, **more: decoded.append(n) or read(file, n, *how, **more))
    precompute("views", out, smoke(), show=False)
    assert [len(records), sum(decoded)] == [102, 102 * 1.5 * 16000]
    assert len(Shards(out / "views")) == 102
