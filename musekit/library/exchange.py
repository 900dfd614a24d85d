"""In and out: a zip with a CSV, and folders of sounds."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from musekit import prompts
from musekit.config import MuseError
from musekit.explore.uploads import SUFFIXES, read_sound
from musekit.files import sha256
from musekit.library.entry import IDENTITY, LONGEST, Entry, new_id, now, written, written_tags
from musekit.library.vorbis import about, believed, read_flac, tagged
from musekit.recipe import Recipe

if TYPE_CHECKING:
    from musekit.library.shelf import Library

COLUMNS = (
    "id", "file", "name", "prompt", "negative_prompt", "seed", "preset", "seconds", "similarity", "star", "tags",
    "notes", "made", "recipe",
)  # fmt: skip
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with which a spreadsheet would begin to calculate


@dataclass
class Imported:
    """What became of a folder's files."""

    added: list[Entry] = field(default_factory=list)
    present: list[str] = field(default_factory=list)  # the same bytes or the same piece is in the library
    refused: list[tuple[str, str]] = field(default_factory=list)  # (name, why)


def export(library: Library, path: str | Path, ids: Iterable[str] | None = None) -> Path:
    """Write a zip of pieces (None: all but the bin): sounds with their present names, tags and notes, and library.csv.

    A missing or broken sound is left out and told in `library.notices`. Raises MuseError where the zip cannot be
    written; an older one at that place then stays.
    """
    try:
        path = Path(path).expanduser()
        path = path if path.suffix == ".zip" else path.with_name(path.name + ".zip")
    except (ValueError, RuntimeError) as error:  # "/"; the home of nobody
        raise MuseError(f"{str(path)[:200]!r} is no place for a zip ({error})") from error
    entries = library.search() if ids is None else [library.get(i) for i in dict.fromkeys(ids)]
    aside = path.with_name(f".{path.name[:80]}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED) as file:  # FLAC does not get smaller
            rows = []
            for entry in entries:
                name = f"sounds/{prompts.file_stem(entry.name, 30)}-{entry.id}.flac"
                try:
                    data = tagged(entry.path.read_bytes(), entry)
                except (OSError, MuseError):
                    library.notices.append(f"the sound of {entry.id} is missing or broken and was not exported")
                    name = ""
                else:
                    file.writestr(name, data)
                rows.append({**{c: getattr(entry, c, None) for c in COLUMNS}, "file": name})
            file.writestr("library.csv", table(rows), compress_type=zipfile.ZIP_DEFLATED)
        os.replace(aside, path)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        with contextlib.suppress(OSError, ValueError):
            aside.unlink()
        why = getattr(error, "strerror", None) or error
        raise MuseError(f"cannot write {str(path)[:200]!r}: {why}; free some space or choose another place") from error
    return path


def table(rows: list[dict]) -> str:
    """The CSV. A text that a spreadsheet would take for a formula gets a ' in front, as spreadsheets themselves do."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    for row in rows:
        row = row | {"tags": "; ".join(row["tags"]), "star": int(row["star"])}
        shown = {k: f"'{v}" if isinstance(v, str) and v.startswith(FORMULA) else v for k, v in row.items()}
        writer.writerow(shown)
    return text.getvalue()


def import_folder(library: Library, folder: str | Path, tags: Sequence[str] = ()) -> Imported:
    """Take in the sounds of a folder and of the folders in it; the files there stay as they are.

    Those that `musekit generate` or a library wrote get their facts back; others come as plain sound under their
    file's name. `tags` are given to all of them. One bad file stops nothing. Raises MuseError for no folder, full disk.
    """
    tags, done = written_tags(tags), Imported()
    try:
        folder = Path(folder).expanduser()
        if not folder.is_dir():
            raise MuseError(f"{str(folder)[:200]!r} is no folder; give one that holds sounds")
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: the home of nobody
        raise MuseError(f"{str(folder)[:200]!r} is no folder ({error})") from error
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(place) / name
            if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
                continue
            try:
                entry = take_in(library, path, tags)
            except MuseError as error:
                if "free some space" in str(error):
                    raise
                done.refused.append((name, str(error)))
                continue
            if entry is None:
                done.present.append(name)
            else:
                done.added.append(entry)
    return done


def take_in(library: Library, path: Path, tags: Sequence[str]) -> Entry | None:
    """One file; None where the library has it. Raises MuseError for what cannot be taken in."""
    sound = read_sound(path)  # is it sound, and short enough?
    source, have = sha256(path), every(library)
    if any(source in (one.sha256, one.source_sha256) for one in have):
        return None
    title = path.stem.encode("utf-8", "surrogateescape").decode("utf-8", "replace")[:LONGEST]
    entry, audio, rate = Entry(id=new_id(), name=written(title, "name") or "sound"), *samples(path, sound)
    if path.suffix.lower() == ".flac":
        told = read_flac(path)
        if told.recipe is not None:
            return kept_before(library, path, told, tags, {one.id for one in have})
        entry, tags = replace(entry, name=entry.name if told.name == path.stem else told.name), [*told.tags, *tags]
    elif (recipe := recipe_of(path)) is not None:
        entry = replace(entry, name=recipe.prompt, similarity=similarity_beside(path), **about(recipe))
    return library.put(audio, rate, replace(entry, source_sha256=source, seconds=audio.shape[1] / rate), tags=tags)


def kept_before(library: Library, path: Path, told: Entry, tags: Sequence[str], taken: set[str]) -> Entry | None:
    """A FLAC file that a library wrote: its bytes and all its facts, under its own id if that is free."""
    if library._same(told) is not None:  # noqa: SLF001 - a part of the library
        return None
    own = path.stem[-26:]
    identity = own if IDENTITY.fullmatch(own) and own not in taken else new_id()
    entry = replace(told, id=identity, tags=written_tags([*told.tags, *tags]), made=told.made or now())
    return library.place(path.read_bytes(), entry)


def every(library: Library) -> list[Entry]:
    """All entries, the bin too."""
    return library.search() + library.bin()


def samples(path: Path, sound) -> tuple[np.ndarray, int]:
    """The samples of a file as it has them where they are 16 or 24 bit, so that FLAC keeps every bit."""
    import soundfile

    kinds = {"PCM_16": "int16", "PCM_24": "int32"}
    with soundfile.SoundFile(path) as file:
        if file.subtype in kinds and file.channels <= 2:
            return file.read(dtype=kinds[file.subtype], always_2d=True).T, file.samplerate
    return sound.audio, sound.sample_rate


def recipe_of(path: Path) -> Recipe | None:
    """The recipe in a WAV that `musekit generate` wrote."""
    import soundfile

    with soundfile.SoundFile(path) as file:
        return believed(Recipe, file.comment) if file.comment.startswith("{") else None


def similarity_beside(path: Path) -> float | None:
    """What the sidecar of such a WAV says."""
    try:
        value = json.loads(path.with_suffix(".json").read_text("utf-8"))["similarity"]
        return float(value) if abs(value) <= 1 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
