"""Datasets as published: every row becomes the right clips or a count, however odd the row or the copy."""

import json

import published
import pytest
from published import MUSIC4ALL, YTIDS, sound

from musekit.claims import matches
from musekit.config import MuseError
from musekit.corpus.datasets import claimed, csv_rows, json_rows, tonic
from musekit.corpus.families import split_of
from musekit.corpus.readers import choose, read_corpus
from musekit.corpus.sound import read_audio

A, B, C, D, E, F = YTIDS


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """The folder of a dataset, written once."""
    made = {}

    def write(name):
        if name not in made:
            made[name] = getattr(published, name)(tmp_path_factory.mktemp(name) / name.upper())
        return made[name]

    return write


@pytest.fixture
def read(data, tmp_path):
    """(records by work, what was taken) of a dataset."""

    def run(name):
        records, taken = read_corpus(name, data(name), tmp_path / "out", 12.0)
        written = [json.loads(line) for line in (tmp_path / "out" / "clips.jsonl").read_text().splitlines()]
        assert written == records and len({r["id"] for r in records}) == len(records)
        by_work = {}
        for r in records:
            by_work.setdefault(r["work"], []).append(r)
            assert r["captions"] and all(matches(c["asks"], r) for c in r["captions"])
            assert all(c["text"].strip() == c["text"] for c in r["captions"])
            assert r["sample_rate"] == 44100 and r["seconds"] >= 1
        families = {}
        for r in records:
            assert families.setdefault(r["family"], r["split"]) == r["split"]
        return by_work, taken

    return run


def test_musicbench(read, tmp_path):
    clips, taken = read("musicbench")
    assert set(clips) == {
        f"data/{A}.wav", f"data_aug2/{A}_1.wav", f"data_aug2/{A}_2.wav",
        f"data/{B}.wav", f"data/{C}.wav", f"data_aug2/{C}_3.wav",
    }  # fmt: skip
    assert {c["family"] for name in clips if A in name for c in clips[name]} == {A}
    split = {name: c[0]["split"] for name, c in clips.items()}
    assert split[f"data/{A}.wav"] == ("valid" if split_of(A) == "valid" else "train")
    assert split[f"data/{B}.wav"] == "eval"
    assert split[f"data/{C}.wav"] == split[f"data_aug2/{C}_3.wav"] == "test"  # a copy follows its clip into the test

    (clip,) = clips[f"data/{A}.wav"]
    assert (clip["key"], clip["mode"], clip["bpm"]) == ("Bb", "minor", 120.5)
    main, plain, full = clip["captions"]
    assert main["asks"] == plain["asks"] == {"work": f"data/{A}.wav"}
    assert (
        full["text"].startswith(f"plain of data/{A}.wav The chord sequence is Gm, Eb.") and "A# minor" in full["text"]
    )
    assert full["asks"] == {"key": "Bb", "mode": "minor", "bpm": 120.5}
    assert read_audio(tmp_path / "out" / clip["path"]).shape == (2, 88200)

    (odd,) = clips[f"data_aug2/{A}_1.wav"]  # null bpm, a key that is none
    assert odd["bpm"] is odd["key"] is odd["mode"] is odd["key_confidence"] is None
    assert all(set(c["asks"]) == {"work"} for c in odd["captions"])
    (quiet,) = clips[f"data_aug2/{A}_2.wav"]  # empty prompts
    assert [c["text"] for c in quiet["captions"]] == [f"main of data_aug2/{A}_2.wav"] and quiet["bpm"] is None
    (test,) = clips[f"data/{C}.wav"]  # A and B are one sound
    assert test["subset"] == "test A"
    assert [c["text"] for c in test["captions"]][:2] == ["plain words", "plain words and controls"]

    assert "clips 6 taken of 6 files of musicbench" in " ".join(taken[0].split())
    whys = [line.split(", ")[1].split(":")[0] for line in taken[1:]]
    assert sorted(whys) == ["no caption", "no such file", "outside the folder"]


def test_music4all(read):
    clips, taken = read("music4all")
    one, two, three, _ = (row[0] for row in MUSIC4ALL["id_information"][1:5])
    assert set(clips) == {one, two, three} and len(taken) == 3 and "no caption: " in taken[1] + taken[2]
    (first,), (second,), (third,) = (clips[i] for i in (one, two, three))
    assert first["family"] == second["family"] == "somebody"  # however it is spelt
    assert (first["key"], first["mode"], first["bpm"], first["tempo"]) == ("Bb", "minor", 150.02, "fast")
    assert (first["energy"], first["valence"], first["danceability"]) == ("high", "low", "high")
    assert first["tags"] == ["rock", "loud guitars"] and first["genre:indie rock"] is True and first["language"] == "en"
    assert (second["tempo"], second["energy"], second["valence"], second["key"]) == ("slow", "low", "high", "C")
    assert third["key"] is third["bpm"] is None and [c["text"] for c in third["captions"]] == [
        "calm music",
        "music, calm",
    ]
    said = [c for clip in (first, second) for c in clip["captions"]]
    assert len({c["text"] for c in said}) == len(said) >= 5
    assert any("150 bpm" in c["text"] and "in Bb minor" in c["text"] and c["asks"]["bpm"] == 150.02 for c in said)
    assert not any(word in c["text"].lower() for c in said for word in ("somebody", "song", "first", "second"))
    vague = first["captions"][0]
    assert not matches(vague["asks"], second) and len(vague["asks"]) < len(first["captions"][-1]["asks"])


@pytest.mark.parametrize("name", ["musicbench", "music4all"])
def test_a_folder_says_which_data_set_it_holds(data, name):
    assert choose(None, data(name)) == (name, data(name))
    assert choose(str(data(name)), None) == (name, data(name))  # --corpus FOLDER
    assert choose(name, data(name)) == (name, data(name))
    other = "music4all" if name == "musicbench" else "musicbench"
    with pytest.raises(MuseError, match=f"does not hold {other}. Looked for "):
        choose(other, data(name))


def test_a_wrong_folder_is_one_line_that_says_what_was_looked_for(tmp_path):
    assert choose(None, None) == choose("scores", None) == ("scores", None)
    (tmp_path / "notes.txt").write_text("no music")
    for corpus, folder, said in [
        (None, tmp_path, "MusicBench_train.json.*id_information.csv.*captions.csv"),
        (None, tmp_path / "none", "no folder at"),
        ("musicbench", None, "needs --data FOLDER, the unpacked dataset .musicbench: MusicBench_train.json"),
        ("musicbenhc", tmp_path, "did you mean 'musicbench'"),
        (str(tmp_path / "gone"), None, "no folder"),
        ("scores", tmp_path, "takes no --data"),
    ]:  # fmt: skip
        with pytest.raises(MuseError, match=said) as caught:
            choose(corpus, folder)
        assert "\n" not in str(caught.value)
    sound(tmp_path / "a.wav")
    assert choose(None, tmp_path)[0] == "folder"


def test_a_data_set_that_moves_is_linked_again(data, tmp_path):
    first = published.music4all(tmp_path / "one" / "D")
    out = tmp_path / "out"
    records, _ = read_corpus("music4all", first, out, 12.0)
    first.rename(tmp_path / "moved")
    again, _ = read_corpus("music4all", tmp_path / "moved", out, 12.0)
    assert again == records and (out / records[0]["path"]).is_file()
    (out / "data").unlink()
    (out / "data").mkdir()
    with pytest.raises(MuseError, match="is in the way"):
        read_corpus("music4all", tmp_path / "moved", out, 12.0)


@pytest.mark.parametrize(
    "value, said",
    [("A#", "Bb"), ("Db", "C#"), ("B flat", "Bb"), ("F sharp", "F#"), ("11", "B"), (3.0, "Eb"), ("Cb", "B"),
     *((odd, None) for odd in ("H", "", None, 12, 0.5, -1))],
)  # fmt: skip
def test_tonics_as_the_records_spell_them(value, said):
    assert tonic(value) == said


def test_what_a_caption_claims():
    known = {"key": "Eb", "mode": "major", "bpm": 90.2}
    assert claimed("in E flat major at 90 bpm", known) == {"key": "Eb", "mode": "major", "bpm": 90.2}
    assert claimed("The key is D# major. The bpm is 91.0.", known) == {"key": "Eb", "mode": "major", "bpm": 90.2}
    assert claimed("in E major at 120 bpm", known) == claimed("a major hit", {}) == claimed("in E major", {}) == {}


@pytest.mark.parametrize(
    "read, text, said",
    [
        (csv_rows, "id,tags\nA,one\nB,two,three\n", "line 3: more cells than the header"),
        (json_rows, '{"a": 1}\nnull\n', "line 2, cannot be read: Expected `object`"),
    ],
)
def test_a_damaged_table_is_refused_in_one_line(tmp_path, read, text, said):
    (tmp_path / "table").write_text(text)
    with pytest.raises(MuseError, match=said) as caught:
        read(tmp_path / "table")
    assert "\n" not in str(caught.value)
