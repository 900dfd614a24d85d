"""The cache: rows computed from a corpus, in shards that many processes write without talking to each other.

A shard is a safetensors file of up to `SHARD` rows (16 times as many by a GPU) with a JSON sidecar: ids, hash, what
made it, from which audio. Both are written aside and renamed, the sidecar last. A shard exists once its sidecar does,
so the same command resumes after a kill. Missing rows, and rows whose audio has changed, go into new shards, and the
newer of two rows of one id counts. So more clips cost only their own rows, and fewer clips delete nothing.
`manifest.json` is the sum of the sidecars.
"""

import contextlib
import functools
import hashlib
import json
import sys
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from tqdm import tqdm

from musekit.config import MuseError
from musekit.corpus.processes import in_processes
from musekit.files import decode, read_json, sha256, write_atomic
from musekit.gpu import device

SHARD = 64  # most rows in a shard that a CPU computes: what a kill loses is a minute's work


class Caption(TypedDict):
    """A sentence, and what it claims of the clip."""

    text: str
    asks: NotRequired[dict]


@dataclass(frozen=True)
class Clip:
    """The fields of every line of a cache's clips.jsonl. Other fields (key, bpm, ...) depend on the dataset."""

    id: str
    work: str  # the piece, or the recording's name in its dataset
    family: str  # works that must not be in two splits: variants of a tune, augmented copies, an artist
    split: str  # "train", "valid", "test", or "eval" (AudioSet's evaluation clips)
    path: str  # of the audio file, absolute or relative to the cache's folder
    seconds: float  # length of the clip
    sample_rate: int  # Hz, at which the clip is read
    captions: list[Caption] = field(default_factory=list)
    start: float | None = None  # seconds from the beginning of the file; None: the clip is the whole file


class Shard(TypedDict):
    """The sidecar of a shard."""

    file: str
    maker: str  # the weights or settings that computed the rows
    ids: list[str]  # in the order of the rows
    set_aside: dict[str, str]  # ids without a row, with the reason
    sha256: str
    bytes: int
    made: float  # seconds since 1970
    sources: NotRequired[dict[str, list | None]]  # see `source_of`


class Manifest(TypedDict):
    """All shards of one kind and maker."""

    kind: str
    maker: str
    complete: bool  # every wanted id has a row or a reason
    rows: int
    set_aside: dict[str, str]
    shards: list[Shard]  # oldest first, without their sources


def read_clips(cache: Path, split: str | None = None, fields: Collection[str] | None = None) -> list[dict]:
    """The clip records of a cache (see `Clip`), sorted by id; `split` and `fields` keep only those in memory.

    Raises MuseError when there are no clips, or names the line that is damaged.
    """
    path, clips = Path(cache) / "clips.jsonl", []
    # what is not kept is skipped, not read: of 100,000 clips that is most of time and memory
    kept = dict.fromkeys(("id", "split", *(fields or ())), Any) | get_type_hints(Clip)
    kind = dict if fields is None else TypedDict("Kept", {k: NotRequired[kept[k]] for k in {"id", "split", *fields}})
    if not path.exists():
        raise MuseError(f"{path} is missing; make the cache first: musekit cache --corpus scores")
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{path}, line {number}, (`musekit cache --kinds clips` makes it again)"
            if fields is None:
                decode(line, Clip, where)
            clip = decode(line, kind, where)
            if split in (None, clip["split"]):
                clip["id"] = sys.intern(clip["id"])  # one copy for all kinds of shards
                clips.append(clip)
                if fields and "split" not in fields:
                    del clip["split"]
    return sorted(clips, key=lambda clip: clip["id"])


def source_of(cache: Path, clip: dict) -> list | None:
    """[bytes and modification time in ns of a clip's file, start and length in s], or None for a file that is gone."""
    path, cut = cache / clip["path"], ("start", "seconds") if "start" in clip else ()
    stat = path.stat() if path.exists() else None
    return stat and [stat.st_size, stat.st_mtime_ns, *([clip[name] for name in cut] or [None, None])]


def read_shards(folder: Path) -> list[Shard]:
    """The sidecars of all finished shards, of any maker, oldest first."""
    shards = []
    for path in folder.glob("[0-9]*.json"):
        with contextlib.suppress(MuseError, FileNotFoundError):  # damaged: these rows are computed again
            shard = read_json(path, Shard)
            shards += [shard] if shard["file"] == f"{path.stem}.safetensors" else []  # else it is not ours
    return sorted(shards, key=lambda shard: (shard["made"], shard["file"]))


def newest(shards: Iterable[Shard], maker: str) -> dict[str, Shard]:
    """{id: the shard that counts for it} among this maker's shards, oldest first."""
    return {key: s for s in shards if s["maker"] == maker for key in (*s["ids"], *s["set_aside"])}


def merge_manifest(folder: Path, wanted: Iterable[str], maker: str) -> Manifest:
    """Write manifest.json from the sidecars, and delete shards none of whose rows count any more.

    Each of two ranks that finish together looks again after it has written, so the last one has seen everything.
    """
    wanted, before = list(wanted), None
    while (shards := read_shards(folder)) != before:
        before, rows = shards, newest(shards, maker)
        files = {shard["file"] for shard in rows.values()}
        reasons = {key: s["set_aside"][key] for key, s in rows.items() if key in s["set_aside"]}
        live = [{k: v for k, v in s.items() if k != "sources"} for s in shards if s["file"] in files]
        manifest = Manifest(
            kind=folder.name, maker=maker, complete=all(key in rows for key in wanted),
            rows=len(rows) - len(reasons), set_aside=reasons, shards=live,
        )  # fmt: skip
        write_atomic(folder / "manifest.json", json.dumps(manifest))
        for shard in (s for s in shards if s["file"] not in files):
            path = folder / shard["file"]
            path.with_suffix(".json").unlink(missing_ok=True)
            if path.is_file() and sha256(path) == shard["sha256"]:  # else somebody's own file
                path.unlink(missing_ok=True)
    return manifest


def build_shards(
    folder: Path,
    ids: Iterable[str],
    maker: str,
    compute: Callable[[list[str]], tuple[dict[str, torch.Tensor], dict[str, str]]],
    *,
    clips: dict[str, dict] | None = None,
    workers: int = 1,
    share: tuple[int, int] = (0, 1),
    show: bool = False,
    remake: bool = True,
    verify: bool = False,
    stop: Callable[[], int] = lambda: 0,
) -> Manifest:
    """Compute this rank's missing rows into new shards, then merge the manifest. The same call resumes.

    compute: ids -> ({name: (n, ...) tensor}, {id: reason}); ids with a reason have no row. `workers` processes call it.
    clips: the record of each id, where rows are made from audio. share: (rank, of how many); a rank owns an id by its
    hash. `remake=False` raises MuseError instead of replacing rows of another maker. verify: hash every shard, not only
    check its size. Raises `Stopped` after the shards in work when `stop()` says so.
    """
    folder, ids = Path(folder), sorted(ids)
    shards = read_shards(folder)
    if other := [shard for shard in shards if shard["maker"] != maker]:
        if not remake:
            theirs = f"{sum(len(shard['ids']) for shard in other):,} rows of {other[0]['maker']}, not {maker}"
            raise MuseError(f"{folder} has {theirs}: give --remake to make them again, or another --out")
        merge_manifest(folder, ids, maker)  # rows of another maker do not count any more
    rows = newest(shards, maker)
    there = [s for s in shards if (p := folder / s["file"]).exists() and p.stat().st_size == s["bytes"]]
    whole = {s["file"] for s in there if not verify or sha256(folder / s["file"]) == s["sha256"]}
    mine = [key for key in ids if zlib.crc32(key.encode("utf-8", "replace")) % share[1] == share[0]]
    sources = {key: source_of(folder.parent, clips[key]) for key in mine} if clips else {}

    def current(key: str) -> bool:
        """A row stays valid when its clip's file is deleted to save space."""
        if key not in rows or rows[key]["file"] not in whole:
            return False
        return sources.get(key) in (None, rows[key].get("sources", {}).get(key))

    missing = [key for key in mine if not current(key)]
    if clips:  # a file's clips in their order, so that it is read once
        missing.sort(key=lambda key: (clips[key]["path"], clips[key].get("start") or 0.0, key))
    size = SHARD * (16 if device().type == "cuda" else 1)
    chunks = [missing[i : i + size] for i in range(0, len(missing), size)]
    work = [(chunk, {key: sources[key] for key in chunk if clips}) for chunk in chunks]
    done = in_processes(functools.partial(write_shard, folder, maker, compute), work, workers, stop)
    try:
        list(tqdm(done, folder.name, len(chunks), unit="shard", disable=not show))
    finally:
        manifest = merge_manifest(folder, ids, maker)
    return manifest


def write_shard(folder: Path, maker: str, compute: Callable, work: tuple[list[str], dict]) -> None:
    """Compute and write a file and its sidecar, named by a hash of maker and ids: after a kill it is written again."""
    ids, sources = work
    tensors, set_aside = compute(ids)
    name = int(hashlib.sha256("\n".join([maker, *ids]).encode()).hexdigest(), 16) % 10**16
    data = save({k: v.contiguous() for k, v in tensors.items()})
    shard = Shard(
        file=f"{name:016d}.safetensors", maker=maker, ids=[key for key in ids if key not in set_aside],
        set_aside=set_aside, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), made=time.time(),
        sources=sources,
    )  # fmt: skip
    write_atomic(folder / shard["file"], data)
    write_atomic(folder / f"{name:016d}.json", json.dumps(shard))


class Shards:
    """Reads rows of one kind by id, memory-mapped. Raises MuseError without a manifest or for a damaged one."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        try:
            self.manifest = read_json(self.folder / "manifest.json", Manifest)
        except (OSError, MuseError) as error:
            raise MuseError(f"{self.folder} has no whole manifest; run `musekit cache` again") from error
        places = {}
        for n, shard in enumerate(self.manifest["shards"]):
            places |= {sys.intern(key): (n, row) for row, key in enumerate(shard.pop("ids"))}
        self.index = {key: places[key] for key in sorted(places) if key not in self.manifest["set_aside"]}
        self._open: dict[int, dict[str, torch.Tensor]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self.index

    def __len__(self) -> int:
        return len(self.index)

    def _arrays(self, number: int) -> dict[str, torch.Tensor]:
        """The arrays of a file as views of the mapped file."""
        if number not in self._open:
            shard = self.manifest["shards"][number]
            path = self.folder / shard["file"]
            try:
                if (size := path.stat().st_size) != shard["bytes"]:
                    raise OSError(f"it has {size:,} bytes instead of {shard['bytes']:,}")
                self._open[number] = load_file(path)
            except (OSError, SafetensorError) as error:
                raise MuseError(f"{path} is damaged ({error}); run `musekit cache` again with --verify") from error
        return self._open[number]

    def row(self, key: str, name: str = "x", start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Rows `start:stop` of the first axis of that id's array. Raises MuseError for an unknown id."""
        if key not in self.index:
            raise MuseError(f"{key!r} is not in {self.folder}; run `musekit cache` again")
        number, row = self.index[key]
        return self._arrays(number)[name][row, start:stop].clone()

    def has(self, key: str, name: str) -> bool:
        """Whether that id has an array of this name."""
        return name in self._arrays(self.index[key][0])

    def row_length(self, key: str) -> int:
        """Length of the first axis of that id's array, padding left out."""
        number, row = self.index[key]
        arrays = self._arrays(number)
        return int(arrays["length"][row]) if "length" in arrays else arrays["x"].shape[1]

    def all(self, keys: Sequence[str]) -> torch.Tensor:
        """The arrays of these ids, stacked."""
        first = self.row(keys[0])
        found = first.new_empty(len(keys), *first.shape)
        for row, key in zip(found, keys, strict=True):
            row[:] = self.row(key)
        return found


def caption_id(text: str) -> str:
    """The id of a caption's row of token states."""
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def config_hash(*parts) -> str:
    """A short hash of anything that has a repr."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
