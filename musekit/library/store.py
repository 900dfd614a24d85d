"""`Store`: the folder, its database and its files; keeping and finding. `Library` adds the rest."""

from __future__ import annotations

import contextlib
import hashlib
import io
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from musekit import prompts
from musekit.config import MuseError, home, suggest
from musekit.files import write_atomic
from musekit.library import database, journal, repair
from musekit.library.entry import Entry, checked_id, new_id, now, written, written_tags
from musekit.library.vorbis import about, flac

T = TypeVar("T")


def entry_of(piece) -> Entry:
    """What is known of a `sample.Piece` or `take.Take` before it is kept."""
    audio = np.ascontiguousarray(np.asarray(piece.audio, dtype=np.float32))
    origin = getattr(piece, "origin", None)
    return Entry(
        id=new_id(),
        name=piece.recipe.prompt,
        **about(piece.recipe),
        seconds=audio.shape[1] / piece.sample_rate,
        similarity=float(piece.similarity),
        nfe=",".join(f"{stage}={n}" for stage, n in piece.nfe.items()),
        origin=None if origin is None else origin.to_json(),
        embedding=np.asarray(piece.embedding, dtype="<f4").tobytes(),
        samples_sha256=hashlib.sha256(audio.tobytes()).hexdigest(),
    )


def sound_file(piece, kind: str = "flac") -> tuple[str, bytes]:
    """A piece as a file to take away, "flac" or "wav" (16 bit), its recipe inside: a plain name, and its bytes."""
    import soundfile

    entry, audio = entry_of(piece), np.asarray(piece.audio, dtype=np.float32)
    name = f"{prompts.file_stem(entry.prompt)}-{entry.seed}.{kind}"
    if kind == "flac":
        return name, flac(audio, piece.sample_rate, replace(entry, made=now()))
    if kind != "wav":
        raise suggest(kind, ("flac", "wav"), "kind of file")
    data = io.BytesIO()
    with soundfile.SoundFile(data, "w", piece.sample_rate, len(audio), subtype="PCM_16", format="WAV") as file:
        file.comment = entry.recipe
        file.write(np.clip(audio.T, -1, 1))
    return name, data.getvalue()


class Store:
    """The pieces of one folder. `notices` are lines about what was found wrong and mended when it was opened."""

    def __init__(self, folder: str | Path | None = None):
        """Open or make the library of a folder (default: MUSEKIT_HOME/library). Raises MuseError where that fails."""
        self.folder = Path(folder).expanduser() if folder is not None else home() / "library"
        self.sounds, self.path = self.folder / "sounds", self.folder / "library.sqlite"
        self.edits = self.folder / "edits.jsonl"
        self.notices: list[str] = []
        try:
            self.sounds.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            why = error.strerror or error
            raise MuseError(f"cannot make the library {self.folder}: {why}; choose another folder") from error
        self.notices += repair.opened(self)

    def _do(self, task: Callable[[sqlite3.Connection], T], write: bool = False) -> T:
        """Run a task on the database; where that is damaged, build it again and run the task once more."""
        for attempt in (1, 2):
            try:
                with database.connected(self.path, write) as db:
                    return task(db)
            except sqlite3.DatabaseError as error:
                if attempt == 2:
                    raise MuseError(f"the library at {self.folder} is damaged ({error}); run its `check()`") from error
                self.notices += repair.rescue(self, str(error))
        raise AssertionError

    # -- keep

    def add(self, piece, name: str = "", tags: Iterable[str] = (), star: bool = False, notes: str = "") -> Entry:
        """Keep a `sample.Piece` or `take.Take`: its sound as FLAC, and all that makes it again. Returns its entry.

        The very same piece is kept once: adding it again gives the entry that is there, out of the bin if need be.
        Raises MuseError, with nothing half kept, where the disk is full.
        """
        entry = entry_of(piece)
        entry = replace(entry, name=written(name, "name") or entry.name)
        audio = np.ascontiguousarray(np.asarray(piece.audio, dtype=np.float32))
        return self.put(audio, piece.sample_rate, entry, notes, star, tags)

    def put(self, audio: np.ndarray, sample_rate: int, entry: Entry, notes="", star=False, tags=()) -> Entry:
        """Keep audio (channels, N) under what is known of it; `add` and imports end here."""
        entry = replace(
            entry,
            sample_rate=int(sample_rate),
            channels=len(audio),
            notes=written(notes, "note", lines=True),
            star=bool(star),
            tags=written_tags(tags),
            made=entry.made or now(),
            path=self.sounds / f"{checked_id(entry.id)}.flac",
        )
        there = self._same(entry)
        if there is not None:
            if there.deleted:
                self.restore([there.id])
            return self.get(there.id)
        return self.place(flac(audio, sample_rate, entry), entry)

    def place(self, data: bytes, entry: Entry) -> Entry:
        """Write a new file of these bytes, then its line and its row."""
        path = self.sounds / f"{checked_id(entry.id)}.flac"
        entry = replace(entry, sha256=hashlib.sha256(data).hexdigest(), path=path)

        def task(db: sqlite3.Connection) -> None:
            journal.append(self.edits, [journal.added(entry)])
            database.put(db, entry)

        write_atomic(entry.path, data)
        try:
            self._do(task, write=True)
        except MuseError:
            with contextlib.suppress(OSError, MuseError):  # it was not kept, and that is told: nothing of it stays
                entry.path.unlink()
                journal.append(self.edits, [{"ids": [entry.id], "purge": True}])
            raise
        return entry

    def _same(self, entry: Entry) -> Entry | None:
        """The entry of exactly this sound and recipe, if its file is there."""
        if not entry.samples_sha256:
            return None
        query = "SELECT * FROM pieces WHERE samples_sha256 = ? AND recipe IS ?"
        found = self._do(
            lambda db: database.entries(
                db, db.execute(query, (entry.samples_sha256, entry.recipe)).fetchall(), self.sounds
            )
        )
        return next((one for one in found if one.path.exists()), None)

    # -- find

    def search(
        self,
        text: str = "",
        tags: Iterable[str] = (),
        starred: bool = False,
        sort: str = "newest",
        limit: int | None = None,
        offset: int = 0,
        deleted: bool = False,
    ) -> list[Entry]:
        """Entries with all words of `text` (as beginnings of words in name, prompt, tags or notes) and all tags.

        Any text is only words: quotes and operators mean nothing. sort: newest, oldest, name, similarity, longest,
        starred, best. deleted: look in the bin. Raises MuseError for another sort order.
        """
        wanted = written_tags(tags)
        return self._do(
            lambda db: database.search(db, text, wanted, starred, deleted, sort, limit, offset, self.sounds)
        )

    def get(self, identity: str) -> Entry:
        """One entry. Raises MuseError where there is none."""
        entry = self._do(lambda db: database.get(db, checked_id(identity), self.sounds))
        if entry is None:
            raise MuseError(f"the library has no piece {identity}; it was purged, or belongs to another library")
        return entry

    def tags(self) -> dict[str, int]:
        """{tag: how many pieces have it}, the bin left out, the most used first."""
        query = (
            "SELECT tag, count(*) AS n FROM tags JOIN pieces ON id = piece WHERE deleted IS NULL "
            "GROUP BY tag ORDER BY n DESC, tag"
        )
        return self._do(lambda db: {row["tag"]: row["n"] for row in db.execute(query)})

    def __len__(self) -> int:
        return self._do(lambda db: db.execute("SELECT count(*) FROM pieces WHERE deleted IS NULL").fetchone()[0])

    def audio(self, identity: str) -> tuple[np.ndarray, int]:
        """The kept sound (channels, N) float32 and its rate in Hz. Raises MuseError where that is gone."""
        import soundfile

        entry = self.get(identity)
        try:
            x, rate = soundfile.read(entry.path, dtype="float32", always_2d=True)
        except (OSError, RuntimeError) as error:
            cure = "make it again with `mend`" if entry.recipe else "bring the file back"
            raise MuseError(f"the sound of {identity} is missing or broken ({entry.path}); {cure}") from error
        return x.T, rate
