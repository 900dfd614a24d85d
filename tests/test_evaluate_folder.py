"""A folder of audio against a reference: what is told, what is left out, what is kept; distances against answers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fixtures import SAMPLE_RATE, sinusoids, write_clips

from musekit import cli
from musekit import evaluate as evaluation
from musekit.config import MuseError
from musekit.evaluate import distances, folder, sounds
from musekit.evaluate.subject import Subject
from musekit.results import read_result

# -- distances


def test_compare_tells_a_copy_from_another_distribution():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(120, 6))
    near, far = (
        {r["name"]: r for r in distances.compare(x, y, embedding="e", reference="r", seconds=1.0, source="s")}
        for x in (rng.normal(size=(60, 6)), rng.normal(1.5, 0.5, size=(60, 6)))
    )
    for name in ("kernel distance (KAD)", "Frechet distance", "Frechet distance, N to infinity"):
        assert near[name]["value"] < far[name]["value"] - 0.5
    assert near["recall"]["value"] > far["recall"]["value"] and near["spread"]["value"] > far["spread"]["value"]
    # (1.5^2 + 0.5^2) x 6 dimensions
    assert far["Frechet distance, N to infinity"]["value"] == pytest.approx(15, abs=2)
    for row in near.values():
        assert (row["n"], row["m"], row["embedding"], row["reference"], row["seconds"]) == (60, 120, "e", "r", 1.0)


def test_compare_says_nothing_where_there_is_too_little():
    rng = np.random.default_rng(1)
    rows = {
        r["name"]: r["value"] for r in distances.compare(rng.normal(size=(1, 4)), rng.normal(size=(3, 4)), source="s")
    }
    assert rows.pop("spread of the reference") > 0
    assert set(rows.values()) == {None}
    alike = {r["name"]: r["value"] for r in distances.compare(rng.normal(size=(4, 4)), np.ones((3, 4)), source="s")}
    assert alike["kernel distance (KAD)"] is None and alike["Frechet distance"] > 0 == alike["spread of the reference"]


def test_what_does_not_vary_in_the_reference_is_left_out():
    heard = [{"onsets": np.array([float(i), 7.0]), "timbre": np.array([2.0 * i])} for i in range(5)]
    x = distances.standardised(heard, heard)
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(x.std(0), [1, 0, 1])


# -- folders


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> Path:
    """Ten sounds of 2 s and one of 1.5 s in several formats, with captions and recipes; and six bad files."""
    made = tmp_path_factory.mktemp("folder") / "my music"
    (made / "sub").mkdir(parents=True)
    for i in range(10):
        name = ["a{}.wav", "b{}.flac", "sub/c{}.ogg"][i % 3].format(i)
        soundfile.write(made / name, sinusoids([220 + 30 * i, 300 + 10 * i]).T, SAMPLE_RATE)
    (made / "a0.json").write_text(json.dumps({"recipe": {"prompt": "slow flute"}, "asks": {"instrument": "flute"}}))
    (made / "b1.txt").write_text("a tune\n")
    (made / "a3.txt").write_text("a tune\n")
    (made / "a6.json").write_text("[1, 2]")
    soundfile.write(made / "short.wav", sinusoids([220], 1.5).T[::2], SAMPLE_RATE // 2)  # another rate
    (made / "empty.wav").write_bytes(b"")
    (made / "text.mp3").write_text("not audio")
    (made / "cut.wav").write_bytes((made / "a0.wav").read_bytes()[:9000])
    soundfile.write(made / "silence.wav", np.zeros((SAMPLE_RATE * 2, 2)), SAMPLE_RATE)
    soundfile.write(made / "blip.wav", np.ones(100), SAMPLE_RATE)
    loud = np.full((SAMPLE_RATE * 2, 2), np.nan)
    soundfile.write(made / "nan.wav", loud, SAMPLE_RATE, subtype="FLOAT")
    (made / "notes.md").write_text("no audio")
    return made


BAD = {"empty.wav", "text.mp3", "cut.wav", "silence.wav", "blip.wav", "nan.wav"}


def measured(result: dict, measure: str) -> list[dict]:
    return [r for r in result["rows"] if r["measure"] == measure]


def test_a_folder_against_another(music, smoke_weights, tmp_path, capsys):
    other = tmp_path / "theirs"
    other.mkdir()
    for i in range(10):
        soundfile.write(other / f"{i}.wav", sinusoids([400 + 20 * i]).T, SAMPLE_RATE)
    options = {
        "audio": music,
        "reference": other,
        "weights": smoke_weights,
        "cache": tmp_path / "no",
        "results": tmp_path,
    }
    cli.main(["eval", "folder", *(word for name, path in options.items() for word in (f"--{name}", str(path)))])
    result, out = read_result("folder-my-music", tmp_path), capsys.readouterr().out
    mine, theirs = measured(result, "set")
    assert mine["files"] == 17 and theirs["files"] == 10
    assert (mine["n"], mine["left_out"], set(mine["bad"]), mine["shorter"]) == (11, 6, BAD, 1)
    assert (mine["name"], theirs["name"], theirs["n"], theirs["left_out"]) == ("my music", "theirs", 10, 0)
    assert mine["seconds"] == 2.0  # the median length
    assert all(f"left out: {name!r}" in out for name in BAD)
    rows = measured(result, "distance")
    assert {r["embedding"].split()[0] for r in rows} == {"mini", "librosa"}
    audio = [r for r in rows if r["source"] == "audio"]
    assert all(r["reference"] == "theirs" and (r["n"], r["m"], r["seconds"]) == (11, 10, 2.0) for r in audio)
    assert all(r["value"] is not None for r in audio)
    # prompts: one recipe, two captions; the others are unknown
    said = {r["prompt"]: r for r in measured(result, "prompt")}
    assert {k: v["n"] for k, v in said.items()} == {"slow flute": 1, "a tune": 2}
    assert said["a tune"]["spread"] > 0 and said["slow flute"]["spread"] is None
    assert [r["n"] for r in measured(result, "similarity")] == [3, 3]
    assert not measured(result, "nearest training clip") and not measured(result, "accuracy")
    about = result["provenance"]
    assert str(tmp_path) not in json.dumps(result) and len(about["files"]) == 16 and "noise" in about["note"]


def test_a_folder_is_nothing_apart_from_itself_and_is_heard_once(music, smoke_weights, tmp_path, monkeypatch):
    evaluation.evaluate("folder", smoke_weights, tmp_path, tmp_path, audio=music, reference=music, seconds=1.2)
    rows = {
        r["name"]: r for r in measured(read_result("folder-my-music", tmp_path), "distance") if r["source"] == "audio"
    }
    assert rows["Frechet distance"]["value"] == pytest.approx(0, abs=1e-6)
    assert rows["precision"]["value"] == rows["recall"]["value"] == rows["coverage"]["value"] == 1
    assert rows["kernel distance (KAD)"]["value"] < 0  # unbiased: pairs of a row with itself are left out
    monkeypatch.setattr("musekit.evaluate.subject.hear", lambda *a: pytest.fail("it was heard before"))
    evaluation.evaluate("folder", smoke_weights, tmp_path, tmp_path, audio=music, reference=music, seconds=1.2)


def test_a_folder_against_the_held_out_clips_of_a_cache(music, smoke_weights, tmp_path):
    cache = tmp_path / "cache"
    records = write_clips(cache, "rrrrrrrrrrevvere")
    for i, record in enumerate(records):
        record |= {"speed": ("slow", "fast")[i % 4 // 2], "onset_rate": 1.0 + i % 4, "texture": "chordal"}
    (cache / "clips.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    evaluation.evaluate("folder", smoke_weights, cache, tmp_path, audio=music)
    result = read_result("folder-my-music", tmp_path)
    assert measured(result, "set")[1]["name"] == "cache, held-out clips" and measured(result, "set")[1]["n"] == 5
    near = {r["source"]: r for r in measured(result, "nearest training clip")}
    assert near["audio"]["n"] == 11 and near["reference"]["n"] == 5
    heard = measured(result, "accuracy")  # the judge says which instrument the one clip with known asks plays
    assert [(r["attribute"], r["n"]) for r in heard] == [("instrument", 1)]


def test_without_a_cache_the_weights_bring_their_reference(music, smoke_weights, tmp_path):
    from musekit.heldout import build_reference

    cache, weights = tmp_path / "cache", tmp_path / "weights"
    write_clips(cache, "rrvvvvvvve")
    shutil.copytree(smoke_weights, weights)
    with pytest.raises(MuseError, match="missing"):
        evaluation.evaluate("folder", weights, tmp_path / "none", tmp_path, audio=music)
    build_reference(cache, weights)
    evaluation.evaluate("folder", weights, tmp_path / "none", tmp_path, audio=music)
    rows = measured(read_result("folder-my-music", tmp_path), "distance")
    assert {r["m"] for r in rows if r["source"] == "audio"} == {8} and {r["embedding"].split()[0] for r in rows} == {
        "mini"
    }


def test_mistakes_with_folders_are_one_line(music, smoke_weights, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    shutil.copy(music / "text.mp3", tmp_path / "bad")
    for options, said in (
        ({}, "--audio DIR"),
        ({"audio": tmp_path / "nowhere"}, "no folder of audio"),
        ({"audio": tmp_path / "empty"}, "no audio in"),
        ({"audio": tmp_path / "bad"}, "nothing in .* can be used: text.mp3: not readable"),
        ({"audio": music, "reference": tmp_path / "nowhere"}, "no folder of audio"),
        ({"audio": music, "seconds": 0.2}, "--seconds"),
        ({"audio": music, "seconds": float("nan")}, "--seconds"),
    ):
        with pytest.raises(MuseError, match=said) as error:
            evaluation.evaluate("folder", smoke_weights, tmp_path / "none", tmp_path, **options)
        assert "\n" not in str(error.value)
    with pytest.raises(MuseError, match="belong to `musekit eval folder`"):
        evaluation.evaluate("codec", smoke_weights, tmp_path / "none", tmp_path, audio=music)


def test_a_link_out_of_the_folder_is_not_followed(music, tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link.wav").symlink_to(music / "a0.wav")
    with pytest.raises(MuseError, match="no audio"):
        sounds.audio_files(inside)


def test_of_too_many_files_the_same_few_are_taken(music, smoke_weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sounds, "LARGEST", 5)
    subject = Subject(smoke_weights, None, tmp_path, 1)
    first, again = (sounds.read_sounds(subject, music, 2.0, "hearing") for _ in range(2))
    assert first.names == again.names and len(first.names) + len(first.bad) == 5 and first.files == 17
    assert "17 files: 5 of them" in capsys.readouterr().out


def test_known_prompts_know_what_they_ask(music, smoke_weights, tmp_path):
    from musekit.corpus.captions import evaluation_prompts

    prompt = evaluation_prompts()[7]
    (tmp_path / "x.txt").write_text(prompt["text"])
    (tmp_path / "x.wav").write_bytes((music / "a0.wav").read_bytes())
    (tmp_path / "y.wav").write_bytes((music / "a0.wav").read_bytes())
    assert folder.prompts_of(tmp_path, ["x.wav", "y.wav"]) == [{"text": prompt["text"], "asks": prompt["asks"]}, None]
    subject = Subject(smoke_weights, None, tmp_path, 1)
    assert subject.clips == [] and subject.unit([]).shape == (0, 512)
