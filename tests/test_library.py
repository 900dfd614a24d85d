"""The library: what is kept stays, whatever happens to process, disk or file; what strangers wrote is only text."""

import contextlib
import csv
import io
import json
import multiprocessing
import os
import random
import resource
import signal
import sqlite3
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from fixtures import sinusoids

from musekit.config import MuseError
from musekit.library import Library, metadata
from musekit.muse import Muse, Piece
from musekit.recipe import Recipe, Settings

RECIPE = Recipe(
    prompt="a sad piano melody", negative_prompt=None, seed=7, seconds=0.5, preset="smoke", weights="w" * 16,
    stage1_solver="euler", stage1_steps=2, stage1_guidance_scale=1.0, stage2_solver="euler", stage2_steps=2,
    guidance_scale=3.0, micro_batch=4, max_tokens=32, dtype="float32", device="cpu", threads=1, versions="test",
)  # fmt: skip
SHORT = Settings(seconds=0.5, steps=2, stage1_steps=2, micro_batch=4)
HOSTILE = (
    "<script>alert(1)</script>", "../../etc/passwd", "a \"quoted\" 'name'", "two\nlines\tand\x00a null", "x" * 10_000,
    "שיר עצוב \u202e reversed", "' OR 1=1; DROP TABLE pieces; --", "NEAR(a b) AND NOT c* ^d {e} : f",
    "=cmd|'/c calc'!A1", "\ud800 lone surrogate", "%s %n {0}", "🎹 piano",
)  # fmt: skip


def piece(seed: int = 7, prompt: str = RECIPE.prompt, seconds: float = 0.5, **more) -> Piece:
    """A piece of its own sound, without a network."""
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


def test_what_is_kept_comes_back_in_another_process(library):
    made = piece()
    kept = library.add(made, tags=["slow", "evening", "slow"], star=True, notes="for the film\nsecond line")
    found = again(library).get(kept.id)
    assert found == kept and found.tags == ("slow", "evening") and found.star and found.notes.endswith("second line")
    assert (found.prompt, found.seed, found.preset, found.seconds) == (RECIPE.prompt, 7, "smoke", 0.5)
    assert again(library).recipe(kept.id) == made.recipe
    assert torch.equal(again(library).embedding(kept.id), made.embedding)
    audio, rate = library.audio(kept.id)
    assert rate == 44100 and np.abs(audio - made.audio.numpy()).max() < 2 / 32768
    assert kept.path.parent == library.sounds and RECIPE.prompt.split()[1] not in kept.path.name
    assert len(library) == 1 and library.check() == []
    with sqlite3.connect(library.path) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_file_alone_tells_how_to_make_it_again(library):
    kept = library.add(piece(negative_prompt="drums"), tags=["a", "b"])
    said = metadata.read_comments(metadata.read_blocks(kept.path.read_bytes())[0][1][1])[1]
    assert [text for name, text in said if name == "KEYWORDS"] == ["a", "b"]
    said = dict(said)
    assert Recipe.from_json(said["MUSE_RECIPE"]) == piece(negative_prompt="drums").recipe
    assert (said["PROMPT"], said["SEED"], said["NEGATIVE_PROMPT"]) == (RECIPE.prompt, "7", "drums")
    assert json.loads(said["SETTINGS"])["stage2_steps"] == 2


def test_the_same_piece_is_kept_once_and_comes_out_of_the_bin(library):
    first = library.add(piece())
    library.delete([first.id])
    assert library.search() == []
    assert library.add(piece()).id == first.id and ids(library.search()) == {first.id}
    assert library.add(piece(8)).id != first.id and len(library) == 2


def test_search_finds_beginnings_of_words_in_all_that_was_written(library):
    a = library.add(piece(1, "a sad piano melody"), tags=["rainy evening"])
    b = library.add(piece(2, "a merry jig for flute"), notes="Überraschung")
    assert ids(library.search("pia mel")) == {a.id} and ids(library.search("evening")) == {a.id}
    assert ids(library.search("uberrasch")) == {b.id} and ids(library.search("JIG")) == {b.id}
    assert library.search("piano flute") == [] and ids(library.search("  ")) == {a.id, b.id}
    library.rename(b.id, "Tanz")
    assert ids(library.search("tanz")) == {b.id} and library.get(b.id).prompt == "a merry jig for flute"
    assert ids(library.search("a", sort="best")) == {a.id, b.id}


def test_filter_and_sort(library):
    entries = [library.add(piece(i, f"piece {name}"), tags=tags) for i, (name, tags) in enumerate(
        [("b", ["x"]), ("A", ["x", "y"]), ("c", [])]
    )]  # fmt: skip
    b, a, c = (entry.id for entry in entries)
    library.star([c])
    assert [e.name[-1] for e in library.search(sort="name")] == ["A", "b", "c"]
    assert ids(library.search(tags=["x"])) == {a, b} and ids(library.search(tags=["x", "y"])) == {a}
    assert ids(library.search(starred=True)) == {c} and library.search(sort="starred")[0].id == c
    assert library.tags() == {"x": 2, "y": 1}
    library.tag([a, b, c], add=["z"], remove=["x"])
    assert library.tags() == {"z": 3, "y": 1}
    assert len(library.search(limit=2)) == 2 and len(library.search(limit=2, offset=2)) == 1
    with pytest.raises(MuseError, match="did you mean 'newest'"):
        library.search(sort="newst")


# -- delete, undo, purge


def test_delete_undo_restore_purge(library):
    one, two = library.add(piece(1)), library.add(piece(2))
    library.delete([one.id, two.id])
    assert library.search() == [] and ids(library.bin()) == {one.id, two.id} and one.path.exists()
    assert set(library.undo()) == {one.id, two.id} and library.undo() == []
    library.delete([one.id])
    with pytest.raises(MuseError, match="not in the bin"):
        library.purge([two.id])
    assert library.purge() == 1 and not one.path.exists() and library.undo() == []
    assert ids(again(library).search()) == {two.id} and library.check() == []
    with pytest.raises(MuseError, match="no piece"):
        library.get(one.id)


def test_a_bulk_change_is_all_or_nothing(library):
    one = library.add(piece(1))
    with pytest.raises(MuseError, match="nothing was changed"):
        library.tag([one.id, "20200101-000000-0123456789"], add=["x"])
    assert library.get(one.id).tags == ()


# -- hostile text


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_only_text(library, text, tmp_path):
    before = {p for p in tmp_path.rglob("*")}
    kept = library.add(piece(3, prompt="a waltz"), name=text, tags=[text, "fine"], notes=text)
    library.rename(kept.id, text)
    library.tag([kept.id], add=[text + " again"])
    for found in (library.search(text), library.search(f'"{text}'), library.search(text, sort="best")):
        assert ids(found) == {kept.id}
    assert ids(library.search(tags=[text])) == {kept.id} and ids(library.search("fine")) == {kept.id}
    assert "\x00" not in library.get(kept.id).name and "\n" not in library.get(kept.id).name
    Library(library.folder)
    os.unlink(library.path)
    rebuilt = Library(library.folder)
    assert rebuilt.get(kept.id) == library.get(kept.id) and rebuilt.check() == []
    new = {p for p in tmp_path.rglob("*")} - before
    assert all(p.is_relative_to(library.folder) for p in new)
    assert {p.name for p in library.sounds.iterdir()} == {f"{kept.id}.flac"}


@pytest.mark.parametrize(
    "query", ['"', "*", "AND", "a AND", "NOT", "(", "name:", "^", "-", "''", "\0", "a\0b", "½", "́"]
)
def test_no_query_raises(library, query):
    library.add(piece())
    library.search(query)
    library.search(query, tags=[query], sort="best")


@pytest.mark.parametrize("identity", ["../x", "", "a/b", "20200101-000000-0123456789/..", None, 7, "x" * 9999])
def test_an_id_is_no_path(library, identity):
    for call in (
        library.get,
        library.audio,
        library.recipe,
        lambda i: library.delete([i]),
        lambda i: library.star([i]),
    ):
        with pytest.raises(MuseError, match="no piece of the library"):
            call(identity)


def test_texts_that_cannot_be_are_told(library):
    kept = library.add(piece())
    with pytest.raises(MuseError, match="characters; keep it below"):
        library.rename(kept.id, "x" * 20_001)
    with pytest.raises(MuseError, match="as a list"):
        library.tag([kept.id], add="slow")
    with pytest.raises(MuseError, match="must be text"):
        library.note(kept.id, 7)


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


def add_and_tell(folder: Path, told: Path, first: int, n: int) -> None:
    library = Library(folder)
    for i in range(first, first + n):
        kept = library.add(piece(i), tags=[f"t{i}"])
        with open(told, "a") as file:
            file.write(kept.id + "\n")
        library.star([kept.id])
        with open(told, "a") as file:
            file.write(f"star {kept.id}\n")


def test_a_kill_at_any_moment_loses_nothing_that_was_told(library, tmp_path):
    rng, told = random.Random(0), tmp_path / "told"
    told.touch()
    for round_ in range(10):
        size, pause = told.stat().st_size, 0.03 * rng.random()  # within the save of a piece, or a star, or between them

        def begun(size=size, pause=pause) -> bool:
            return told.stat().st_size > size and time.sleep(pause) is None

        assert forked(add_and_tell, library.folder, told, 100 * round_, 100, kill_when=begun) == -signal.SIGKILL
    lines = told.read_text().split("\n")[:-1]
    now = again(library)
    kept = {line for line in lines if not line.startswith("star")}
    assert len(kept) >= 10 and kept <= ids(now.search())
    assert {line[5:] for line in lines if line.startswith("star")} <= ids(now.search(starred=True))
    assert {p.kind for p in now.check()} <= {"unfinished"}
    for entry in now.search():
        assert now.audio(entry.id)[0].shape == (2, 22050) and entry.tags == (f"t{entry.seed}",)


@pytest.mark.parametrize(
    "place", ["musekit.runs.os.replace", "musekit.library.journal.append", "musekit.library.database.put"]
)
def test_a_kill_within_a_save_leaves_it_whole_or_not_at_all(library, monkeypatch, place):
    first = library.add(piece(1))

    def save() -> None:
        target = Library(library.folder)
        monkeypatch.setattr(place, lambda *args: os.kill(os.getpid(), signal.SIGKILL))
        target.add(piece(2), tags=["t"])

    assert forked(save) == -signal.SIGKILL
    now = again(library)
    rest = [entry for entry in now.search() if entry.id != first.id]
    if place.endswith("replace"):
        assert rest == [] and [p.kind for p in now.check()] == ["unfinished"]
    else:
        assert [(e.seed, e.tags) for e in rest] == [(2, ("t",))] and now.check() == []
    assert now.get(first.id) == first


@pytest.mark.parametrize("limit", [2_000, 20_000, 60_000])
def test_a_full_disk_is_told_and_loses_nothing(library, tmp_path, limit):
    kept = [library.add(piece(i)) for i in range(3)]

    def fill() -> None:
        full = Library(library.folder)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            for i in range(10, 60):
                full.add(piece(i, seconds=1.0))
        except MuseError as error:
            (tmp_path / "told").touch() if "space" in str(error) else None
            with contextlib.suppress(MuseError):
                full.tag([kept[0].id], add=["never"])
                os._exit(3)
            os._exit(0)
        os._exit(1)

    assert forked(fill) in (0, 3) and (tmp_path / "told").exists()
    now = again(library)
    assert ids(kept) <= ids(now.search())
    assert [p for p in now.check() if p.kind != "unfinished"] == []
    assert now.add(piece(99)).id in ids(now.search())


def test_two_processes_at_once(library, tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=add_and_tell, args=(library.folder, tmp_path / f"told{k}", 100 * k, 12))
        for k in (0, 1, 2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert sorted(e.seed for e in library.search(starred=True)) == [100 * k + i for k in (0, 1, 2) for i in range(12)]
    assert library.check() == []


def test_processes_that_open_a_new_folder_together_make_one_library(tmp_path):
    context, folder = multiprocessing.get_context("fork"), tmp_path / "new"
    workers = [context.Process(target=add_and_tell, args=(folder, tmp_path / f"t{k}", k, 1)) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert len(Library(folder)) == 4 and Library(folder).check() == []


# -- damage


def fill(library: Library) -> dict:
    """Three pieces with a history; {id: entry}."""
    one, two, three = (library.add(piece(i), tags=["kept"]) for i in (1, 2, 3))
    library.rename(one.id, "my favourite")
    library.tag([two.id], add=["later"], remove=["kept"])
    library.delete([three.id])
    return {e.id: e for e in library.search() + library.bin()}


DAMAGE = {
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"this is no database " * 500),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "header": lambda path: path.write_bytes(b"\0" * 200 + path.read_bytes()[200:]),
    "middle": lambda path: path.write_bytes(path.read_bytes()[:4096] + os.urandom(len(path.read_bytes()) - 4096)),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_database_is_built_again_with_every_edit(library, name):
    before = fill(library)
    DAMAGE[name](library.path)
    now = again(library)
    now.repair()
    assert {e.id: e for e in now.search() + now.bin()} == before
    assert now.check() == [] and any("rebuilt with 3 pieces" in notice for notice in now.notices + [str(now.notices)])
    if name not in ("gone",):
        assert list(library.folder.glob("library.damaged-*.sqlite"))


def test_damage_under_an_open_library_is_mended_on_the_way(library):
    before = fill(library)
    library.path.write_bytes(b"garbage" * 3000)
    assert {e.id: e for e in library.search() + library.bin()} == before
    assert "rebuilt" in library.notices[-1]


def test_without_database_and_journal_the_files_tell(library):
    library.add(piece(1), tags=["a"], star=True, notes="n")
    kept = library.search()
    library.path.unlink()
    library.edits.unlink()
    assert again(library).search() == kept


def test_a_journal_with_nonsense_is_read_as_far_as_it_makes_sense(library):
    before = fill(library)
    library.path.unlink()
    with open(library.edits, "ab") as file:
        file.write(
            b'\xff\xfe\n{"ids": 7}\n{"add": {"id": "../../x"}}\n[1]\n{"add": 3}\n{"ids": ["x"], "set": 1}\n{"cut'
        )
    now = again(library)
    assert {e.id: e for e in now.search() + now.bin()} == before
    now.add(piece(50))
    now.path.unlink()
    assert len(again(library).search()) == 3  # the line after the cut one is whole


def test_deleted_altered_and_strange_files_are_told(library, tmp_path):
    a, b, c = (library.add(piece(i)) for i in (1, 2, 3))
    a.path.unlink()
    data = bytearray(b.path.read_bytes())
    data[-100] ^= 1
    b.path.write_bytes(data)
    (library.sounds / "evil.flac").symlink_to("/etc/passwd")
    (library.sounds / "notes.txt").write_text("hello")
    found = {p.kind: p for p in library.check()}
    assert (found["missing"].what, found["altered"].what) == (a.id, b.id) and "mend" in found["missing"].text
    assert found["stray"] and c.id not in {p.what for p in library.check()}
    with pytest.raises(MuseError, match="missing or broken.*mend"):
        library.audio(a.id)
    assert ids(again(library).search()) == {a.id, b.id, c.id}  # its recipe is not lost with its sound


def test_a_newer_library_is_left_alone(library):
    with sqlite3.connect(library.path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(MuseError, match="newer musekit"):
        again(library)


def test_a_place_that_cannot_be_a_library_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MuseError, match="cannot make the library"):
        Library(tmp_path / "file" / "library")


# -- in and out


def test_export_and_import_bring_everything_back(library, tmp_path):
    before = fill(library)
    path = library.export(tmp_path / "out")
    rows = list(csv.DictReader(io.StringIO(zipfile.ZipFile(path).read("library.csv").decode())))
    assert {row["id"] for row in rows} == ids(library.search()) and {r["name"] for r in rows} >= {"my favourite"}
    zipfile.ZipFile(path).extractall(tmp_path / "unpacked")
    other = Library(tmp_path / "other")
    done = other.import_folder(tmp_path / "unpacked", tags=["from afar"])
    assert len(done.added) == 2 and done.refused == []
    for entry in done.added:
        assert entry.tags == (*before[entry.id].tags, "from afar") and entry.recipe == before[entry.id].recipe
        assert (entry.name, entry.seed) == (before[entry.id].name, before[entry.id].seed)
    assert other.check() == [] and len(other.import_folder(tmp_path / "unpacked").present) == 2


def test_one_broken_sound_stops_no_export(library, tmp_path):
    broken, whole = library.add(piece(1)), library.add(piece(2))
    broken.path.write_bytes(b"no music")
    path = library.export(tmp_path / "out")
    assert [whole.id in name for name in zipfile.ZipFile(path).namelist()] == [True, False]  # the other is the CSV
    assert broken.id in library.notices[-1] and "missing or broken" in library.notices[-1]
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".part")] == []
    for place in ("/", "~nobody-of-that-name/x", "a\0b"):
        with pytest.raises(MuseError):
            library.export(place)
        with pytest.raises(MuseError):
            library.import_folder(place if place != "/" else "~nobody-of-that-name/x")


def test_a_spreadsheet_gets_no_formulas_and_zip_names_are_plain(library, tmp_path):
    library.add(piece(1), name="=1+1", tags=["@x"], notes="-2")
    file = zipfile.ZipFile(library.export(tmp_path / "a.zip"))
    [row] = csv.DictReader(io.StringIO(file.read("library.csv").decode()))
    assert (row["name"], row["notes"], row["tags"]) == ("'=1+1", "'-2", "'@x")
    assert all(".." not in name and name.isascii() for name in file.namelist())


def test_folders_of_foreign_sounds(library, tmp_path):
    folder = tmp_path / "sounds" / "deep"
    folder.mkdir(parents=True)
    tone = sinusoids([440], 1.0)
    soundfile.write(folder / "plain.wav", tone.T, 44100, subtype="PCM_16")
    soundfile.write(folder / "fine.flac", tone.T, 96000, subtype="PCM_24")
    soundfile.write(folder / "wide.wav", np.repeat(tone[:1], 8, axis=0).T, 48000)
    (folder / "text.mp3").write_text("not audio")
    (folder / "empty.wav").write_bytes(b"")
    soundfile.write(folder / "silent.wav", np.zeros(44100), 44100)
    with soundfile.SoundFile(folder / "made.wav", "w", 44100, 2, subtype="PCM_16") as file:
        file.comment = RECIPE.to_json()
        file.write(tone.T)
    (folder / "made.json").write_text('{"similarity": 0.5}')
    with soundfile.SoundFile(folder / "lying.wav", "w", 44100, 2) as file:
        file.comment = RECIPE.to_json().replace('"seed": 7', '"seed": "; DROP"')
        file.write(tone.T)
    soundfile.write(folder / "shrill.wav", np.tile(tone, 16).T, 768_000)
    done = library.import_folder(tmp_path / "sounds")
    entries = {entry.name: entry for entry in done.added}
    assert set(entries) == {"plain", "fine", "wide", "lying", RECIPE.prompt}
    assert {name for name, _ in done.refused} == {
        "text.mp3",
        "empty.wav",
        "silent.wav",
        "shrill.wav",
    }  # 768 kHz is no FLAC
    made = entries[RECIPE.prompt]
    assert (library.recipe(made.id), made.similarity) == (RECIPE, 0.5)
    assert entries["lying"].recipe is None and (entries["wide"].channels, entries["fine"].sample_rate) == (1, 96000)
    with pytest.raises(MuseError, match="no recipe"):
        library.recipe(entries["plain"].id)
    back = soundfile.read(entries["fine"].path, dtype="int32")[0]
    assert (back == soundfile.read(folder / "fine.flac", dtype="int32")[0]).all()  # 24 bits, every one
    assert sorted(library.import_folder(tmp_path / "sounds").present) == sorted(
        ["plain.wav", "fine.flac", "wide.wav", "made.wav", "lying.wav"]
    )
    with pytest.raises(MuseError, match="is no folder"):
        library.import_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("name, value", [
    ("MUSE_RECIPE", json.dumps(replace(RECIPE, prompt="half a \ud800 character").__dict__)),
    ("MUSE_ORIGIN", '{"how": "x", "noise": [[1e999, 0]]}'),
])  # fmt: skip
def test_comments_that_no_library_wrote_stop_neither_import_nor_opening(library, tmp_path, name, value):
    data = library.add(piece()).path.read_bytes()
    blocks, frames = metadata.read_blocks(data)
    vendor, said = metadata.read_comments(blocks[1][1])
    said = [(key, text) for key, text in said if key != name] + [(name, value)]
    blocks[1] = (metadata.COMMENTS, metadata.write_comments(vendor, said))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "odd.flac").write_bytes(metadata.write_blocks(blocks, frames))
    other = Library(tmp_path / "other")
    done = other.import_folder(tmp_path / "in")
    assert len(done.added) == 1 and done.refused == []
    (other.sounds / "20260101-000000-0123456789.flac").write_bytes(metadata.write_blocks(blocks, frames))
    assert "taken in" in again(other).notices[0] and len(other) == 2


# -- the same bits


@pytest.fixture(scope="module")
def muse(smoke_weights) -> Muse:
    return Muse.from_pretrained(smoke_weights)


def test_a_piece_of_a_batch_is_made_again_to_the_bit(library, muse):
    pieces = list(muse.stream([muse.recipe("a calm organ", seed, SHORT, "drums") for seed in range(4)]))
    kept = [library.add(p) for p in pieces]
    back = library.again(kept[2].id, muse)
    assert torch.equal(back.audio, pieces[2].audio) and torch.equal(back.embedding, pieces[2].embedding)
    assert library.same_bits(kept[2].id, back) and not library.same_bits(kept[1].id, back)
    kept[1].path.unlink()
    mended = library.mend(kept[1].id, muse)
    assert mended.sha256 == kept[1].sha256 and library.check() == []  # the very bytes


def test_a_take_between_two_seeds_is_made_again_to_the_bit(library, muse):
    from musekit.explore.take import Origin, takes

    embeddings = muse.embed("a waltz", 4, **vars(SHORT))
    recipes = [muse.recipe("a waltz", 5, SHORT)] * 4
    origins = [Origin("between", noise=((9, p / 3),)) for p in range(4)]
    made = list(takes(muse, embeddings, recipes, origins))
    kept = [library.add(take) for take in made]
    assert not torch.equal(made[0].audio, made[1].audio)
    for take, entry in zip(made, kept, strict=True):
        assert torch.equal(library.again(entry.id, muse).audio, take.audio)


def test_other_weights_are_told(library, muse):
    kept = library.add(piece())
    with pytest.raises(MuseError, match="load the weights that made it"):
        library.again(kept.id, muse)
