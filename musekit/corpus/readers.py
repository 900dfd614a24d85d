"""Readers: which dataset a folder holds, and its clip records.

A reader is a module with LOOKED_FOR (the files of its dataset), found(folder) and items(folder, lacks, keep_apart).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from musekit.config import MuseError, suggest
from musekit.corpus import folder as plain
from musekit.corpus import music4all, musicbench, recordings
from musekit.corpus.sound import BadAudio
from musekit.distributed import Stopped
from musekit.files import write_atomic

READERS = {
    "musicbench": musicbench,
    "music4all": music4all,
    "folder": plain,  # last: it accepts any audio
}


def choose(corpus: str | None, data: Path | None) -> tuple[str, Path | None]:
    """(reader's name, or "scores"; the folder it reads) from --corpus and --data; --corpus may be the folder itself.

    Raises MuseError for an unknown name, a missing folder, or one that does not hold what the reader looks for.
    """
    if data is None:
        if corpus in (None, "scores"):
            return "scores", None
        if corpus in READERS:
            raise MuseError(f"--corpus {corpus} needs --data FOLDER, the one with {READERS[corpus].LOOKED_FOR}")
        if not Path(corpus).expanduser().is_dir():
            if "/" in corpus:
                raise MuseError(f"no folder of audio at {corpus}: give the one that holds the files and captions")
            raise suggest(corpus, ["scores", *READERS], "corpus, and no folder,")
        corpus, data = None, Path(corpus)
    folder = data.expanduser()
    if not folder.is_dir():
        raise MuseError(f"no folder at {data}: --data is the folder that the dataset was unpacked to")
    if corpus is None:
        for name, reader in READERS.items():
            if reader.found(folder):
                return name, folder
        looked = "; ".join(f"{name}: {reader.LOOKED_FOR}" for name, reader in READERS.items())
        raise MuseError(f"{data} holds no known dataset. Looked for {looked}")
    if corpus == "scores":
        raise MuseError("--corpus scores comes with music21 and takes no --data; leave one of the two out")
    if corpus not in READERS:
        raise suggest(corpus, READERS, "corpus")
    if not READERS[corpus].found(folder):
        raise MuseError(f"{data} does not hold {corpus}: looked for {READERS[corpus].LOOKED_FOR}")
    return corpus, folder


def read_corpus(
    name: str,
    folder: Path,
    out: Path,
    seconds: float,
    keep_apart: bool = True,
    progress: bool = True,
    stop: Callable[[], int] = lambda: 0,
) -> tuple[list[dict], str]:
    """Cut a dataset's files into clips and write <out>/clips.jsonl; returns the records and a summary.

    seconds: length of the longest clip. Unusable files go to <out>/set_aside.jsonl with their reasons. Raises MuseError
    when nothing is usable, and `Stopped` between files when `stop()` says so.
    """
    from tqdm import tqdm

    lacks: Counter = Counter()
    items = recordings.join(READERS[name].items(folder, lacks, keep_apart))
    recordings.link(folder, out)
    records, aside = [], []
    pool = ThreadPoolExecutor(8)  # reading a header is waiting for the disk, not work
    try:
        found = zip(items, pool.map(partial(recordings.look, folder), items))
        for item, about in tqdm(found, name, len(items), disable=not progress, mininterval=2):
            if code := stop():
                raise Stopped(code)
            if isinstance(about, BadAudio):
                aside.append({"file": item.name, "reason": about.reason})
            else:
                records += recordings.records_of(item, *about, seconds, name)
    finally:
        pool.shutdown(cancel_futures=True)
    lacks.update(re.sub(r" \(.*", "", a["reason"]) for a in aside)
    write_atomic(out / "set_aside.jsonl", "".join(json.dumps(a) + "\n" for a in aside))
    if not records:
        why = "; ".join(f"{n} x {reason}" for reason, n in lacks.most_common(3)) or "no audio files found"
        raise MuseError(f"nothing usable in {folder}: {why}")
    write_atomic(out / "clips.jsonl", "".join(json.dumps(r) + "\n" for r in records))
    return records, summary(name, records, lacks)


def summary(name: str, records: list[dict], lacks: Counter) -> str:
    """Counts of what was found, and of what was not, by reason, as lines of text."""
    splits = Counter(r["split"] for r in records)
    counts = ", ".join(f"{s} {splits[s]:,}" for s in recordings.SPLITS if splits[s])
    works, hours = len({r["work"] for r in records}), sum(r["seconds"] for r in records) / 3600
    captions = len({c["text"] for r in records for c in r["captions"]})
    lines = [f"{name}: {len(records):,} clips of {works:,} files, {hours:,.1f} h, {captions:,} captions ({counts})"]
    if lacks := +lacks:
        lines += ["left out or missing (files are named in set_aside.jsonl):"]
        lines += [f"  {n:,} x {reason}" for reason, n in lacks.most_common()]
    return "\n".join(lines)
