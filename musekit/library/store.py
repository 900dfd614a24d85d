"""Store: the folder of a library, with an SQLite database of entries beside the sounds."""

from __future__ import annotations

import collections
import contextlib
import datetime
import os
import re
import secrets
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from musekit.config import MuseError, home
from musekit.files import decode
from musekit.library import sounds
from musekit.library.sounds import Entry, Origin
from musekit.recipe import Recipe

VERSION = 2  # of the database; version 1 had a column a field, and a journal beside it
LOCK_SECONDS = 30.0  # to wait for another process's write


def now() -> str:
    """UTC, to the microsecond, so that the latest piece sorts first."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def new_id() -> str:
    """The time and ten random hex digits; nothing that a person wrote."""
    digits = re.sub(r"\D", "", now())
    return f"{digits[:8]}-{digits[8:14]}-{secrets.token_hex(5)}"


class Store:
    """A folder with a database of entries and a FLAC file for each. `notices` says what was wrong at its opening."""

    def __init__(self, folder: str | Path | None = None):
        """Open or make the library of a folder (default: MUSEKIT_HOME/library). Raises MuseError where that fails.

        A damaged database is set aside and built again from the sound files.
        """
        from filelock import FileLock

        self.folder = Path(folder).expanduser() if folder is not None else home() / "library"
        self.sounds, self.path = self.folder / "sounds", self.folder / "library.sqlite"
        self.notices: list[str] = []
        try:
            self.sounds.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock"):
                self._open()
        except OSError as error:
            why = error.strerror or error
            raise MuseError(f"cannot make the library {self.folder}: {why}; choose another folder") from error

    def file(self, entry: Entry) -> Path:
        """The FLAC file of an entry."""
        return self.sounds / f"{entry.id}.flac"

    # -- the database

    @contextlib.contextmanager
    def transaction(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[sqlite3.Connection]:
        """A connection for one transaction, committed at the end or rolled back. "BEGIN" is enough for reading."""
        try:
            with contextlib.closing(sqlite3.connect(self.path, timeout=LOCK_SECONDS, isolation_level=None)) as db:
                db.row_factory = sqlite3.Row
                db.execute("PRAGMA synchronous = FULL")  # a committed change survives a power cut
                db.execute(begin)
                yield db
                db.execute("COMMIT")
        except sqlite3.Error as error:
            raise MuseError(
                f"the library at {self.folder} cannot be used: {error}. What was kept before is safe. Free some space,"
                " or open the library again"
            ) from error

    def _open(self) -> None:
        """Make the database, migrate an older one, or build a damaged one again."""
        version, why = 0, "is missing"
        if self.path.exists():
            try:
                with contextlib.closing(sqlite3.connect(self.path, timeout=LOCK_SECONDS)) as db:
                    version = db.execute("PRAGMA user_version").fetchone()[0]
                    found = [row[0] for row in db.execute("PRAGMA quick_check(3)")]
                    why = f"is damaged ({found[0]})" if found != ["ok"] else "" if version else "is empty"
            except sqlite3.OperationalError as error:  # locked, or not to be read: no damage
                raise MuseError(f"the library {self.path} cannot be opened: {error}; try again") from error
            except sqlite3.DatabaseError as error:
                why = f"is damaged ({error})"
        if version > VERSION:
            raise MuseError(f"{self.path} was written by a newer musekit (version {version}); update musekit")
        if why:
            self._rebuild(why)
        elif version < VERSION:
            self._migrate()

    def _rebuild(self, why: str) -> None:
        """Set the database aside and make another from the sound files."""
        aside = self.path.with_name(f"library.damaged-{new_id()}.sqlite")
        for end in ("", "-wal", "-shm"):
            if (old := Path(f"{self.path}{end}")).exists():
                os.replace(old, f"{aside}{end}")
        with contextlib.suppress(sqlite3.OperationalError):  # a file system that has no shared memory
            with contextlib.closing(sqlite3.connect(self.path)) as db:
                db.execute("PRAGMA journal_mode = WAL")
        files, broken = [p for p in sorted(self.sounds.glob("*.flac")) if p.is_file() and not p.is_symlink()], []
        with self.transaction() as db:
            create(db)
            for path in files:
                try:
                    audio, rate = sounds.read_samples(path)
                    put(db, measured(replace(sounds.read_entry(path), id=path.stem), audio, rate))
                except MuseError:
                    broken.append(path.name)
        if files or aside.exists():
            unread = f"; unreadable: {', '.join(broken)}" if broken else ""
            old = f"; the old database is {aside.name}" if aside.exists() else ""
            self.notices.append(
                f"the library's database {why}; it was built again from {len(files) - len(broken)} sound files. Names,"
                " tags, stars and notes that were changed after a piece was kept, and what was deleted, could not be"
                f" recovered{unread}{old}"
            )

    def _migrate(self) -> None:
        """From version 1, in one transaction: either all of it or nothing."""
        with self.transaction() as db:
            tags = collections.defaultdict(list)
            for piece, tag in db.execute("SELECT piece, tag FROM tags ORDER BY place"):
                tags[piece].append(tag)
            rows = [dict(row) for row in db.execute("SELECT * FROM pieces")]
            for table in ("tags", "words", "pieces"):
                db.execute(f"DROP TABLE IF EXISTS {table}")
            create(db)
            for row in rows:
                known = {k: v for k, v in row.items() if k in Entry.__dataclass_fields__}
                for name, kind in (("recipe", Recipe), ("origin", Origin)):
                    known[name] = None if row[name] is None else decode(row[name], kind, f"the {name} of {row['id']}")
                entry = Entry(**known | {"tags": tuple(tags[row["id"]]), "star": bool(row["star"])})
                put(db, replace(entry, content=content_of(self.file(entry))))

    def entries(self, db: sqlite3.Connection) -> dict[str, Entry]:
        """{id: entry} of all pieces, the bin too, within a transaction."""
        rows = db.execute("SELECT id, entry FROM pieces").fetchall()
        return {row["id"]: decode(row["entry"], Entry, f"the library's entry {row['id']}") for row in rows}

    def all(self) -> dict[str, Entry]:
        """{id: entry} of all pieces, the bin too."""
        with self.transaction("BEGIN") as db:
            return self.entries(db)


def create(db: sqlite3.Connection) -> None:
    """The empty table: an entry is JSON, as in the comment of its file."""
    db.execute("CREATE TABLE pieces (id TEXT PRIMARY KEY, entry TEXT NOT NULL)")
    db.execute(f"PRAGMA user_version = {VERSION}")


def put(db: sqlite3.Connection, entry: Entry) -> None:
    """Add or replace an entry."""
    db.execute("INSERT OR REPLACE INTO pieces VALUES (?, ?)", (entry.id, sounds.to_json(entry)))


def measured(entry: Entry, audio: np.ndarray, sample_rate: int) -> Entry:
    """The entry with the length and the fingerprint of integer samples (channels, N)."""
    return replace(entry, seconds=audio.shape[1] / sample_rate, content=sounds.fingerprint(audio, sample_rate))


def content_of(path: Path) -> str:
    """Fingerprint of the samples of a file, "" where it cannot be read."""
    try:
        return sounds.fingerprint(*sounds.read_samples(path))
    except MuseError:
        return ""
