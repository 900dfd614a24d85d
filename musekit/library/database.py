"""The library's SQLite database: schema, connections, full-text search.

A connection is opened for each task and closed after it: threads and processes need share nothing, and when a damaged
database is put aside nobody goes on writing into it.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from musekit.config import MuseError, suggest
from musekit.library.entry import COLUMNS, WORDS, Entry

VERSION = 1
PATIENCE = 30.0  # seconds to wait for another process's write
SCHEMA = f"""
CREATE TABLE pieces ({", ".join(COLUMNS)}, PRIMARY KEY (id));
CREATE TABLE tags (piece TEXT NOT NULL REFERENCES pieces (id) ON DELETE CASCADE, tag TEXT NOT NULL,
                   place INTEGER NOT NULL, PRIMARY KEY (piece, tag));
CREATE INDEX tags_by_name ON tags (tag);
CREATE VIRTUAL TABLE words USING fts5 (id UNINDEXED, {", ".join(WORDS)},
                                       tokenize = "unicode61 remove_diacritics 2");
PRAGMA user_version = {VERSION};
"""
SORTS = {
    "newest": "made DESC, id DESC",
    "oldest": "made, id",
    "name": "name COLLATE NOCASE, id",
    "similarity": "similarity DESC, id",
    "longest": "seconds DESC, id",
    "starred": "star DESC, made DESC, id DESC",
}
MOST_WORDS = 64  # of a query


@contextlib.contextmanager
def connected(path: Path, write: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection for one task; with `write`, one transaction that is committed at its end or undone.

    Raises sqlite3.DatabaseError where the file is damaged, MuseError where the disk is full or not to be written.
    """
    db = None
    try:
        db = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA synchronous = FULL")  # what is committed survives a power cut
        if write:
            db.execute("BEGIN IMMEDIATE")
        yield db
        if write:
            db.execute("COMMIT")
    except sqlite3.OperationalError as error:  # full, locked, read-only: a rollback leaves the last commit
        if "no such" in str(error):
            raise sqlite3.DatabaseError(str(error)) from error  # a table is gone: damaged, not busy
        raise MuseError(f"the library at {path.parent} cannot be used: {error}; {remedy(str(error))}") from error
    finally:
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                if db.in_transaction:
                    db.execute("ROLLBACK")
            db.close()


def remedy(error: str) -> str:
    """What a person can do about SQLite's word."""
    if "locked" in error:
        return "another notebook is writing; try again"
    if "full" in error or "I/O" in error:
        return "free some space and try again; what was kept before is there"
    return "check the folder's permissions"


def create(path: Path) -> None:
    """An empty database in WAL mode."""
    with connected(path) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")


def version(path: Path) -> int:
    """The schema's version; 0 for a new or empty file. Raises MuseError for one that a newer musekit made."""
    with connected(path) as db:
        found = db.execute("PRAGMA user_version").fetchone()[0]
    if found > VERSION:
        raise MuseError(f"{path} was made by a newer musekit (its version is {found}); update musekit")
    return found


def put(db: sqlite3.Connection, entry: Entry) -> None:
    """Insert or replace one entry and its words."""
    names = ", ".join(COLUMNS)
    marks = ", ".join("?" * len(COLUMNS))
    changes = ", ".join(f"{name} = excluded.{name}" for name in COLUMNS if name != "id")
    values = [getattr(entry, name) for name in COLUMNS]
    db.execute(f"INSERT INTO pieces ({names}) VALUES ({marks}) ON CONFLICT (id) DO UPDATE SET {changes}", values)
    db.execute("DELETE FROM tags WHERE piece = ?", (entry.id,))
    db.executemany("INSERT INTO tags VALUES (?, ?, ?)", [(entry.id, tag, i) for i, tag in enumerate(entry.tags)])
    db.execute("DELETE FROM words WHERE id = ?", (entry.id,))
    words = (entry.id, entry.name, entry.prompt, entry.notes, "\n".join(entry.tags))
    db.execute(f"INSERT INTO words (id, {', '.join(WORDS)}) VALUES (?, ?, ?, ?, ?)", words)


def drop(db: sqlite3.Connection, identity: str) -> None:
    """Take one entry out, its tags and words too."""
    db.execute("DELETE FROM words WHERE id = ?", (identity,))
    db.execute("DELETE FROM pieces WHERE id = ?", (identity,))


def get(db: sqlite3.Connection, identity: str, sounds: Path) -> Entry | None:
    """One entry."""
    row = db.execute("SELECT * FROM pieces WHERE id = ?", (identity,)).fetchone()
    return None if row is None else entries(db, [row], sounds)[0]


def entries(db: sqlite3.Connection, rows: Sequence[sqlite3.Row], sounds: Path) -> list[Entry]:
    """Rows of `pieces` as entries with their tags."""
    tags: dict[str, list[str]] = {row["id"]: [] for row in rows}
    wanted = json.dumps(list(tags))
    found = "SELECT piece, tag FROM tags WHERE piece IN (SELECT value FROM json_each(?)) ORDER BY piece, place"
    for piece, tag in db.execute(found, (wanted,)):
        tags[piece].append(tag)
    return [
        Entry(
            **{name: row[name] for name in COLUMNS if name != "star"},
            star=bool(row["star"]),
            tags=tuple(tags[row["id"]]),
            path=sounds / f"{row['id']}.flac",
        )
        for row in rows
    ]


def match(text: str) -> str | None:
    """A person's query as an FTS5 expression that can only mean its words, or None where it has none.

    Every word goes in quotes, its own quotes doubled, so no operator, column filter or bracket is read; it also finds
    what starts with it.
    """
    text = text.encode("utf-8", "replace").decode().replace("\0", " ")
    words = [word for word in text.split() if any(c.isalnum() for c in word)][:MOST_WORDS]
    quoted = ['"' + word[:200].replace('"', '""') + '"*' for word in words]
    return " AND ".join(quoted) or None


def search(
    db: sqlite3.Connection,
    text: str,
    tags: Sequence[str],
    starred: bool,
    deleted: bool,
    sort: str,
    limit: int | None,
    offset: int,
    sounds: Path,
) -> list[Entry]:
    """The entries that hold all words, all tags. sort: one of SORTS, or "best" (bm25, then newest)."""
    if sort != "best" and sort not in SORTS:
        raise suggest(sort, ["best", *SORTS], "sort order")
    where, values = ["deleted IS NOT NULL" if deleted else "deleted IS NULL"], []
    source, order = "pieces", SORTS.get(sort, SORTS["newest"])
    expression = match(text)
    if expression:
        source += " JOIN (SELECT id AS found, bm25(words) AS rank FROM words WHERE words MATCH ?) ON found = pieces.id"
        values.append(expression)
        order = f"rank, {order}" if sort == "best" else order
    elif text.strip():
        return []  # only signs: no word can match
    for tag in tags:
        where.append("id IN (SELECT piece FROM tags WHERE tag = ?)")
        values.append(tag)
    if starred:
        where.append("star")
    query = f"SELECT pieces.* FROM {source} WHERE {' AND '.join(where)} ORDER BY {order} LIMIT ? OFFSET ?"
    rows = db.execute(query, (*values, -1 if limit is None else limit, offset)).fetchall()
    return entries(db, rows, sounds)
