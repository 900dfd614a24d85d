"""Readers: which dataset a folder holds, and its audio cut into clips with their records.

Nothing is copied or converted: a record points into the dataset's folder through the link <out>/data, so a corpus of a
terabyte stays where it is, and when it moves, the same command links it again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from musekit.config import MuseError, suggest
from musekit.corpus.datasets import AUDIO, READERS, TABLES, Item
from musekit.corpus.scores import slug
from musekit.corpus.sound import SAMPLE_RATE, open_audio
from musekit.distributed import Stopped
from musekit.files import write_atomic

LINK = "data"  # in the cache's folder
SPLITS = ("train", "valid", "eval", "test")  # a family is in the last of these that any of its clips names


def holds(folder: Path, name: str) -> bool:
    """Whether the folder looks like this dataset: it has one of its tables, or, for "folder", any audio."""
    tables = any((folder / table).is_file() for table in READERS[name].tables)
    return tables or name == "folder" and any(file.suffix.lower() in AUDIO for file in folder.rglob("*"))


def choose(corpus: str | None, data: Path | None) -> tuple[str, Path | None]:
    """(reader's name, or "scores"; the folder it reads) from --corpus and --data; --corpus may be the folder itself.

    Raises MuseError for an unknown name, a missing folder, or one that does not hold what the reader looks for.
    """
    if data is None and corpus in (None, "scores"):
        return "scores", None
    if corpus == "scores":
        raise MuseError("--corpus scores comes with music21 and takes no --data; leave one of the two out")
    if corpus not in (None, *READERS):
        if data is not None or not Path(corpus).expanduser().is_dir():
            raise suggest(corpus, ["scores", *READERS], "corpus, and no folder,")
        corpus, data = None, Path(corpus)
    names = [corpus] if corpus else [*READERS]
    looked = "; ".join(f"{name}: {', '.join(READERS[name].tables)}, {READERS[name].audio}" for name in names)
    if data is None:
        raise MuseError(f"--corpus {corpus} needs --data FOLDER, the unpacked dataset ({looked})")
    folder = data.expanduser()
    if not folder.is_dir():
        raise MuseError(f"no folder at {data}: --data is the folder that the dataset was unpacked to")
    if found := [name for name in names if holds(folder, name)]:
        return found[0], folder
    raise MuseError(f"{data} does not hold {corpus or 'a known dataset'}. Looked for {looked}")


def read_corpus(
    name: str, folder: Path, out: Path, seconds: float, stop: Callable[[], int] = lambda: 0
) -> tuple[list[dict], str]:
    """Cut a dataset's files into clips and write <out>/clips.jsonl; returns the records and a summary.

    seconds: length of the longest clip. Unusable files go to <out>/set_aside.jsonl with their reasons. Raises MuseError
    when nothing is usable, and `Stopped` between files when `stop()` says so.
    """
    items = join(READERS[name].read(folder))
    link(folder, out)
    records, unusable = [], {}
    pool = ThreadPoolExecutor(8)  # reading a header is waiting for the disk, not work
    try:
        for item, about in zip(items, tqdm(pool.map(partial(look, folder), items), name, len(items), disable=None)):
            if code := stop():
                raise Stopped(code)
            if isinstance(about, str):
                unusable[item.name] = about
            else:
                records += records_of(item, *about, seconds, name)
    finally:
        pool.shutdown(cancel_futures=True)
    aside = [json.dumps({"file": file, "reason": reason}) + "\n" for file, reason in unusable.items()]
    write_atomic(out / "set_aside.jsonl", "".join(aside))
    reasons = Counter(re.sub(r" \(.*", "", reason) for reason in unusable.values()).most_common()
    if not records:
        why = "; ".join(f"{n} x {reason}" for reason, n in reasons[:3]) or "no audio files found"
        raise MuseError(f"nothing usable in {folder}: {why}")
    write_atomic(out / "clips.jsonl", "".join(json.dumps(r) + "\n" for r in records))
    splits = Counter(r["split"] for r in records)
    counts = ", ".join(f"{s} {splits[s]:,}" for s in SPLITS if splits[s])
    works, hours = len({r["work"] for r in records}), sum(r["seconds"] for r in records) / 3600
    captions = len({c["text"] for r in records for c in r["captions"]})
    lines = [f"{name}: {len(records):,} clips of {works:,} files, {hours:,.1f} h, {captions:,} captions ({counts})"]
    lines += ["left out (files are named in set_aside.jsonl):"] if reasons else []
    return records, "\n".join([*lines, *(f"  {n:,} x {reason}" for reason, n in reasons)])


def join(items: Iterable[Item]) -> list[Item]:
    """Items of one name joined (captions and attributes), families moved into one split, sorted by name."""
    joined: dict[str, Item] = {}
    of_family: dict[str, str] = {}
    for item in items:
        if (first := joined.get(item.name)) is not None:
            captions = {c["text"]: c for c in [*first.captions, *item.captions]}
            item = replace(item, captions=list(captions.values()), known={**item.known, **first.known})
        joined[item.name] = item
        of_family[item.family] = max(of_family.get(item.family, "train"), item.split, key=SPLITS.index)
    return [replace(joined[name], split=of_family[joined[name].family]) for name in sorted(joined)]


def link(folder: Path, out: Path) -> None:
    """Make <out>/data a link to the folder. Raises MuseError when something else is there."""
    place = out / LINK
    if place.exists() and not place.is_symlink():
        raise MuseError(f"{place} is in the way: a cache keeps a link to its data there; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    if not place.exists() or place.resolve() != folder.resolve():
        place.unlink(missing_ok=True)
        place.symlink_to(folder.resolve(), target_is_directory=True)


def look(folder: Path, item: Item) -> tuple[int, int] | str:
    """(frames, rate in Hz) of an item's file, or why it is not usable."""
    try:
        if not item.captions:
            return "no caption"
        if not (folder / item.path).resolve().is_relative_to(folder.resolve()):
            return "outside the folder"
        with open_audio(folder / item.path) as file:
            return file.frames, file.samplerate
    except (OSError, ValueError) as error:  # BadAudio, or a path that is too long or has a zero byte
        return str(error)


def records_of(item: Item, frames: int, rate: int, seconds: float, source: str) -> list[dict]:
    """The clip records of one file, cut every `seconds`; a rest shorter than half a clip is left off.

    A caption that claims nothing names the work: it counts as correct for this work only.
    """
    length = frames / rate
    short = slug(os.path.splitext(item.name)[0])[-60:].strip("-") or "clip"
    # the name's hash keeps a/x.wav and a-x.mp3 apart
    stem = f"{short}-{hashlib.sha256(item.name.encode('utf-8', 'replace')).hexdigest()[:12]}"
    captions = [{"text": c["text"], "asks": c["asks"] or {"work": item.name}} for c in item.captions]
    return [
        {
            "id": f"{stem}-{k:02d}", "work": item.name, "family": item.family, "split": item.split,
            "path": f"{LINK}/{item.path}", "start": round(k * seconds, 6),
            "seconds": round(min(seconds, length - k * seconds), 6), "sample_rate": SAMPLE_RATE,
            "instruments": [], "mood": [], "title": Path(item.path).stem, "licence": None, "source": source,
            **dict.fromkeys(TABLES["unknown"]), **item.known, "captions": captions,
        }
        for k in range(max(1, int(length / seconds + 0.5)))
    ]  # fmt: skip
