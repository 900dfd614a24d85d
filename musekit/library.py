"""The library of kept pieces: keep, find, tag, star, delete and undo, export and import.

library/library.sqlite    the entries: what is kept, its names, tags, stars and notes, each with a checksum
library/sounds/<id>.flac  the sounds; a file alone is enough to render its piece again

library = Library()                       # the folder MUSEKIT_HOME/library
entry = library.add(piece, tags=["slow"])
library.search("sad piano", tags=["slow"], sort="similarity")

Several processes may use one folder.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import filelock
import msgspec
import numpy as np

from musekit.config import MuseError, home, suggest
from musekit.entry import OLD_FORMAT, Entry, clean_tags, clean_text, entry_of, fingerprint, flac, measured, quantize

from musekit.entry import read_audio, read_entry, read_samples  # isort: skip
from musekit.files import decode, write_atomic
from musekit.generate import notice
from musekit.recipe import file_stem

VERSION = 3  # of the database; version 2 had no checksums
LOCK_SECONDS = 30.0  # to wait for another process's write
OUTSIDE = (  # errors of the disk or of another process, and not of the database
    sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL,
)  # fmt: skip
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff")  # of sounds in an imported folder
SORTS: dict[str, Callable[[Entry], object]] = {  # the smallest first; equal ones newest first
    "newest": lambda e: 0,
    "name": lambda e: e.name.casefold(),
    "similarity": lambda e: 2.0 if e.similarity is None else -e.similarity,
    "starred": lambda e: not e.star,
}


def now() -> str:
    """UTC, to the microsecond, so that the latest piece sorts first."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Library:
    """The pieces of one folder. Methods take the ids of entries that `search` returns.

    Adding writes the sound first and then commits its entry; purging commits first and then removes the file. A process
    that is killed between the two leaves a file without an entry, which `import_folder` can add.
    """

    def __init__(self, folder: str | Path | None = None):
        """Open or make the library of a folder (default: MUSEKIT_HOME/library).

        A missing or damaged database is built again: what is whole in it stays, and the other pieces come from their
        sound files, with names, tags and notes as they were when they were kept. `trouble` says so, and what could not
        be read. Raises MuseError where it is of another version, or cannot be made.
        """
        self.folder = Path(folder).expanduser() if folder is not None else home() / "library"
        self.sounds, self.path, self.trouble = self.folder / "sounds", self.folder / "library.sqlite", ""
        try:
            self.sounds.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(self.folder / ".lock"), self._errors():  # one process builds
                self._open()
        except (OSError, NotImplementedError) as error:  # no locks on this file system
            why = getattr(error, "strerror", None) or error
            raise MuseError(
                f"cannot make the library {self.folder}: {why}; choose another folder (MUSEKIT_HOME)"
            ) from error
        if self.trouble:
            notice(self.trouble)

    def _open(self) -> None:
        """Check the database, and build it where that is needed."""
        if not self.path.exists():
            return self._build({}, False)
        whole, version, checks = {}, 0, []
        with contextlib.closing(self._connect()) as db:

            def structure() -> bool:
                nonlocal version
                version = db.execute("PRAGMA user_version").fetchone()[0]
                return db.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"

            def content() -> bool:
                for identity, entry in rows(db):
                    whole[identity] = entry
                return None not in whole.values()

            def header() -> bool:  # a flipped bit makes it read-only, which only a write shows
                for line in ("BEGIN IMMEDIATE", f"PRAGMA user_version = {version}", "ROLLBACK"):
                    db.execute(line)
                return True

            for check in (structure, content, header):
                try:
                    checks.append(check())
                except sqlite3.DatabaseError as error:
                    if self._is_outside(error):
                        raise
                    checks.append(False)
        whole = {identity: entry for identity, entry in whole.items() if entry is not None}
        if checks[0] and not whole and version == 1:
            raise MuseError(f"{self.path} is of an older musekit; {OLD_FORMAT}")
        if checks[0] and not whole and version > VERSION:
            raise MuseError(f"{self.path} was written by a newer musekit (version {version}); update musekit")
        if not all(checks) or version != VERSION:
            self._build(whole, not all(checks))

    def _build(self, whole: dict[str, Entry], damaged: bool) -> None:
        """Write a database of these entries and of those in the sound files that have none; a damaged one stays."""
        paths = [path for path in sorted(self.sounds.glob("*.flac")) if path.stem not in whole]
        found, unread = {}, []
        for path in paths:
            try:
                found[path.stem] = measured(replace(read_entry(path), id=path.stem), *read_samples(path))
            except MuseError:
                unread.append(path.name)
        fresh = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}.part")
        fresh.touch(exist_ok=False)
        try:
            with contextlib.closing(sqlite3.connect(fresh)) as db, db:
                db.execute("CREATE TABLE pieces (id TEXT PRIMARY KEY, entry TEXT, sum TEXT) WITHOUT ROWID")
                db.execute(f"PRAGMA user_version = {VERSION}")
                for entry in (*whole.values(), *found.values()):
                    put(db, entry)
            aside = self.path.with_name(f"damaged-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S-%f}.sqlite")
            if damaged:
                shutil.copy2(self.path, aside)
            for rest in ("-journal", "-wal"):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(f"{self.path}{rest}", f"{aside}{rest}")
            os.replace(fresh, self.path)
        finally:
            fresh.unlink(missing_ok=True)
        if damaged or paths:
            why = f"was damaged ({aside.name} is what it was)" if damaged else "was old" if whole else "was missing"
            self.trouble = (
                f"the library's database {why} and is built again: {len(whole)} pieces from itself, {len(found)} from"
                " their files, with names, tags and notes as they were when they were kept"
            ) + (f"; {len(unread)} cannot be read: {', '.join(unread[:3])}" if unread else "")

    def file(self, entry: Entry) -> Path:
        """The FLAC file of an entry."""
        return self.sounds / f"{entry.id}.flac"

    # -- the database

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=LOCK_SECONDS, isolation_level=None)

    def _is_outside(self, error: sqlite3.Error) -> bool:
        """Whether the disk or another process is the reason, and not the database."""
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        return code in OUTSIDE and not (code == sqlite3.SQLITE_READONLY and os.access(self.path, os.W_OK))

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """SQLite's errors as MuseError."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if self._is_outside(error):
                raise MuseError(
                    f"the library at {self.folder} cannot be used: {error}. Pieces kept before are safe. Free some"
                    " space, set MUSEKIT_HOME to a local disk, or open the library again"
                ) from error
            raise MuseError(
                f"{self.path} is damaged ({error}); open the library again, which builds it anew"
            ) from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A connection for one transaction, committed at the end or rolled back."""
        with self._errors(), contextlib.closing(self._connect()) as db:
            db.execute("PRAGMA synchronous = FULL")  # a committed change survives a power cut
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")

    def _all(self, db: sqlite3.Connection | None = None) -> dict[str, Entry]:
        """{id: entry} of all pieces, those in the bin too; within a transaction, if one is given."""
        if db is None:
            with self.transaction() as db:
                return self._all(db)
        entries = dict(rows(db))
        if None in entries.values():
            raise sqlite3.DatabaseError("an entry does not have its checksum")
        return entries

    # -- keep

    def add(self, piece, name: str = "", tags: Iterable[str] = (), star: bool = False, notes: str = "") -> Entry:
        """Keep a `muse.Piece` or a `lab.rendering.RenderedPiece`. Returns its entry.

        The same sound of the same recipe is kept once: adding it again returns the entry that is there, out of the bin,
        with these tags too and with its file written again. Raises MuseError where the disk is full.
        """
        entry = entry_of(piece)
        entry = replace(entry, name=clean_text(name or entry.name), tags=clean_tags(tags), star=star,
                        notes=clean_text(notes, lines=True))  # fmt: skip
        return self._keep(quantize(piece.audio), piece.sample_rate, entry)[0]

    def _keep(self, audio: np.ndarray, sample_rate: int, entry: Entry) -> tuple[Entry, bool]:
        """The entry of int16 samples (channels, N), and whether it is new: a piece is its samples and its recipe."""
        identity = f"{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(5)}"  # no text from a user
        entry = measured(replace(entry, id=identity, made=entry.made or now(), deleted=None), audio, sample_rate)
        with self.transaction() as db:
            there = self._all(db).values()
            same = [e for e in there if e.content == entry.content and entry.recipe in (None, e.recipe)]
            if same:
                entry = replace(same[0], deleted=None, tags=clean_tags([*same[0].tags, *entry.tags]))
            write_atomic(self.file(entry), flac(audio, sample_rate, entry))
            put(db, entry)
        return entry, not same

    # -- find

    def search(self, text: str = "", tags: Iterable[str] = (), starred: bool = False, sort: str = "newest",
               deleted: bool = False) -> list[Entry]:  # fmt: skip
        """Entries whose name, prompt, tags or notes contain each word of `text`, and that have all tags.

        sort: one of `SORTS`. deleted: search the bin. Raises MuseError for an unknown sort order.
        """
        if sort not in SORTS:
            raise suggest(sort, SORTS, "sort order")
        words, tags = clean_text(text).casefold().split(), set(clean_tags(tags))
        found = [
            entry
            for entry in self._all().values()
            if bool(entry.deleted) is deleted
            and (entry.star or not starred)
            and tags <= set(entry.tags)
            and all(word in text_of(entry) for word in words)
        ]
        return sorted(sorted(found, key=lambda e: (e.made, e.id), reverse=True), key=SORTS[sort])

    def get(self, identity: str) -> Entry:
        """One entry. Raises MuseError where there is none."""
        return found(self._all(), identity)

    def __len__(self) -> int:
        return len(self.search())

    def audio(self, identity: str) -> tuple[np.ndarray, int]:
        """The sound (channels, N) float32 and its rate in Hz. Raises MuseError where the file is gone or broken."""
        path = self.file(self.get(identity))
        return read_audio(path, path.name)

    def same_sound(self, identity: str, piece) -> bool:
        """Whether a piece has exactly the samples of an entry."""
        return self.get(identity).content == fingerprint(quantize(piece.audio), piece.sample_rate)

    # -- change

    def _change(self, ids: Iterable[str], change: Callable[[Entry], Entry]) -> None:
        """Change several entries, all of them or none."""
        with self.transaction() as db:
            there = self._all(db)
            for entry in [change(found(there, identity)) for identity in ids]:
                put(db, entry)

    def tag(self, ids: Iterable[str], add: Iterable[str] = (), remove: Iterable[str] = ()) -> None:
        """Add tags to pieces and remove tags from them."""
        new, gone = clean_tags(add), clean_tags(remove)
        self._change(ids, lambda e: replace(e, tags=clean_tags(t for t in (*e.tags, *new) if t not in gone)))

    def star(self, ids: Iterable[str], on: bool = True) -> None:
        """Star pieces, or remove their stars."""
        self._change(ids, lambda e: replace(e, star=on))

    def rename(self, identity: str, name: str) -> None:
        """Rename a piece; "" brings its prompt back."""
        text = clean_text(name)
        self._change([identity], lambda e: replace(e, name=text or e.prompt or e.id))

    def note(self, identity: str, text: str) -> None:
        """Write a note to a piece; search reads it too."""
        notes = clean_text(text, lines=True)
        self._change([identity], lambda e: replace(e, notes=notes))

    def delete(self, ids: Iterable[str]) -> None:
        """Put pieces into the bin. `undo` brings the last ones back."""
        time = now()
        self._change(ids, lambda e: replace(e, deleted=time))

    def undo(self) -> list[str]:
        """Bring back the pieces of the last `delete`; returns their ids, [] where the bin is empty."""
        there = self.search(deleted=True)
        back = [e.id for e in there if e.deleted == max(e.deleted for e in there)]
        self._change(back, lambda e: replace(e, deleted=None))
        return back

    def purge(self) -> int:
        """Remove all pieces in the bin for ever, with their files; returns how many."""
        with self.transaction() as db:
            gone = [entry for entry in self._all(db).values() if entry.deleted]
            db.executemany("DELETE FROM pieces WHERE id = ?", [(entry.id,) for entry in gone])
        for entry in gone:  # only after the commit
            with contextlib.suppress(OSError):
                self.file(entry).unlink()
        return len(gone)

    # -- export and import

    def export(self, folder: str | Path, ids: Iterable[str] | None = None) -> list[str]:
        """Write pieces (None: all but the bin) into a folder, as FLAC files with their present names, tags and notes.

        Returns one line per piece whose sound is missing or broken. Raises MuseError for a folder that is not writable.
        """
        folder, missing = Path(folder).expanduser(), []
        for entry in self.search() if ids is None else [self.get(identity) for identity in ids]:
            try:
                samples = read_samples(self.file(entry))
            except MuseError:
                missing.append(f"the sound of {entry.id} is missing or broken and was not exported")
            else:
                write_atomic(folder / f"{file_stem(entry.name, 30)}-{entry.id}.flac", flac(*samples, entry))
        return missing

    def import_folder(self, folder: str | Path) -> tuple[list[Entry], list[str]]:
        """Add the sounds of a folder and of its subfolders; the files there stay as they are.

        Files of a library or of `musekit generate` keep their entries, others have only a name. Returns the
        new entries, and one line per file that could not be read. Sounds that the library has are skipped. Raises
        MuseError for a bad folder or a full disk.
        """
        folder, added, refused = Path(folder).expanduser(), [], []
        if not folder.is_dir():
            raise MuseError(f"{str(folder)!r} is not a folder; choose one that holds sounds")
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or not path.is_file():
                continue
            try:
                entry, samples = read_entry(path), read_samples(path)
            except MuseError as error:
                refused.append(str(error))
                continue
            entry, new = self._keep(*samples, entry)
            if new:
                added.append(entry)
        return added, refused


def text_of(entry: Entry) -> str:
    """All text that a search looks through, in lower case."""
    return "\n".join((entry.name, entry.prompt, entry.notes, *entry.tags)).casefold()


def checksum(identity: bytes, entry: bytes) -> bytes:
    """Of a row of the database."""
    return hashlib.sha256(identity + b" " + entry).hexdigest().encode()


def rows(db: sqlite3.Connection) -> Iterator[tuple[str, Entry | None]]:
    """The rows of a database, id and entry; the entry is None where it does not have its checksum."""
    db.text_factory = bytes
    for identity, entry, *digest in db.execute("SELECT * FROM pieces"):
        text = isinstance(identity, bytes) and isinstance(entry, bytes)
        whole = text and digest in ([], [checksum(identity, entry)])
        try:
            yield str(identity, "utf-8", "replace"), decode(entry, Entry, "the entry") if whole else None
        except MuseError:
            yield str(identity), None


def put(db: sqlite3.Connection, entry: Entry) -> None:
    """Add or replace an entry."""
    identity, text = entry.id.encode(), msgspec.json.encode(entry)
    values = entry.id, text.decode(), checksum(identity, text).decode()
    db.execute("INSERT OR REPLACE INTO pieces VALUES (?, ?, ?)", values)


def found(entries: dict[str, Entry], identity: str) -> Entry:
    """One of the entries. Raises MuseError where there is none of this id."""
    if identity not in entries:
        raise MuseError(f"the library has no piece {str(identity)[:60]!r}; take the id of an entry from `search`")
    return entries[identity]
