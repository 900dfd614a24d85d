"""Recordings: what the readers of datasets share, from an item of a table to clip records.

A reader says which files there are and what is known of them (`Item`). Here the files are found and their headers read,
and they are cut into clips. Nothing is copied or converted: a record points into the dataset's folder through the link
<out>/data, so a corpus of a terabyte stays where it is, and when it moves, the same command links it again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from musekit.config import MuseError
from musekit.corpus.repertoire import slug
from musekit.corpus.sound import BadAudio, header

SAMPLE_RATE = 44100  # Hz, at which clips are read
LINK = "data"  # in the cache's folder
SPLITS = ("train", "valid", "eval", "test")  # a family is in the last of these that any of its clips names
UNKNOWN = (
    *("instrumentation", "texture", "composer", "era", "form", "key", "mode", "key_confidence"),
    *("bpm", "onset_rate", "speed", "metre", "dynamic"),
)  # attributes that a record has as None unless the dataset tells them


@dataclass(frozen=True)
class Item:
    """One audio file of a dataset and what is known of it."""

    name: str  # in the dataset's table; decides the clips' ids
    captions: list[dict]  # {"text", "asks"}
    family: str  # items that must not be in two splits: a clip and its augmented copies, an artist
    split: str
    places: tuple[str, ...]  # where its file may be, relative to the folder; the first that exists is taken
    known: dict = field(default_factory=dict)  # attributes, under the names that records have


def caption(text: str, asks: dict, work: str) -> dict:
    """A caption with its claims. Without claims it names the work, and counts as correct for this work only."""
    return {"text": text, "asks": asks or {"work": work}}


def look(folder: Path, item: Item) -> tuple[str, int, int] | BadAudio:
    """(relative path, frames, rate in Hz) of an item's file, or why it is not usable."""
    try:
        if not item.captions:
            raise BadAudio("no caption")
        path = locate(folder, *item.places)
        return path.relative_to(folder).as_posix(), *header(path)
    except BadAudio as error:
        return error


def locate(folder: Path, *places: str) -> Path:
    """The first of these relative paths that is a file. Raises BadAudio when none is, or one leaves the folder."""
    inside = folder.resolve()
    for place in places:
        try:
            path = folder / place
            if Path(place).is_absolute() or not path.resolve().is_relative_to(inside):
                raise BadAudio("outside the folder")
            if path.is_file():
                return path
        except BadAudio:
            raise
        except (OSError, ValueError, RuntimeError) as error:  # too long, a zero byte, a loop of links
            raise BadAudio("not a file name") from error
    raise BadAudio("no such file")


def join(items: Iterable[Item]) -> list[Item]:
    """Items of one name joined (captions and attributes), families moved into one split, sorted by name."""
    joined: dict[str, Item] = {}
    for item in items:
        if (first := joined.get(item.name)) is not None:
            captions = {c["text"]: c for c in [*first.captions, *item.captions]}
            split = max(first.split, item.split, key=SPLITS.index)
            item = replace(first, captions=list(captions.values()), split=split, known={**item.known, **first.known})
        joined[item.name] = item
    of_family: dict[str, str] = {}
    for item in joined.values():
        of_family[item.family] = max(of_family.get(item.family, "train"), item.split, key=SPLITS.index)
    return [replace(joined[name], split=of_family[joined[name].family]) for name in sorted(joined)]


def link(folder: Path, out: Path) -> None:
    """Make <out>/data a link to the folder. Raises MuseError when something else is there."""
    place, aside = out / LINK, out / f".{LINK}.{os.getpid()}"
    if place.exists() and not place.is_symlink():
        raise MuseError(f"{place} is in the way: a cache keeps a link to its data there; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    if place.is_symlink() and place.resolve() == folder.resolve():
        return
    aside.unlink(missing_ok=True)
    aside.symlink_to(folder.resolve(), target_is_directory=True)
    os.replace(aside, place)


def records_of(item: Item, place: str, frames: int, rate: int, seconds: float, source: str) -> list[dict]:
    """The clip records of one file, cut every `seconds`; a rest shorter than half a clip is left off."""
    length = frames / rate
    short = slug(os.path.splitext(item.name)[0])[-60:].strip("-") or "clip"
    # the name's hash keeps a/x.wav and a-x.mp3 apart
    stem = f"{short}-{hashlib.sha256(item.name.encode('utf-8', 'replace')).hexdigest()[:12]}"
    return [
        {
            "id": f"{stem}-{k:02d}", "work": item.name, "family": item.family, "split": item.split,
            "path": f"{LINK}/{place}", "start": round(k * seconds, 6),
            "seconds": round(min(seconds, length - k * seconds), 6), "sample_rate": SAMPLE_RATE,
            "instruments": [], "mood": [], "title": Path(place).stem, "licence": None, "source": source,
            **dict.fromkeys(UNKNOWN), **item.known, "captions": item.captions,
        }
        for k in range(max(1, int(length / seconds + 0.5)))
    ]  # fmt: skip
