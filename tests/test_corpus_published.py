"""Datasets as published: every row becomes the right clips or a count, however odd the row or the copy."""

import json

import published
import pytest
from published import YTIDS, sound

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


def test_a_folder_says_which_data_set_it_holds(data):
    folder = data("musicbench")
    for asked in ((None, folder), (str(folder), None), ("musicbench", folder)):  # --corpus may be the folder
        assert choose(*asked) == ("musicbench", folder)
    with pytest.raises(MuseError, match="no folder at"):
        choose("folder", folder / "nothing")


def test_a_wrong_folder_is_one_line_that_says_what_was_looked_for(tmp_path):
    assert choose(None, None) == choose("scores", None) == ("scores", None)
    (tmp_path / "notes.txt").write_text("no music")
    for corpus, folder, said in [
        (None, tmp_path, "MusicBench_train.json.*captions.csv"),
        (None, tmp_path / "none", "no folder at"),
        ("musicbench", None, "give --data FOLDER, the unpacked dataset .musicbench: MusicBench_train.json"),
        ("musicbenhc", tmp_path, "did you mean 'musicbench'"),
        (str(tmp_path / "gone"), None, "no folder"),
        ("scores", tmp_path, "unknown corpus"),
    ]:  # fmt: skip
        with pytest.raises(MuseError, match=said) as caught:
            choose(corpus, folder)
        assert "\n" not in str(caught.value)
    sound(tmp_path / "a.wav")
    assert choose(None, tmp_path)[0] == "folder"


def test_a_data_set_that_moves_is_found_again(tmp_path):
    first = published.musicbench(tmp_path / "one" / "D")
    records, _ = read_corpus("musicbench", first, tmp_path / "out", 12.0)
    first.rename(tmp_path / "moved")
    again, _ = read_corpus("musicbench", tmp_path / "moved", tmp_path / "out", 12.0)
    assert [r["id"] for r in again] == [r["id"] for r in records] and (tmp_path / "out" / again[0]["path"]).is_file()


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
