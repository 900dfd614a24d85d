"""File hashes, atomic writes, and typed JSON that is checked when it is read."""

import contextlib
import dataclasses
import functools
import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, get_type_hints

import msgspec

from musekit.config import MuseError, suggest

T = TypeVar("T")
TEMPORARY = re.compile(r"\..+\.(?:[0-9a-f]{8}){1,2}\.part")
type_hints = functools.cache(get_type_hints)  # evaluating annotations takes longer than decoding a line


def regular(path: Path) -> Path:
    """Returns the path. Raises MuseError for a device or a pipe, which can be read without end."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise MuseError(f"{path} is not a regular file")
    return path


def sha256(path: Path) -> str:
    """Hex digest of a regular file's bytes."""
    with open(regular(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def temporary(path: Path) -> Path:
    """A name beside `path` for a file that is being written; no other process guesses it, and `sweep` knows it."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")


def sweep(folder: Path, older: float = 86_400.0) -> None:
    """Delete `temporary` files that killed processes left in a folder, last written more than `older` seconds ago."""
    for path in Path(folder).glob(".*.part"):
        with contextlib.suppress(OSError):  # another process was faster
            if TEMPORARY.fullmatch(path.name) and path.stat().st_mtime < time.time() - older:
                path.unlink()


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a temporary file, fsync, rename. Raises MuseError when the folder is not writable or the disk is full."""
    path = Path(path)
    aside, ours = temporary(path), False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "xb") as file:
            ours = True
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # the folder itself may be the problem
            if ours:
                aside.unlink()
        raise MuseError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another folder"
        ) from error


def checked(values: dict, kind: type[T], named: Callable[[str], str] = str) -> T:
    """Values from Python as a dataclass. Raises MuseError for a wrong type or range; `named`: a field's name in it."""
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        why, _, name = str(error).rstrip("`").partition(" - at `$.")
        raise MuseError(f"{named(name)} cannot be {values.get(name)!r:.80} ({why[0].lower()}{why[1:]})") from error


def decode(data: bytes | str, kind: type[T], where: str, known_only: bool = False) -> T:
    """JSON text as a value of `kind` (a dataclass, or any type that msgspec supports), with types and ranges checked.

    where: the file, and the line of a file with many. known_only: refuse unknown fields of dataclasses, which are
    ignored otherwise. Raises MuseError that names `where` and the field.
    """
    try:
        if known_only:
            refuse_unknown_fields(msgspec.json.decode(data), kind, where)
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError, OverflowError) as error:
        why = str(error) or "it is nested too deeply"
        raise MuseError(f"{where} cannot be read: {why:.200}") from error


def refuse_unknown_fields(value, kind: type, where: str) -> None:
    """Raise MuseError with a suggestion for a key that is no field of the dataclass `kind`; nested ones included."""
    hints = type_hints(kind)
    for name, inner in value.items() if isinstance(value, dict) else ():
        if name not in hints:
            raise suggest(name, hints, f"field in {where}")
        if dataclasses.is_dataclass(hints.get(name)):
            refuse_unknown_fields(inner, hints[name], f"{where}, {name}")


def read_json(path: Path, kind: type[T], known_only: bool = False) -> T:
    """The JSON of a file as a value of `kind` (see `decode`). Raises MuseError, and FileNotFoundError as it is."""
    return decode(regular(Path(path)).read_bytes(), kind, str(path), known_only)
