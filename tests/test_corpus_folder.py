"""Folders of audio: every way a file can be bad, every layout of captions, and what comes out."""

import json

import numpy as np
import pytest
import soundfile

from musekit.config import MuseError
from musekit.corpus.datasets import captions_of, read_folder
from musekit.corpus.readers import read_corpus
from musekit.corpus.sound import BadAudio, read_audio

RATE = 22050


def tone(seconds: float = 3.0, rate: int = RATE, channels: int = 1, hz: float = 330.0) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    return np.stack([0.3 * np.sin(2 * np.pi * hz * (c + 1) * t) for c in range(channels)], 1).astype(np.float32)


def save(path, audio, rate=RATE, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, rate, **how)
    return path


def clips_of(folder, out) -> list[dict]:
    return read_corpus("folder", folder, out, 12.0)[0]


def pitch(audio: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio))))
    return float(np.fft.rfftfreq(len(audio), 1 / 44100)[spectrum.argmax()])


@pytest.mark.parametrize("suffix, rate", [(".wav", 16000), (".flac", 44100), (".ogg", 44100), (".mp3", 16000)])
def test_any_format_and_rate_becomes_44100_stereo(tmp_path, suffix, rate):
    audio = read_audio(save(tmp_path / f"a{suffix}", tone(rate=rate), rate))
    assert audio.shape[0] == 2 and audio.dtype == np.float32 and abs(audio.shape[1] - 3 * 44100) < 4000
    assert np.array_equal(audio[0], audio[1]) and pitch(audio[0]) == pytest.approx(330, abs=2)


def test_the_first_two_of_many_channels_are_taken_and_loud_audio_is_scaled(tmp_path):
    for channels in (2, 6):
        audio = read_audio(save(tmp_path / "s.wav", 10 * tone(channels=channels), subtype="FLOAT"))
        assert audio.shape[0] == 2 and 0.95 < np.abs(audio).max() <= 1.05
        assert pitch(audio[0]) == pytest.approx(330, abs=2) and pitch(audio[1]) == pytest.approx(660, abs=2)


def bad_files(folder):
    """{name: reason} of files that are each bad in another way."""
    folder.mkdir()
    whole = {s: save(folder / f"cut{s}", tone(4)).read_bytes() for s in (".flac", ".ogg")}
    for suffix, content in whole.items():
        (folder / f"cut{suffix}").write_bytes(content[: len(content) // 2])
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("this is not audio at all, " * 50)
    (folder / "noise.flac").write_bytes(np.random.default_rng(0).bytes(5000))
    save(folder / "silent.wav", np.zeros((RATE * 2, 2)))
    save(folder / "nan.wav", np.where(np.arange(3 * RATE)[:, None] == 5, np.nan, tone()), subtype="FLOAT")
    save(folder / "short.wav", tone(0.4))
    return {
        "cut.flac": "", "cut.ogg": "shorter", "empty.wav": "not readable", "text.wav": "not readable",
        "noise.flac": "not readable", "silent.wav": "silent", "nan.wav": "NaN", "short.wav": "shorter",
        "missing.wav": "no such file",
    }  # fmt: skip


def test_a_folder_with_bad_files_gives_the_good_ones(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    wanted = bad_files(folder)
    for name, reason in wanted.items():
        with pytest.raises(BadAudio) as caught:
            read_audio(folder / name)
        assert reason in str(caught.value), name
    save(folder / "sub" / "good.wav", tone(30))
    save(tmp_path / "secret.wav", tone())
    (folder / "link.wav").symlink_to(tmp_path / "secret.wav")
    save(folder / "wordless.wav", tone())
    rows = [*wanted, "../secret.wav", "link.wav", "sub/good.wav"]
    table = "file,caption\n" + "".join(f'{name},"a tone, plain"\n' for name in rows) + "wordless.wav,\n"
    (folder / "captions.csv").write_text("\ufeff" + table)
    everything = clips_of(folder, out)
    hidden = {"cut.flac", "silent.wav", "nan.wav"}  # only their samples tell
    assert {r["work"] for r in everything} == {"sub/good.wav", *hidden}
    records = [r for r in everything if r["work"] not in hidden]
    assert [r["seconds"] for r in records] == [12.0, 12.0, 6.0]
    assert [r["start"] for r in records] == [0.0, 12.0, 24.0] and len({r["split"] for r in records}) == 1
    caption = {"text": "a tone, plain", "asks": {"work": "sub/good.wav"}}
    assert records[0]["captions"] == [caption] and records[0]["mode"] is None
    for r in records:
        audio = read_audio(out / r["path"], r["sample_rate"], r["start"], r["seconds"])
        assert audio.shape == (2, round(r["seconds"] * 44100)) and pitch(audio[0]) == pytest.approx(330, abs=2)
    assert (out / "data").resolve() == folder.resolve()  # nothing is copied
    aside = {a["file"]: a["reason"] for a in map(json.loads, (out / "set_aside.jsonl").read_text().splitlines())}
    assert aside.keys() == {*wanted, "../secret.wav", "link.wav", "wordless.wav"} - hidden
    assert aside["../secret.wav"] == aside["link.wav"] == "outside the folder"
    assert aside["wordless.wav"] == "no caption"


def test_text_files_beside_the_audio_are_its_captions_and_the_same_command_reads_changes(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    for name in ("a", "b"):
        save(folder / f"{name}.wav", tone())
        (folder / f"{name}.txt").write_text(f"tone {name}\nanother word for {name}\n")
    first = clips_of(folder, out)
    assert [len(r["captions"]) for r in first] == [2, 2]
    save(folder / "b.wav", tone(4, hz=500))
    (folder / "a.txt").write_text("new words")
    again = clips_of(folder, out)
    assert [r["id"] for r in again] == [r["id"] for r in first]
    assert again[0]["captions"][0]["text"] == "new words" and again[1]["seconds"] == 4.0


def test_a_numbered_series_is_many_sounds(tmp_path):
    """take_001.wav, take_002.wav ... are no copies of one another."""
    rows = "".join(f"take_{k:03d}.wav,take {k}\n" for k in range(60))
    (tmp_path / "captions.csv").write_text("file,caption\n" + rows + "take_007_1.wav,a copy\n")
    found = {item.name: item for item in read_folder(tmp_path)}
    assert len({item.family for item in found.values()}) == 60 and len({item.split for item in found.values()}) == 3
    assert found["take_007_1.wav"].split == found["take_007.wav"].split


@pytest.mark.parametrize(
    "name, text",
    [
        ("captions.csv", "Caption;File\none;a.wav\n"),
        ("captions.jsonl", '{"location": "a.wav", "main_caption": "one", "by": "x\u2028y\x85z"}\n'),
        ("captions.json", '[{"file": "a.wav", "caption": "one"}]'),
    ],
)
def test_tables_of_many_layouts(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert captions_of(tmp_path) == {"a.wav": ["one"]}


@pytest.mark.parametrize("text, said", [("a,b\n1,2\n", "needs the columns"), ("", "no rows")])
def test_a_table_that_cannot_be_used_says_why(tmp_path, text, said):
    (tmp_path / "captions.csv").write_text(text)
    with pytest.raises(MuseError, match=said):
        captions_of(tmp_path)
