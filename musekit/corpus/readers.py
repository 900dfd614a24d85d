"""Readers: which dataset a folder holds, and its audio cut into clips with their records.

Nothing is copied or converted: a record points into the dataset's folder through the link <out>/data, so a corpus of a
terabyte stays where it is, and when it moves, the same command links it again.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from musekit.config import MuseError, suggest
from musekit.corpus.datasets import BESIDE, CAPTION_TABLES, READERS, TABLES, Item, clean
from musekit.corpus.listing import AUDIO, OTHER, Listing
from musekit.corpus.processes import end_if
from musekit.corpus.scores import slug
from musekit.corpus.sound import MIN_SECONDS, SAMPLE_RATE, BadAudio, Sound
from musekit.files import write_atomic

LINK = "data"  # in the cache's folder
CHUNK = 64  # files that a thread opens at a time
NAMES = 3  # that are printed for a reason
NO_CAPTION = (
    f"no caption: looked for {', '.join(CAPTION_TABLES)} in the folder or its sub-folders, and for"
    f" {', '.join(f'<name>{ending}' for ending in BESIDE)} beside the file"
)
NOT_IN_TABLE = "no caption in the table; texts beside a file are read only where there is no table"
SPLITS = ("train", "valid", "eval", "test")  # a family is in the last of these that any of its clips names


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
    tables = {name: ", ".join([*READERS[name][1]][: None if corpus else 1]) for name in names}  # or the first of each
    looked = "; ".join(f"{name}: {tables[name]}, {READERS[name][2]}" for name in names)
    if data is None:
        raise MuseError(f"--corpus {corpus} needs --data FOLDER, the unpacked dataset ({looked})")
    folder = data.expanduser()
    if not folder.is_dir():
        raise MuseError(f"no folder at {data}: --data is the folder that the dataset was unpacked to")
    for name in names:
        if any((folder / table).is_file() for table in READERS[name][1]):
            return name, folder
    if "folder" in names and any(file.suffix.lower() in AUDIO + OTHER for file in folder.rglob("*")):
        return "folder", folder
    raise MuseError(f"{data} does not hold {corpus or 'a known dataset'}. Looked for {looked}")


def table(what: str, number: int, details: str, reasons: dict[str, str]) -> list[str]:
    """Lines about one step of a cache: what it took, and for each reason the first names of what it did not take.

    reasons: by the name of a file or clip; what follows " (" in a reason is about this one only.
    """
    lines, names = [f"{what:10s} {number:9,}  taken {details}"], {}
    for name, reason in reasons.items():
        why, _, detail = reason.partition(" (")
        names.setdefault(why, []).append(clean(f"{name:.100} ({detail}" if detail else f"{name:.100}"))
    for why, those in sorted(names.items(), key=lambda item: -len(item[1])):
        more = ", ..." if len(those) > NAMES else ""
        lines.append(f"{what:10s} {len(those):9,}  not taken, {why}: {', '.join(those[:NAMES])}{more}")
    return lines


def read_corpus(
    name: str, folder: Path, out: Path, seconds: float, stop: Callable[[], int] = lambda: 0
) -> tuple[list[dict], list[str]]:
    """Cut a dataset's files into clips and write <out>/clips.jsonl; returns the records and a `table` of them.

    seconds: length of the longest clip. Unusable files go to <out>/set_aside.jsonl with their reasons. Raises MuseError
    when nothing is usable, after printing the table, and `Stopped` between files when `stop()` says so.
    """
    listing = Listing(folder)
    items = join(READERS[name][0](listing))
    link(folder, out)
    records, reasons = [], dict(listing.passed_over)
    chunks = [items[i : i + CHUNK] for i in range(0, len(items), CHUNK)]
    pool = ThreadPoolExecutor(8)  # reading a header is waiting for the disk, not work
    try:
        has_table = any(os.path.basename(path) in CAPTION_TABLES for path in listing.files)
        no_caption = "no caption" if name != "folder" else NOT_IN_TABLE if has_table else NO_CAPTION
        looked = pool.map(partial(look, listing, no_caption), chunks)
        for chunk, found in zip(chunks, tqdm(looked, name, len(chunks), disable=None), strict=True):
            end_if(stop)
            for item, about in zip(chunk, found, strict=True):
                if isinstance(about, str):
                    reasons.setdefault(item.name, about)
                else:
                    records += records_of(item, *about, seconds, name)
    finally:
        pool.shutdown(cancel_futures=True)
    aside = [json.dumps({"file": file, "reason": reason}) + "\n" for file, reason in reasons.items()]
    write_atomic(out / "set_aside.jsonl", "".join(aside))
    if name == "folder":
        hold_out(records)
    splits = Counter(r["split"] for r in records)
    counts = ", ".join(f"{s} {splits[s]:,}" for s in SPLITS if splits[s])
    works, hours = len({r["work"] for r in records}), sum(r["seconds"] for r in records) / 3600
    captions = len({c["text"] for r in records for c in r["captions"]})
    details = f"of {works:,} files of {name}, {hours:,.1f} h, {captions:,} captions{counts and f' ({counts})'}"
    lines = table("clips", len(records), details, reasons)
    if not records:
        print("\n".join(lines))
        raise MuseError(f"nothing usable in {folder}: the table above says why")
    write_atomic(out / "clips.jsonl", "".join(json.dumps(r) + "\n" for r in records))
    return records, lines


def hold_out(records: list[dict]) -> None:
    """Move the smallest family, if there are two, to the split "valid" where none is in it: training needs one.

    It comes from the test split, if that has any.
    """
    size, split = Counter(r["family"] for r in records), {r["family"]: r["split"] for r in records}
    smallest = min(size, key=lambda family: (split[family] != "test", size[family], family), default=None)
    for record in records if len(size) > 1 and "valid" not in split.values() else ():
        if record["family"] == smallest:
            record["split"] = "valid"


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
    for item in joined.values():
        if item.split != of_family[item.family]:
            joined[item.name] = replace(item, split=of_family[item.family])
    return [joined[name] for name in sorted(joined)]


def link(folder: Path, out: Path) -> None:
    """Make <out>/data a link to the folder. Raises MuseError when something else is there."""
    place = out / LINK
    theirs = place.is_symlink() and not (out / "set_aside.jsonl").exists() and place.resolve() != folder.resolve()
    if theirs or place.exists() and not place.is_symlink():
        raise MuseError(f"{place} is in the way: a cache keeps a link to its data there; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    if not place.exists() or place.resolve() != folder.resolve():
        place.unlink(missing_ok=True)
        place.symlink_to(folder.resolve(), target_is_directory=True)


def look(listing: Listing, no_caption: str, items: list[Item]) -> list[tuple | str]:
    """(path, first second, last second) of each item's file or stretch, or why it is not usable."""
    found = []
    for item in items:
        try:
            if not item.captions:
                raise BadAudio(no_caption)
            path = listing.find(item.path)
            sound = Sound(f"{listing.folder}/{path}")
            start, length = item.start or 0.0, sound.frames / sound.samplerate
            end = length if item.end is None else min(item.end, length)
            cut = start >= length or abs(length - ((item.end or 0) - start)) <= 0.5
            if item.end is not None and start >= 0 and cut and length <= item.end - start + 0.5:
                start, end = 0.0, length  # the file is the stretch, cut from another one
            if start < 0 or end - start < MIN_SECONDS:
                raise BadAudio("its stretch is shorter than 1 s, or beyond the file's end")
            found.append((path, start, end))
        except (OSError, ValueError) as error:  # BadAudio, or a path that is too long or has a zero byte
            found.append(str(error))
    return found


def records_of(item: Item, path: str, start: float, end: float, seconds: float, source: str) -> list[dict]:
    """The clip records of one file or stretch, cut every `seconds`; a rest shorter than half a clip is left off.

    A caption that claims nothing names the work: it counts as correct for this work only.
    """
    length = end - start
    short = slug(os.path.splitext(item.name)[0])[-60:].strip("-") or "clip"
    # the name's hash keeps a/x.wav and a-x.mp3 apart
    stem = f"{short}-{hashlib.sha256(item.name.encode('utf-8', 'replace')).hexdigest()[:12]}"
    captions = [{"text": c["text"], "asks": c["asks"] or {"work": item.name}} for c in item.captions]
    return [
        {
            "id": f"{stem}-{k:02d}", "work": item.name, "family": item.family, "split": item.split,
            "path": f"{LINK}/{path}", "start": round(start + k * seconds, 6),
            "seconds": round(min(seconds, length - k * seconds), 6), "sample_rate": SAMPLE_RATE,
            "instruments": [], "mood": [], "title": os.path.splitext(os.path.basename(path))[0],
            "licence": None, "source": source, **dict.fromkeys(TABLES["unknown"]), **item.known, "captions": captions,
        }
        for k in range(max(1, int(length / seconds + 0.5)))
    ]  # fmt: skip
