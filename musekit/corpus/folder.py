"""A folder of audio with captions, read where it lies into the same records as the rendered scores.

Captions come from a CSV, TSV or JSON Lines file with one column for the file and one for the caption, or from a text
file beside each audio file (song.wav + song.txt).
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from musekit.config import MuseError
from musekit.corpus.families import split_of
from musekit.corpus.recordings import Item, caption
from musekit.corpus.repertoire import slug
from musekit.corpus.tables import clean, delimited, json_rows

AUDIO = {".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".opus", ".oga", ".au", ".caf", ".w64"}
TABLES = ("captions.csv", "captions.tsv", "captions.jsonl", "captions.json", "metadata.csv", "metadata.jsonl")
LOOKED_FOR = f"{TABLES[0]} or another of {', '.join(TABLES[1:])}, or audio files with a .txt of captions beside each"
FILE_COLUMNS = ("file", "path", "file_name", "filename", "audio", "audio_path", "location")
CAPTION_COLUMNS = ("caption", "text", "main_caption", "description", "prompt")


def read_table(path: Path) -> list[tuple[str, str]]:
    """(file, caption) rows of a CSV, TSV or JSON Lines file. Raises MuseError for a missing column or a broken row."""
    rows, bad = json_rows(path) if path.suffix in (".jsonl", ".json") else (delimited(path), 0)
    if bad:
        raise MuseError(f"{path.name}: rows that are no JSON objects: {bad}; it must have one a line, or be one list")
    if not rows:
        raise MuseError(f"{path.name}: no rows")
    names = {str(k).strip().lower(): k for k in rows[0]}
    column = [next((names[n] for n in wanted if n in names), None) for wanted in (FILE_COLUMNS, CAPTION_COLUMNS)]
    if None in column:
        raise MuseError(f"{path.name}: needs the columns 'file' and 'caption'; it has {', '.join(names)}")
    return [(str(r.get(column[0]) or "").strip(), str(r.get(column[1]) or "").strip()) for r in rows]


def captions_of(folder: Path) -> dict[str, list[str]]:
    """Captions by audio path relative to the folder, from the table or from text files beside the audio."""
    table = next((folder / name for name in TABLES if (folder / name).is_file()), None)
    named: dict[str, list[str]] = {}
    for name, text in read_table(table) if table else ():
        if name:
            named.setdefault(name, []).extend([text] if text else [])
    if table is not None:
        return named
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO and not p.name.startswith(".")):
        beside = path.with_suffix(".txt")
        lines = beside.read_text("utf-8-sig", "replace").splitlines() if beside.is_file() else []
        named[path.relative_to(folder).as_posix()] = [line.strip() for line in lines if line.strip()]
    return named


def found(folder: Path) -> bool:
    """Whether there is a table of captions, or any audio file."""
    if any((folder / name).is_file() for name in TABLES):
        return True
    return any(path.suffix.lower() in AUDIO for path in folder.rglob("*"))


def items(folder: Path, lacks: Counter, keep_apart: bool = True) -> list[Item]:
    """The files that captions name. A file and its copies <name>_<number> are one family.

    In a series without such an original (take_001, take_002, ...) every file is a family of its own.
    """
    read, named = [], captions_of(folder)
    stems = {Path(name).stem for name in named}
    for name, texts in named.items():
        stem = Path(name).stem
        original = re.sub(r"_\d+$", "", stem)
        family = slug(original if original in stems else stem) or name
        captions = [caption(text, {}, name) for text in dict.fromkeys(map(clean, texts)) if text]
        read.append(Item(name, captions, family, split_of(family), (name, f"datashare/{name}")))
    return read
