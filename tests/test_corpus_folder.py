"""Folders of audio: every way a file can be bad, every layout of captions, and what comes out."""

import json
import re

import numpy as np
import pytest
import soundfile

from musekit import cli
from musekit.config import MuseError
from musekit.corpus.datasets import captions_of, read_folder
from musekit.corpus.listing import Listing
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
    save(folder / "wordless.wav", tone())
    rows = [*wanted, "../secret.wav", "sub/good.wav"]
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
    assert aside.keys() == {*wanted, "../secret.wav", "wordless.wav"} - hidden
    assert aside["../secret.wav"] == "outside the folder"
    assert aside["wordless.wav"].startswith("no caption in the table; texts beside")


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
    found = {item.name: item for item in read_folder(Listing(tmp_path))}
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
    assert captions_of(Listing(tmp_path)) == {("a.wav", None, None): ["one"]}


@pytest.mark.parametrize("text, said", [("a,b\n1,2\n", "needs the columns"), ("", "no rows")])
def test_a_table_that_cannot_be_used_says_why(tmp_path, text, said):
    (tmp_path / "captions.csv").write_text(text)
    with pytest.raises(MuseError, match=said):
        captions_of(Listing(tmp_path))


def dataset(tmp_path, sounds=(), rows=(), columns="file,caption", **texts) -> tuple[dict, dict]:
    """A folder of sounds, a table and text files: ({work: captions} of what is taken, {file: why not})."""
    folder, out = tmp_path / "in", tmp_path / "out"
    for name in sounds:
        save(folder / name, tone(1.5))
    for name, text in (texts | ({"captions.csv": "\n".join([columns, *rows])} if rows else {})).items():
        (folder / name).write_text(text, encoding="utf-8")
    taken = {r["work"]: [c["text"] for c in r["captions"]] for r in clips_of(folder, out)}
    return taken, {a["file"]: a["reason"] for a in map(json.loads, (out / "set_aside.jsonl").open())}


@pytest.mark.parametrize(
    "line, row",
    [
        (6, '04.wav,"a tone'),  # to the end of the file
        (4, '02.wav,"a tone of 12" vinyl'),
        (5, '03.wav,"a tone\n"04b.wav","plain"'),
        (7, '05.wav,"a tone\n05b.wav,tone\n05c.wav,tone "'),
    ],
)
def test_an_open_quotation_mark_is_refused_with_its_line(tmp_path, line, row):
    rows = [f"{k:02d}.wav,tone {k}" for k in range(12)]
    (tmp_path / "captions.csv").write_text("\n".join(["file,caption", *rows[: line - 2], row, *rows[line - 1 :]]))
    with pytest.raises(MuseError, match=rf"captions.csv, line {line}: .*quotation"):
        captions_of(Listing(tmp_path))


@pytest.mark.parametrize("name", ["captions.csv", "captions.jsonl", "a.txt"])
def test_text_in_another_encoding_is_refused_with_its_line(tmp_path, name):
    (tmp_path / "a.wav").write_bytes(b"")
    (tmp_path / name).write_bytes("file,caption\na.wav,un café\n".encode("latin-1"))
    with pytest.raises(MuseError, match=rf"{name}, line 2: not UTF-8"):
        captions_of(Listing(tmp_path))


def test_lists_nulls_and_columns_of_later_rows(tmp_path):
    rows = [
        '{"file": "a.wav"}', '{"file": "b.wav", "caption": ["slow piano", "calm", null]}',
        '{"file": "c.wav", "caption": NaN}', '{"file": "d.wav", "caption": "N/A"}', '{"file": "e", "caption": null}',
        """{"file": "f.wav", "caption": "['a fiddle', 'a reel']"}""", '{"file": "g.wav", "caption": "[bright] bells"}',
    ]  # fmt: skip
    (tmp_path / "captions.jsonl").write_text("\n".join(rows))
    found = {path: said for (path, *_), said in captions_of(Listing(tmp_path)).items() if said}
    assert found == {"b.wav": ["slow piano", "calm"], "f.wav": ["a fiddle", "a reel"], "g.wav": ["[bright] bells"]}


def test_a_caption_of_a_stretch_belongs_to_its_clips_only(tmp_path):
    folder = tmp_path / "in"
    save(folder / "a.wav", tone(40))
    save(folder / "ten.wav", tone(10))  # cut from a longer one, whose times its row has
    rows = ["a.wav,0,12,first", "a.wav,12,36,then", "a.wav,39.5,60,late", "ten.wav,30,40,cut"]
    rows += ["ten.wav,5,20,its second half", "ten.wav,-5,9,before it"]
    (folder / "captions.csv").write_text("\n".join(["file,start_time,end_time,caption", *rows]))
    records = clips_of(folder, tmp_path / "out")
    found = [(r["path"], r["start"], r["seconds"], r["captions"][0]["text"]) for r in records]
    assert sorted(found) == [
        ("data/a.wav", 0, 12, "first"), ("data/a.wav", 12, 12, "then"), ("data/a.wav", 24, 12, "then"),
        ("data/ten.wav", 0, 10, "cut"), ("data/ten.wav", 5, 5, "its second half"),
    ]  # fmt: skip
    assert "a.wav 39.5-60 s" in (tmp_path / "out" / "set_aside.jsonl").read_text()
    assert len({r["family"] for r in records if "a.wav" in r["path"]}) == 1


def test_a_hubs_snapshot_and_absolute_paths(tmp_path):
    folder = tmp_path / "in"
    save(tmp_path / "blobs" / "aaa.wav", tone()).rename(tmp_path / "blobs" / "aaa")
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "a.wav").symlink_to("../../blobs/aaa")
    (folder / "gone.wav").symlink_to("nowhere")
    rows = [f"{folder}/b.wav,b", "data/a.wav,a", "gone.wav,c", f"{tmp_path}/other.wav,d"]
    taken, aside = dataset(tmp_path, ["b.wav"], rows)
    assert taken == {"data/a.wav": ["a"], "b.wav": ["b"]}
    assert aside == {"gone.wav": "no such file", f"{tmp_path}/other.wav": "outside the folder"}


def test_names_of_other_systems_are_found_where_only_one_file_can_be_meant(tmp_path):
    sounds = ("Rock/One.WAV", "rock2/two.wav", "cd1/intro.wav", "cd2/intro.wav", "Cafe\u0301.wav")
    rows = [r"C:\music\Rock\one.wav,a", "TWO,b", "intro.wav,c", "cd2\\intro.wav,d", "jazz/two.wav,e", "caf\u00e9.wav,f"]
    taken, aside = dataset(tmp_path, sounds, rows)
    assert taken == {"Rock/One.WAV": ["a"], "rock2/two.wav": ["b"], "cd2/intro.wav": ["d"], "Cafe\u0301.wav": ["f"]}
    assert aside["intro.wav"] == "several files have this name (cd1/intro.wav, cd2/intro.wav)"
    assert aside["jazz/two.wav"] == "no such file" and aside["cd1/intro.wav"].startswith("no caption")


@pytest.mark.parametrize("name", ["song {}.wav", "{}/mixture.wav"])
@pytest.mark.parametrize("n", [2, 3, 12])
def test_a_few_songs_or_a_folder_for_each_have_families_in_train_and_valid(tmp_path, n, name):
    sounds = [name.format(k) for k in range(n)]
    dataset(tmp_path, sounds, [f"{sound},a song" for sound in sounds])
    records = clips_of(tmp_path / "in", tmp_path / "out")
    assert len({r["family"] for r in records}) == n and {"train", "valid"} <= {r["split"] for r in records}


def test_folders_made_for_other_trainers(tmp_path):
    texts = {
        "v1_prompt.txt": "funk, bass", "v1_lyrics.txt": "[verse]\nno caption", "v15.caption.txt": "a pop song",
        "v15.txt": "la la la", "craft.json": '{\n "description": "a string quartet",\n "bpm": NaN\n}',
        "old.txt": "[Verse 1]\nla la la", "sung.json": '["other"]', "sung.txt": "a choir\nsinging",
    }  # fmt: skip
    taken, aside = dataset(tmp_path, [f"{name}.wav" for name in ("v1", "v15", "craft", "old", "sung")], **texts)
    assert taken == {
        "v1.wav": ["funk, bass"], "v15.wav": ["a pop song"], "craft.wav": ["a string quartet"],
        "sung.wav": ["a choir", "singing"],
    }  # fmt: skip
    assert aside["old.wav"].startswith("no caption: looked for captions.csv, ")


def test_tables_of_sub_folders_and_what_is_passed_over(tmp_path):
    table = "file_name,text\n1.wav,{}\n"
    save(tmp_path / "elsewhere" / "x.wav", tone())
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    sounds = ("train/1.wav", "test/1.wav", ".Trashes/2.wav", "train/spare.wav")
    texts = {"train/metadata.csv": table.format("one"), "test/metadata.csv": table.format("two"), "b.webm": ""}
    taken, aside = dataset(tmp_path, sounds, **texts)
    assert taken == {"train/1.wav": ["one"], "test/1.wav": ["two"]}
    assert aside.keys() == {"b.webm", "linked", "train/spare.wav"} and "convert" in aside["b.webm"]


def test_the_command_ends_with_a_table_and_fails_where_nothing_is_taken(tmp_path, capsys):
    folder, bad = tmp_path / "in", {f"{k}.wav": "no sound" for k in range(1, 5)}
    dataset(tmp_path, ["0.wav"], [f"{k}.wav,tone" for k in range(5)], **bad, **{"a.m4a": ""})
    words = ["cache", "--data", str(folder), "--out", str(tmp_path / "out"), "--kinds", "clips"]
    cli.main(words)
    said = capsys.readouterr().out
    assert re.search(r"^clips +1  taken of 1 files of folder", said, re.M)
    assert re.search(r"^clips +4  not taken, not readable as audio: 1.wav \(For.*\), 2.wav .*, \.\.\.$", said, re.M)
    assert re.search(r"^clips +1  not taken, a format that is not read: .*: a.m4a$", said, re.M)
    (folder / "0.wav").write_bytes(b"")
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    done = capsys.readouterr()
    assert end.value.code == 2 and "5  not taken" in done.out and "nothing usable in" in done.err
