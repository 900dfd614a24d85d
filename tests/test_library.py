"""The library: what is kept stays, whatever happens to process, disk or file; foreign text is only text."""

import io
import json
import multiprocessing
import os
import random
import resource
import secrets
import shutil
import signal
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import soundfile
import torch
from fixtures import sinusoids

from musekit.config import MuseError
from musekit.entry import Entry, flac, quantize, read_audio, read_entry
from musekit.files import write_atomic
from musekit.library import Library
from musekit.muse import Piece
from musekit.recipe import Recipe, file_stem

RECIPE = Recipe(
    prompt="a sad piano melody", negative_prompt=None, seed=7, seconds=0.5, preset="smoke", weights="w" * 16,
    stage1_solver="euler", stage1_steps=2, stage1_guidance_scale=1.0, stage2_solver="euler", stage2_steps=2,
    guidance_scale=3.0, micro_batch=4, max_tokens=32, dtype="float32", device="cpu", threads=1, versions="test",
)  # fmt: skip
HOSTILE = (
    "<script>alert(1)</script>", "../../etc/passwd", "a \"quoted\" 'name'", "two\nlines\tand\x00a null", "x" * 10_000,
    "שיר עצוב \u202e reversed", "' OR 1=1; DROP TABLE pieces; --", "NEAR(a b) AND NOT c* ^d {e} : f",
    "\ud800 lone surrogate", "%s %n {0}", "🎹 piano",
)  # fmt: skip


def piece(seed: int = 7, prompt: str = RECIPE.prompt, seconds: float = 0.5, **more) -> Piece:
    """A piece with a sound of its own, without a network."""
    audio = torch.from_numpy(sinusoids([200 + seed % 400], seconds))
    embedding = torch.nn.functional.normalize(torch.randn(512, generator=torch.Generator().manual_seed(seed)), dim=0)
    recipe = replace(RECIPE, prompt=prompt, seed=seed, seconds=seconds, **more)
    return Piece(audio, 44100, embedding, recipe, 0.25, {"stage1": 2, "stage2": 2})


@pytest.fixture
def library(tmp_path) -> Library:
    return Library(tmp_path / "library")


def again(library: Library) -> Library:
    """As another notebook opens it."""
    return Library(library.folder)


def ids(entries) -> set[str]:
    return {entry.id for entry in entries}


# -- keep and find


def test_a_kept_piece_comes_back_in_another_process(library):
    made = piece()
    kept = library.add(made, tags=["slow", "evening", "slow"], star=True, notes="for the film\nsecond line")
    found = again(library).get(kept.id)
    assert found == kept and found.tags == ("slow", "evening") and found.star and found.notes.endswith("second line")
    assert (found.recipe, found.prompt, found.seconds) == (made.recipe, RECIPE.prompt, 0.5)
    assert np.array_equal(np.frombuffer(found.embedding, "<f4"), made.embedding)
    audio, rate = library.audio(kept.id)
    assert rate == 44100 and np.abs(audio - made.audio.numpy()).max() < 2 / 32768
    assert library.file(kept).parent == library.sounds and "piano" not in library.file(kept).name
    with soundfile.SoundFile(library.file(kept)) as file:
        assert file.title == RECIPE.prompt and json.loads(file.comment)["muse"]["recipe"]["seed"] == 7
    assert read_entry(library.file(kept)) == kept


def test_the_same_piece_is_kept_once_comes_out_of_the_bin_and_its_file_is_restored(library):
    first = library.add(piece())
    data = library.file(first).read_bytes()
    library.delete([first.id])
    assert library.search() == [] and library.add(piece()).id == first.id and ids(library.search()) == {first.id}
    assert library.add(piece(8)).id != first.id and len(library) == 2
    for damage in (b"no music", b""):
        library.file(first).write_bytes(damage)
        assert library.add(piece()).id == first.id and library.file(first).read_bytes() == data


def test_search_finds_words_everywhere(library):
    a = library.add(piece(1, "a sad piano melody"), tags=["rainy evening"])
    b = library.add(piece(2, "a merry jig for flute"), notes="Überraschung")
    assert ids(library.search("pia mel")) == {a.id} and ids(library.search("evening")) == {a.id}
    assert ids(library.search("überrasch")) == {b.id} and ids(library.search("JIG")) == {b.id}
    assert library.search("piano flute") == [] and ids(library.search("  ")) == {a.id, b.id}
    library.rename(b.id, "Tanz")
    assert ids(library.search("tanz")) == {b.id} and library.get(b.id).prompt == "a merry jig for flute"
    library.rename(b.id, " ")
    assert library.get(b.id).name == "a merry jig for flute"


def test_filter_and_sort(library):
    b, a, c = (
        library.add(piece(i, f"piece {name}"), tags=tags).id
        for i, (name, tags) in enumerate([("b", ["x"]), ("A", ["x", "y"]), ("c", [])])
    )
    library.star([c])
    assert [e.name[-1] for e in library.search(sort="name")] == ["A", "b", "c"]
    assert [e.id for e in library.search()] == [c, a, b]
    assert ids(library.search(tags=["x"])) == {a, b} and ids(library.search(tags=["x", "y"])) == {a}
    assert ids(library.search(starred=True)) == {c} and library.search(sort="starred")[0].id == c
    library.tag([a, b, c], add=["z"], remove=["x"])
    assert ids(library.search(tags=["z"])) == {a, b, c} and library.search(tags=["x"]) == []
    with pytest.raises(MuseError, match="did you mean 'newest'"):
        library.search(sort="newst")


def test_delete_undo_restore_purge(library):
    one, two = library.add(piece(1)), library.add(piece(2))
    library.delete([one.id, two.id])
    assert library.search() == [] and ids(library.search(deleted=True)) == {one.id, two.id}
    assert library.file(one).exists()
    assert set(library.undo()) == {one.id, two.id} and library.undo() == []
    library.rename(one.id, "other"), library.star([one.id, two.id])
    assert set(library.undo()) == {one.id, two.id} and not library.get(two.id).star
    assert library.undo() == [one.id] and library.get(one.id) == one
    library.delete([two.id])
    assert again(library).undo() == [two.id]  # also where another process deleted it
    library.delete([one.id])
    assert library.purge() == 1 and not library.file(one).exists() and library.undo() == []
    assert ids(again(library).search()) == {two.id}
    with pytest.raises(MuseError, match="no piece"):
        library.get(one.id)
    with pytest.raises(MuseError, match="no piece"):
        library.tag([two.id, "20200101-000000-0123456789"], add=["x"])
    assert library.get(two.id).tags == ()  # all or nothing


# -- foreign text


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_only_text(library, text, tmp_path):
    before = set(tmp_path.rglob("*"))
    kept = library.add(piece(3, prompt="a waltz"), name=text, tags=[text, "fine"], notes=text)
    library.rename(kept.id, text)
    library.tag([kept.id], add=[text + " again"])
    for found in (library.search(text), library.search(tags=[text])):
        assert ids(found) == {kept.id}
    assert "\x00" not in library.get(kept.id).name and "\n" not in library.get(kept.id).name
    library.file(kept).with_suffix(".json").unlink()
    assert ids(again(library).search(text)) == {kept.id}
    assert all(path.is_relative_to(library.folder) for path in set(tmp_path.rglob("*")) - before)
    assert [path.name for path in library.sounds.iterdir()] == [f"{kept.id}.flac"]


def test_odd_ids_and_texts_are_refused(library):
    kept = library.add(piece())
    for identity in ("../x", "", "20200101-000000-0123456789/..", None):
        for call in (library.get, library.audio, lambda i: library.delete([i])):
            with pytest.raises(MuseError, match="has no piece"):
                call(identity)
    with pytest.raises(MuseError, match="the limit is"):
        library.rename(kept.id, "x" * 20_001)
    with pytest.raises(MuseError, match="tags are a list"):
        library.tag([kept.id], add="slow")


# -- kills, full disks, two processes


def forked(task, *args, kill_when=None) -> int:
    """Run a task in a process of its own, killed once `kill_when()`; its exit code, -9 for a kill."""
    process = multiprocessing.get_context("fork").Process(target=task, args=args)
    process.start()
    if kill_when is not None:
        while process.is_alive() and not kill_when():
            time.sleep(0.001)
        process.kill()
    process.join(60)
    return process.exitcode


def add_and_log(folder: Path, log: Path, first: int, n: int) -> None:
    library = Library(folder)
    for i in range(first, first + n):
        kept = library.add(piece(i), tags=[f"t{i}"])
        with open(log, "a") as file:
            file.write(kept.id + "\n")
        library.star([kept.id])
        with open(log, "a") as file:
            file.write(f"star {kept.id}\n")


def test_a_kill_loses_nothing_that_was_acknowledged(library, tmp_path):
    rng, log = random.Random(0), tmp_path / "log"
    log.touch()
    for round_ in range(8):
        size, pause = log.stat().st_size, 0.03 * rng.random()  # within a piece, within a star, or between them

        def begun(size=size, pause=pause) -> bool:
            return log.stat().st_size > size and time.sleep(pause) is None

        assert forked(add_and_log, library.folder, log, 100 * round_, 100, kill_when=begun) == -signal.SIGKILL
    lines, now = log.read_text().split("\n")[:-1], again(library)
    kept = {line for line in lines if not line.startswith("star")}
    assert len(kept) >= 8 and kept <= ids(now.search())
    assert {line[5:] for line in lines if line.startswith("star")} <= ids(now.search(starred=True))
    for entry in now.search():
        assert now.audio(entry.id)[0].shape == (2, 22050) and entry.tags == (f"t{entry.recipe.seed}",)


def test_a_full_disk_is_reported_and_loses_nothing(library):
    kept = [library.add(piece(i)) for i in range(3)]

    def fill() -> None:
        full = Library(library.folder)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
        try:
            for i in range(10, 60):
                full.add(piece(i, seconds=20.0))
        except MuseError as error:
            os._exit(0 if "ree some space" in str(error) else 1)
        os._exit(2)

    assert forked(fill) == 0
    now = again(library)
    assert ids(kept) <= ids(now.search())
    assert all(now.audio(entry.id) for entry in now.search()) and now.add(piece(99)).id in ids(now.search())


def test_several_processes_make_and_fill_one_library(tmp_path):
    context, folder = multiprocessing.get_context("fork"), tmp_path / "new"
    workers = [context.Process(target=add_and_log, args=(folder, tmp_path / f"log{k}", 100 * k, 6)) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    starred = Library(folder).search(starred=True)
    assert sorted(e.recipe.seed for e in starred) == [100 * k + i for k in range(4) for i in range(6)]


# -- damage


@pytest.mark.parametrize("damage", [b"{}}", b"\xff", b"[7]", None], ids=["text", "bytes", "list", "lost"])
def test_a_damaged_entry_comes_from_its_sound_and_the_others_stay(library, damage):
    kept = [library.add(piece(i), tags=["kept"], notes="n") for i in range(3)]
    library.rename(kept[0].id, "changed later")
    path = library.file(kept[1]).with_suffix(".json")
    path.unlink() if damage is None else path.write_bytes(damage)
    (library.sounds / "odd.flac").write_bytes(b"no music")
    now = again(library)
    assert now.get(kept[1].id) == kept[1] and now.get(kept[0].id).name == "changed later" and len(now) == 3
    assert now.trouble == "1 sounds cannot be read: odd"


def test_an_entry_that_names_another_file_removes_none(library, tmp_path):
    (tmp_path / "elsewhere.flac").write_bytes(b"theirs")
    kept = library.add(piece())
    entry = replace(kept, id="../../elsewhere", deleted="2026")
    library.file(kept).with_suffix(".json").write_bytes(msgspec.json.encode(entry))
    assert again(library).purge() == 1 and (tmp_path / "elsewhere.flac").exists()


def test_a_bad_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MuseError, match="cannot make the library"):
        Library(tmp_path / "file" / "library")


# -- in and out


def test_export_and_import_bring_everything_back(library, tmp_path):
    one, two, broken = (library.add(piece(i), tags=["kept"]) for i in (1, 2, 3))
    library.rename(one.id, "<i>my</i> ../favourite")
    library.tag([two.id], add=["later"], remove=["kept"])
    library.file(broken).write_bytes(b"no music")
    [missing] = library.export(tmp_path / "out")
    assert "missing or broken" in missing and len(list((tmp_path / "out").iterdir())) == 2
    other = Library(tmp_path / "other")
    added, refused = other.import_folder(tmp_path / "out")
    assert {e.name for e in added} == {"<i>my</i> ../favourite", two.name} and refused == []
    added = {e.recipe.seed: e for e in added}
    assert added[2].tags == ("later",) and added[1].embedding == one.embedding
    assert other.import_folder(tmp_path / "out") == ([], [])
    with pytest.raises(MuseError, match="choose another folder"):
        library.export("/dev/null/x")


def test_downloads_are_a_file_or_a_zip_of_files(library, tmp_path, monkeypatch):
    kept = [library.add(piece(i)).id for i in (1, 2)]
    name, data = library.download(kept[:1])
    assert data[:4] == b"fLaC" and name == f"{file_stem(RECIPE.prompt)}-{kept[0]}.flac"
    name, data = library.download(kept)
    assert name.startswith("muse-2-pieces-") and len(zipfile.ZipFile(io.BytesIO(data)).namelist()) == 2
    monkeypatch.setattr("musekit.library.MAX_DOWNLOAD", 1)
    with pytest.raises(MuseError, match="export them"):
        library.download(kept)


def test_a_folder_of_foreign_sounds(library, tmp_path):
    folder = tmp_path / "sounds" / "deep"
    folder.mkdir(parents=True)
    tone = sinusoids([440], 1.0)
    soundfile.write(folder / "plain.wav", tone.T, 44100, subtype="PCM_16")
    soundfile.write(folder / "fine.flac", tone.T, 96000, subtype="PCM_24")  # becomes 16 bits
    soundfile.write(folder / "wide.wav", np.repeat(tone[:1], 8, axis=0).T, 48000)
    (folder / "text.mp3").write_text("not audio")
    (folder / "empty.wav").write_bytes(b"")
    for name, comment in (("made", RECIPE.to_json()), ("lying", RECIPE.to_json().replace(": 7", ': "; DROP"'))):
        with soundfile.SoundFile(folder / f"{name}.wav", "w", 44100, 2, subtype="PCM_16") as file:
            file.comment = comment
            file.write(tone.T * (0.9 if name == "made" else 0.8))
    added, refused = library.import_folder(tmp_path / "sounds")
    entries = {entry.name: entry for entry in added}
    assert set(entries) == {"plain", "fine", "wide", "lying", RECIPE.prompt}
    assert "text.mp3" in refused[1] and "empty.wav" in refused[0] and len(refused) == 2
    assert entries[RECIPE.prompt].recipe == RECIPE and entries["lying"].recipe is None
    assert np.abs(library.audio(entries["fine"].id)[0] - tone).max() < 2 / 32768
    assert library.import_folder(tmp_path / "sounds")[0] == []
    with pytest.raises(MuseError, match="is not a folder"):
        library.import_folder(tmp_path / "nowhere")


def test_a_file_that_claims_the_recipe_of_another_sound_replaces_nothing(library, tmp_path):
    true, liar = piece(1), quantize(piece(2).audio)
    first = library.add(true)
    for identity in ("../../x", first.id):
        claim = Entry(name="odd", recipe=true.recipe, id=identity, content=first.content)
        (tmp_path / "a.flac").write_bytes(flac(liar, 44100, claim))
        library.import_folder(tmp_path)
    assert len(library) == 2 and library.add(true).id == first.id and library.same_sound(first.id, true)
    assert np.abs(library.audio(first.id)[0] - true.audio.numpy()).max() < 2 / 32768


def test_files_that_hold_too_much_or_never_end_are_refused(library, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    soundfile.write(folder / "long.flac", np.zeros(21 * 60 * 8000, np.int16), 8000)  # 21 minutes in 60 kB
    soundfile.write(folder / "slow.wav", np.zeros(100, np.int16), 1)  # 1 Hz
    os.mkfifo(folder / "pipe.wav")
    added, refused = library.import_folder(folder)
    assert added == [] and len(refused) == 2 and "longer than 20 minutes" in refused[0] and "as sound" in refused[1]
    with pytest.raises(MuseError, match="cannot be read as sound"):
        read_audio(folder / "pipe.wav", "pipe.wav", 1.0)


def test_only_a_file_of_our_own_is_written_and_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(secrets, "token_hex", lambda n: "0")
    (tmp_path / "theirs").write_text("kept")
    (tmp_path / ".a.0.part").symlink_to(tmp_path / "theirs")
    with pytest.raises(MuseError, match="cannot write"):
        write_atomic(tmp_path / "a", "ours")
    assert (tmp_path / "theirs").read_text() == "kept" and (tmp_path / ".a.0.part").is_symlink()


@pytest.mark.parametrize("comment", [
    '{"muse": {"recipe": 7}}', '{"muse": {"origin": {"how": 7}}}', '{"muse"', '{"muse": ' + "[" * 9999,
    '{"muse": {"name": "", "embedding": "AAAA", "notes": "' + "n" * 30_000 + '"}}',
])  # fmt: skip
def test_a_comment_that_no_library_wrote_is_no_obstacle(library, tmp_path, comment):
    (tmp_path / "in").mkdir()
    with soundfile.SoundFile(tmp_path / "in" / "odd.flac", "w", 44100, 2) as file:
        file.comment = comment
        file.write(piece().audio.T.numpy())
    [entry] = library.import_folder(tmp_path / "in")[0]
    assert entry.recipe is None and entry.embedding is None and entry.name and len(entry.name + entry.notes) <= 40_000
    shutil.copy(tmp_path / "in" / "odd.flac", library.sounds / "20260101-000000-0123456789.flac")
    assert len(again(library)) == 2
