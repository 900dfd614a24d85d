"""Files that survive: hashes, atomic writes, and typed JSON that is checked where it is read."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from pathlib import Path
from typing import TypeVar

import msgspec

from musekit.config import MuseError

T = TypeVar("T")


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write aside, fsync, rename. Raises MuseError when the place cannot be written or the disk is full."""
    path = Path(path)
    # a process id is no name: the same one may write the same file from another machine or container
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # the place itself may be what is wrong
            aside.unlink()
        raise MuseError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another folder"
        ) from error


def decode(data: bytes | str, kind: type[T], where: str) -> T:
    """JSON text as a value of `kind` (a dataclass, or any type that msgspec knows), checked all the way down.

    Raises MuseError that names `where` (a file, with its line where it has many) and the field that is wrong.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError, OverflowError) as error:
        why = str(error) or "it is nested too deeply"
        raise MuseError(f"{where} cannot be read: {why:.200}") from error


def read_json(path: Path, kind: type[T]) -> T:
    """The JSON of a file as a value of `kind`. MuseError names file and field; FileNotFoundError passes."""
    return decode(Path(path).read_bytes(), kind, str(path))
