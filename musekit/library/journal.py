"""edits.jsonl: what was kept and every change since, one JSON line each, only ever appended.

The database answers questions; this file, with the sounds' own comments, is what it can be built from again. A line
is written and flushed to disk before the database commits, while the database's write lock is held, so lines of
several processes never mix. A line cut short by a kill or a full disk is skipped.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from musekit.config import MuseError
from musekit.library.entry import COLUMNS, IDENTITY, Entry, edited


def append(path: Path, lines: Iterable[dict]) -> None:
    """Add lines and flush them to disk. Raises MuseError where that fails."""
    data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    try:
        with open(path, "ab+", buffering=0) as file:
            if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                data = b"\n" + data  # the line before was cut short
            while data:
                data = data[file.write(data) :]
            os.fsync(file.fileno())
    except OSError as error:
        raise MuseError(f"cannot write {path}: {error.strerror or error}; free some space and try again") from error


def added(entry: Entry) -> dict:
    """The line of a new entry."""
    fields = {name: getattr(entry, name) for name in COLUMNS if getattr(entry, name) not in (None, "")}
    fields["tags"] = list(entry.tags)
    if entry.embedding:
        fields["embedding"] = base64.b64encode(entry.embedding).decode()
    return {"add": fields}


def read(path: Path) -> list[dict]:
    """All whole lines."""
    found = []
    try:
        text = path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return []
    for line in text.split("\n"):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        found += [value] if isinstance(value, dict) else []
    return found


def replay(lines: Iterable[dict], found: dict[str, Entry], sounds: Path) -> dict[str, Entry]:
    """The entries after all lines, where `found` is what the files themselves tell, {id: entry}.

    A line that makes no sense changes nothing. An entry whose file is gone stays, so that its recipe is not lost.
    """
    entries = dict(found)
    for line in lines:
        try:
            if isinstance(line.get("add"), dict):
                entry = told(line["add"], sounds)
                entries[entry.id] = entry
            for identity in line.get("ids", ()):
                if line.get("purge"):
                    entries.pop(identity, None)
                elif identity in entries:
                    entries[identity] = edited(entries[identity], line)
        except (TypeError, ValueError, KeyError, AttributeError):
            continue
    return entries


def told(fields: dict, sounds: Path) -> Entry:
    """The entry of an `added` line. Raises ValueError, TypeError or KeyError for another."""
    if not IDENTITY.fullmatch(fields["id"]):
        raise ValueError(fields["id"])
    known = {name: value for name, value in fields.items() if name in COLUMNS}
    if "embedding" in known:
        known["embedding"] = base64.b64decode(known["embedding"])
    entry = Entry(**known, path=sounds / f"{fields['id']}.flac")
    return replace(entry, tags=tuple(str(tag) for tag in fields.get("tags", ())))
