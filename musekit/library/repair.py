"""What can go wrong with a library, how it is told, and how it is built again from its files and its journal."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from musekit.config import MuseError
from musekit.files import sha256, write_atomic
from musekit.library import database, journal
from musekit.library.entry import IDENTITY, Entry
from musekit.library.vorbis import flac, read_flac

if TYPE_CHECKING:
    from musekit.library.shelf import Library

STALE = 3600  # seconds after which an unfinished file belongs to nobody


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. kind: "missing", "altered", "unknown", "unfinished", "stray" or "database"."""

    kind: str
    what: str  # the piece's id, or the file's name
    text: str  # what it is and what to do


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """No other process makes or rebuilds this library meanwhile."""
    import fcntl

    try:
        file = open(folder / ".lock", "ab")
    except OSError as error:
        raise MuseError(f"cannot write into the library {folder}: {error.strerror or error}") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def opened(library: Library) -> list[str]:
    """Make the database where there is none, rebuild a damaged one, take in what a cut-short save left; notices."""
    notices: list[str] = []
    try:
        ready = library.path.exists() and database.version(library.path) > 0
    except sqlite3.DatabaseError as error:
        return rescue(library, str(error))
    if not ready:
        notices += rescue(library, "it is missing") if known(library) else fresh(library)
    try:
        notices += adopt(library)
    except sqlite3.DatabaseError as error:
        notices += rescue(library, str(error))
    return notices


def fresh(library: Library) -> list[str]:
    """A new, empty database."""
    with alone(library.folder):
        if not (library.path.exists() and database.version(library.path)):
            database.create(library.path)
    return []


def known(library: Library) -> bool:
    """Whether the folder holds a library's sounds or edits."""
    return library.edits.exists() or any(True for _ in sounds(library))


def sounds(library: Library) -> Iterator[Path]:
    """The library's own sound files: regular, and named by us."""
    with os.scandir(library.sounds) as found:
        for item in found:
            ours = item.name.endswith(".flac") and IDENTITY.fullmatch(item.name[:-5])
            if ours and item.is_file(follow_symlinks=False):
                yield Path(item.path)


def healthy(path: Path) -> str:
    """ "" for a sound database, else what is wrong with it."""
    try:
        if not path.exists() or not database.version(path):
            return "it is missing"
        with database.connected(path) as db:
            found = [row[0] for row in db.execute("PRAGMA integrity_check(5)")]
            db.execute("SELECT count(*) FROM pieces").fetchone()
            db.execute("SELECT count(*) FROM tags").fetchone()
        if found != ["ok"]:
            return "; ".join(found)
        with database.connected(path, write=True) as db:
            db.execute("INSERT INTO words (words, rank) VALUES ('integrity-check', 0)")
    except sqlite3.DatabaseError as error:
        return str(error)
    return ""


def rescue(library: Library, why: str) -> list[str]:
    """Build the database again from the files and the journal; the damaged one is put aside, not removed."""
    with alone(library.folder):
        if not healthy(library.path):
            return []  # another process has just done it
        stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        aside = ""
        for end in ("", "-wal", "-shm"):
            old = library.path.with_name(library.path.name + end)
            if old.exists():
                aside = f"library.damaged-{stamp}.sqlite"
                os.replace(old, library.path.with_name(aside + end))
        database.create(library.path)
        with database.connected(library.path, write=True) as db:  # others' edits wait until theirs are read here
            entries, broken = from_files(library)
            for entry in entries.values():
                database.put(db, entry)
    kept = f"; the old one is {aside}" if aside else ""
    notices = [f"the library's database was rebuilt with {len(entries)} pieces, since {why}{kept}"]
    return notices + [f"{name} cannot be read and was left out" for name in broken]


def from_files(library: Library) -> tuple[dict[str, Entry], list[str]]:
    """All entries that the files and the journal tell of, and the names of files that cannot be read."""
    lines = journal.read(library.edits)
    logged = {line["add"].get("id") for line in lines if isinstance(line.get("add"), dict)}
    found, broken = {}, []
    for path in sounds(library):
        if path.stem in logged:
            continue  # its line tells all, its hash too
        try:
            found[path.stem] = read_flac(path)
        except MuseError:
            broken.append(path.name)
    return journal.replay(lines, found, library.sounds), broken


def adopt(library: Library) -> list[str]:
    """Take in whole sounds that the database does not know, left by a save that was cut short; remove stale parts."""
    with database.connected(library.path) as db:
        have = {row[0] for row in db.execute("SELECT id FROM pieces")}
    strange = [path for path in sounds(library) if path.stem not in have]
    for part in library.sounds.glob(".*.part"):
        with contextlib.suppress(OSError):  # another process may have removed it
            if time.time() - part.stat().st_mtime > STALE:
                part.unlink()
    if not strange:
        return []
    notices, taken = [], 0
    with database.connected(library.path, write=True) as db:
        lines = journal.read(library.edits)  # under the write lock: nobody adds to it meanwhile
        for path in strange:
            if database.get(db, path.stem, library.sounds) is not None:
                continue  # another process was just saving it
            try:
                found = {path.stem: read_flac(path)}
            except MuseError as error:
                notices.append(str(error))
                continue
            entry = journal.replay(lines, found, library.sounds).get(path.stem)
            if entry is None:
                path.unlink(missing_ok=True)  # it was purged
            else:
                database.put(db, entry)
                taken += 1
    if taken:
        notices.append(f"{taken} sounds were in the folder and not in the database; they were taken in")
    return notices


def check(library: Library) -> list[Problem]:
    """All that is wrong with a library; reads every file once. Changes nothing."""
    if why := healthy(library.path):
        return [Problem("database", library.path.name, f"the database is damaged ({why}); `repair()` rebuilds it")]
    problems: list[Problem] = []
    rows = library.search() + library.bin()
    for entry in rows:
        cure = "make it again with `mend`, or delete it" if entry.recipe else "bring it back from a copy, or delete it"
        if not entry.path.is_file():
            problems.append(Problem("missing", entry.id, f"the sound of {entry.name[:60]!r} is gone; {cure}"))
        elif entry.sha256 != sha256(entry.path):
            problems.append(Problem("altered", entry.id, f"the file of {entry.name[:60]!r} was altered; {cure}"))
    have, own = {entry.id for entry in rows}, set()
    for path in sounds(library):
        own.add(path.name)
        if path.stem not in have:
            text = "a sound that the database does not know; `repair()` takes it in"
            problems.append(Problem("unknown", path.stem, text))
    for path in sorted(library.sounds.iterdir()):
        if path.name.endswith(".part"):
            problems.append(Problem("unfinished", path.name, "a save was cut short here; it is removed after an hour"))
        elif path.name not in own:
            text = "not a file of the library; move it out, or import it with `import_folder`"
            problems.append(Problem("stray", path.name[:80], text))
    return problems


def mend_all(library: Library) -> list[str]:
    """Rebuild a damaged database, take in unknown sounds; returns what was done."""
    why = healthy(library.path)
    return (rescue(library, why) if why else []) + adopt(library)


def mend(library: Library, identity: str, muse) -> Entry:
    """Make a piece again and write its file anew.

    Raises MuseError where the piece has no recipe, or comes out different (another kind of machine): then the file
    that is there stays as it is.
    """
    entry, piece = library.get(identity), library.again(identity, muse)
    if entry.samples_sha256 and not library.same_bits(identity, piece):
        raise MuseError(f"{identity} came out with other bits on this machine, so its file was left as it is")
    data = flac(piece.audio.numpy(), piece.sample_rate, entry)
    entry = replace(entry, sha256=hashlib.sha256(data).hexdigest())
    write_atomic(entry.path, data)

    def task(db: sqlite3.Connection) -> None:
        journal.append(library.edits, [journal.added(entry)])
        database.put(db, entry)

    library._do(task, write=True)  # noqa: SLF001 - a part of the library
    return entry
