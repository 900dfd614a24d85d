"""Recordings: what the readers of published data sets have in common, from an item of a table to clip records.

A reader tells which files there are and what is said of them (`Item`); here the files are found, their headers read
and cut into clips. Nothing is copied or converted: a record points into the data's folder through the link <out>/data,
so a corpus of a terabyte stays where it is, and when it moves the same command links it again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from musekit.config import MuseError
from musekit.corpus.families import split_of, write_atomically
from musekit.corpus.repertoire import slug
from musekit.corpus.sound import BadAudio, header

SAMPLE_RATE = 44100  # Hz, at which clips are read
LINK = "data"  # in the cache's folder
SPLITS = ("train", "valid", "eval", "test")  # a family is where the last of these that any of its clips names is
UNKNOWN = (
    "instrumentation",
    "texture",
    "composer",
    "era",
    "form",
    "key",
    "mode",
    "key_confidence",
    "bpm",
    "onset_rate",
    "speed",
    "metre",
    "dynamic",
)


@dataclass(frozen=True)
class Item:
    """One sound file of a data set, or a stretch of one, and what is said of it."""

    name: str  # what the table calls it; decides the clips' ids
    captions: list[dict]  # {"text", "asks"}
    family: str  # what must not straddle a split: a clip and its augmented copies, an artist
    split: str
    places: tuple[str, ...] = ()  # where its file may be, relative to the folder; the first that exists is taken
    start: float = 0.0  # seconds
    seconds: float | None = None  # from `start` on; None: to the end
    known: dict = field(default_factory=dict)  # attributes, under the names that records have


def caption(text: str, asks: dict, work: str) -> dict:
    """A caption of a work: it is true of this work, and where nothing else is known that it says, of no other."""
    return {"text": text, "asks": asks or {"work": work}}


def development_split(family: str) -> str:
    """'train' or 'valid', by the family's name alone, where the test set is published."""
    return "valid" if split_of(family) == "valid" else "train"


def locate(folder: Path, *places: str) -> Path:
    """The first of these places, relative to the folder, that is a file. Raises BadAudio when there is none, or when
    the path, followed through links, leaves the folder.
    """
    inside = folder.resolve()
    for place in places:
        path = folder / place
        try:
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
    """Items of one name joined (captions and what is known), families in one split, names in order."""
    joined: dict[tuple, Item] = {}
    for item in items:
        key = (item.name, item.start, item.seconds)
        if (first := joined.get(key)) is not None:
            captions = {c["text"]: c for c in [*first.captions, *item.captions]}
            split = max(first.split, item.split, key=SPLITS.index)
            item = replace(first, captions=list(captions.values()), split=split, known={**item.known, **first.known})
        joined[key] = item
    of_family: dict[str, str] = {}
    for item in joined.values():
        of_family[item.family] = max(of_family.get(item.family, "train"), item.split, key=SPLITS.index)
    ordered = sorted(joined.values(), key=lambda item: (item.name, item.start))
    return [replace(item, split=of_family[item.family]) for item in ordered]


class Headers:
    """What files' headers said, kept in <out>/headers.jsonl: after a kill only the files not yet read are opened."""

    def __init__(self, out: Path):
        self.path, self.known, self.lock = out / "headers.jsonl", {}, threading.Lock()
        for line in self.path.read_text("utf-8", "replace").splitlines() if self.path.exists() else []:
            try:
                name, stamp, told = json.loads(line)
            except (ValueError, TypeError):  # cut by a kill
                continue
            self.known[name] = (stamp, told)
        out.mkdir(parents=True, exist_ok=True)
        self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - closed by `close`
        self.file.write("\n" if self.path.stat().st_size else "")  # after a line cut by a kill

    def of(self, folder: Path, item: Item) -> tuple[str, int, int]:
        """(place, frames, rate) of an item's file. Raises BadAudio."""
        path = locate(folder, *(item.places or (item.name,)))
        place, stat = path.relative_to(folder).as_posix(), path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        kept = self.known.get(place)
        if kept is None or kept[0] != stamp:
            try:
                told = list(header(path))
            except BadAudio as error:
                told = error.reason
            with self.lock:
                self.known[place] = (stamp, told)
                self.file.write(json.dumps([place, stamp, told]) + "\n")
        told = self.known[place][1]
        if isinstance(told, str):
            raise BadAudio(told)
        return place, told[0], told[1]

    def close(self) -> None:
        self.file.close()


def link(folder: Path, out: Path) -> None:
    """Point <out>/data to the folder. Raises MuseError when something else is there."""
    place, aside = out / LINK, out / f".{LINK}.{os.getpid()}"
    if place.exists() and not place.is_symlink():
        raise MuseError(f"{place} is in the way: a cache keeps a link to its data there; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    if place.is_symlink() and place.resolve() == folder.resolve():
        return
    aside.unlink(missing_ok=True)
    aside.symlink_to(folder.resolve(), target_is_directory=True)
    os.replace(aside, place)


def pieces(item: Item, frames: int, rate: int, seconds: float) -> list[tuple[float, float]]:
    """(start, seconds) of the clips of an item; a rest shorter than half a clip is left off."""
    begin, end = item.start, frames / rate
    if item.seconds is not None:
        end = min(end, begin + item.seconds)
    if end - begin < 1:
        raise BadAudio("ends before this clip starts" if end <= begin else "shorter than 1 s")
    starts = [begin + k * seconds for k in range(max(1, int((end - begin) / seconds + 0.5)))]
    return [(round(s, 6), round(min(seconds, end - s), 6)) for s in starts]


def records_of(item: Item, place: str, frames: int, rate: int, seconds: float, source: str) -> list[dict]:
    """The clip records of one file."""
    short = slug(os.path.splitext(item.name)[0])[-60:].strip("-") or "clip"
    # the name's hash keeps a/x.wav and a-x.mp3 apart
    stem = f"{short}-{hashlib.sha256(item.name.encode('utf-8', 'replace')).hexdigest()[:12]}"
    return [
        {
            "id": f"{stem}-{k:02d}",
            "work": item.name,
            "family": item.family,
            "split": item.split,
            "path": f"{LINK}/{place}",
            "start": start,
            "seconds": length,
            "sample_rate": SAMPLE_RATE,
            "instruments": [],
            "mood": [],
            "title": Path(place).stem,
            "licence": None,
            "source": source,
            **dict.fromkeys(UNKNOWN),
            **item.known,
            "captions": item.captions,
        }
        for k, (start, length) in enumerate(pieces(item, frames, rate, seconds))
    ]


def write_records(
    items: Iterable[Item],
    lacks: Counter,
    folder: Path,
    out: Path,
    source: str,
    seconds: float,
    progress: bool = True,
    stop: Callable[[], None] = lambda: None,
) -> list[dict]:
    """Find the items' files, cut them into clips of at most `seconds`, write <out>/clips.jsonl; returns the records.

    Files are not opened again when the same command runs again. What cannot be used goes to <out>/set_aside.jsonl, and
    its reasons are counted in `lacks`. `stop()` may raise between files. Raises MuseError when nothing can be used.
    """
    from tqdm import tqdm

    items = join(items)
    link(folder, out)
    headers, records, aside = Headers(out), [], []

    def look(item: Item):
        try:
            if not item.captions:
                raise BadAudio("no caption")
            return headers.of(folder, item)
        except BadAudio as error:
            return error

    pool = ThreadPoolExecutor(8)  # a header is a wait for the disk, not work
    try:
        found = pool.map(look, items)
        for item, told in tqdm(zip(items, found), source, len(items), disable=not progress, mininterval=2):
            stop()
            try:
                if isinstance(told, BadAudio):
                    raise told
                records += records_of(item, *told, seconds, source)
            except BadAudio as error:
                aside.append({"file": item.name, "reason": error.reason})
    finally:
        pool.shutdown(cancel_futures=True)
        headers.close()
    lacks.update(re.sub(r" \(.*", "", a["reason"]) for a in aside)
    write_atomically(out / "set_aside.jsonl", "".join(json.dumps(a) + "\n" for a in aside))
    if not records:
        why = "; ".join(f"{n} x {reason}" for reason, n in lacks.most_common(3)) or "no audio files found"
        raise MuseError(f"nothing usable in {folder}: {why}")
    write_atomically(out / "clips.jsonl", "".join(json.dumps(r) + "\n" for r in records))
    return records
