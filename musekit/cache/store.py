"""The store: rows computed from a corpus, in shards that many processes write without talking to each other.

A shard is a safetensors file of up to `SHARD` rows with a JSON sidecar: ids, hash, what made it, from which audio. Both
are written aside and renamed, the sidecar last. A shard exists once its sidecar does, so the same command resumes after
a kill. Missing rows, and rows whose audio has changed, go into new shards, and the newer of two rows of one id counts.
So more clips cost only their own rows, and fewer clips delete nothing. `manifest.json` is the sum of the sidecars.

One memory-mapped array per kind would be simpler to read, but rows differ in length, and no network file system keeps
one file whole while several machines write to it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from musekit.config import MuseError
from musekit.corpus.claims import Clip
from musekit.distributed import Stopped
from musekit.files import decode, read_json, sha256, write_atomic

SHARD = 64  # most rows in a shard
#: Size in bytes, modification time in ns and hash of an audio file, and the clip's start and length in seconds.
Source = tuple[int, int, str, float | None, float | None]


class Shard(TypedDict):
    """The sidecar of a shard."""

    file: str
    maker: str  # the weights or settings that computed the rows
    ids: list[str]  # in the order of the rows
    set_aside: dict[str, str]  # ids without a row, with the reason
    sha256: str
    bytes: int
    made: NotRequired[float]  # seconds since 1970; missing in shards of the first version
    sources: NotRequired[dict[str, Source | None]]  # None: the audio file was missing


class Manifest(TypedDict):
    """All shards of one kind and maker."""

    kind: str
    maker: str
    complete: bool  # every wanted id has a row or a reason
    rows: int
    set_aside: dict[str, str]
    shards: list[Shard]  # oldest first, without their sources


def read_clips(cache: Path, split: str | None = None, fields: Iterable[str] | None = None) -> list[dict]:
    """The clip records of a cache (see `corpus.claims.Clip`), sorted by id.

    `split` and `fields` keep only those clips and attributes in memory: a million captions take gigabytes. Raises
    MuseError when there are no clips, or names the line that is damaged.
    """
    path, clips = Path(cache) / "clips.jsonl", []
    if not path.exists():
        raise MuseError(f"{path} is missing; make the cache first: musekit cache --corpus scores")
    fields = None if fields is None else frozenset(fields)
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}, (`musekit cache --kinds clips` makes it again)"
            if split in (None, decode(line, Clip, where).split):
                clip = msgspec.json.decode(line)
                clips.append(clip if fields is None else {k: v for k, v in clip.items() if k in fields})
    return sorted(clips, key=lambda clip: clip["id"])


@functools.lru_cache(maxsize=256)  # the clips of one long file are neighbours
def _hash(path: Path, size: int, modified: int) -> str:
    return sha256(path)[:16]


class Sources:
    """The audio files of a cache's clips, by which changed audio is noticed.

    As in git, a file counts as unchanged while its size and modification time are the same; otherwise its hash decides.
    """

    def __init__(self, cache: Path, clips: dict[str, dict]):
        self.cache, self.clips = Path(cache), clips

    def _stat(self, key: str) -> tuple[Path, int, int] | None:
        path = self.cache / self.clips[key]["path"]
        try:
            stat = path.stat()
        except OSError:
            return None
        return path, stat.st_size, stat.st_mtime_ns

    def _part(self, key: str) -> tuple[float | None, float | None]:
        clip = self.clips[key]
        return (clip["start"], clip["seconds"]) if "start" in clip else (None, None)

    def of(self, key: str) -> Source | None:
        """The source of a clip; None when its file is missing."""
        stat = self._stat(key)
        return stat and (*stat[1:], _hash(*stat), *self._part(key))

    def unchanged(self, key: str, then: Source | None) -> bool:
        """Whether a row computed from `then` is still valid, also when its file was deleted to save space."""
        stat = self._stat(key)
        if stat is None:
            return True
        if then is None or then[3:] != self._part(key):
            return False
        return then[:2] == stat[1:] or then[2] == _hash(*stat)


def read_shards(folder: Path) -> list[Shard]:
    """The sidecars of all finished shards, of any maker, oldest first."""
    shards = []
    for path in folder.glob("[0-9]*.json"):
        with contextlib.suppress(MuseError, FileNotFoundError):  # damaged: these rows are computed again
            shards.append(read_json(path, Shard))
    return sorted(shards, key=lambda shard: (shard.get("made", 0.0), shard["file"]))


def newest(shards: Iterable[Shard], maker: str) -> dict[str, Shard]:
    """{id: the shard that counts for it} among this maker's shards, oldest first."""
    return {key: s for s in shards if s["maker"] == maker for key in (*s["ids"], *s["set_aside"])}


def merge_manifest(folder: Path, wanted: Iterable[str], maker: str) -> Manifest:
    """Write manifest.json from the sidecars, and delete shards none of whose rows count any more.

    Two ranks that finish together both write it. Each looks again after it has written, so the last one to write has
    seen everything that was finished before.
    """
    folder, wanted, before = Path(folder), list(wanted), None
    while (shards := read_shards(folder)) != before:
        before, rows = shards, newest(shards, maker)
        files = {shard["file"] for shard in rows.values()}
        live = [s for s in shards if s["file"] in files]
        reasons = {key: s["set_aside"][key] for key, s in rows.items() if key in s["set_aside"]}
        short = [{k: v for k, v in s.items() if k != "sources"} for s in live]
        complete, number = all(key in rows for key in wanted), len(rows) - len(reasons)
        manifest = {"kind": folder.name, "maker": maker, "complete": complete, "rows": number}
        manifest |= {"set_aside": reasons, "shards": short}
        write_atomic(folder / "manifest.json", json.dumps(manifest))
        for shard in shards:
            if shard["file"] not in files:
                (folder / shard["file"]).with_suffix(".json").unlink(missing_ok=True)
                (folder / shard["file"]).unlink(missing_ok=True)
    return manifest


def build_shards(
    folder: Path,
    ids: Iterable[str],
    maker: str,
    compute: Callable[[list[str]], tuple[dict[str, torch.Tensor], dict[str, str]]],
    *,
    show: bool = False,
    rank: int = 0,
    world: int = 1,
    sources: Sources | None = None,
    verify: bool = False,
    stop: Callable[[], int] = lambda: 0,
) -> Manifest:
    """Compute this rank's missing rows into new shards, then merge the manifest.

    compute: ids -> ({name: (n, ...) tensor}, {id: reason}); ids with a reason have no row. A rank owns an id by the
    hash of its audio file (without `sources`: of the id), so ranks need not know what the others have finished.
    verify: hash every shard, not only check its size. Raises `Stopped` after the shard in hand when `stop()` says so.
    """
    from tqdm import tqdm

    folder, ids = Path(folder), sorted(ids)
    folder.mkdir(parents=True, exist_ok=True)
    shards = read_shards(folder)
    last = max((shard.get("made", 0.0) for shard in shards), default=0.0)
    if any(shard["maker"] != maker for shard in shards):
        merge_manifest(folder, ids, maker)  # rows of another maker do not count any more
    rows = newest(shards, maker)
    damaged = {s["file"]: damage(folder, s, verify) for s in shards}

    def mine(key: str) -> bool:
        name = sources.clips[key]["path"] if sources else key
        return zlib.crc32(name.encode("utf-8", "replace")) % world == rank

    def current(key: str) -> bool:
        if key not in rows or damaged[rows[key]["file"]]:
            return False
        return sources is None or sources.unchanged(key, rows[key].get("sources", {}).get(key))

    missing = [key for key in ids if mine(key) and not current(key)]
    chunks = [missing[i : i + SHARD] for i in range(0, len(missing), SHARD)]
    for chunk in tqdm(chunks, folder.name, unit="shard", disable=not show):
        if code := stop():
            merge_manifest(folder, ids, maker)
            raise Stopped(code)
        tensors, set_aside = compute(chunk)
        made = max(time.time(), last + 1)  # newer than the rows that it replaces, also where clocks differ
        shard = Shard(maker=maker, ids=[key for key in chunk if key not in set_aside], set_aside=set_aside, made=made)
        if sources:
            shard["sources"] = {key: sources.of(key) for key in chunk}
        write_shard(folder, chunk, shard, tensors)
    return merge_manifest(folder, ids, maker)


def write_shard(folder: Path, ids: list[str], shard: Shard, tensors: dict[str, torch.Tensor]) -> None:
    """Write a file and its sidecar, named by a hash of maker and ids: after a kill the same work has the same name."""
    name = int(hashlib.sha256("\n".join([shard["maker"], *ids]).encode()).hexdigest(), 16) % 10**16
    data = save({k: v.contiguous() for k, v in tensors.items()})
    shard |= {"file": f"{name:016d}.safetensors", "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    write_atomic(folder / shard["file"], data)
    write_atomic(folder / f"{name:016d}.json", json.dumps(shard))


def damage(folder: Path, shard: Shard, verify: bool = False) -> str:
    """What is wrong with a shard's file, by its size and with `verify` by its hash; "" for nothing."""
    path = folder / shard["file"]
    try:
        if (size := path.stat().st_size) != shard["bytes"]:
            return f"has {size:,} bytes instead of {shard['bytes']:,}"
        return "differs from its hash" if verify and sha256(path) != shard["sha256"] else ""
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"


class Shards:
    """Reads rows of one kind by id. Files are memory-mapped: only the rows that are asked for are read.

    A file is checked by its size when it is first used; `musekit cache --verify` checks hashes. `damaged="refuse"`
    raises MuseError at the first damaged file. "skip" checks every file at once and leaves the rows of damaged ones
    out; `skipped` is {file: rows}.
    """

    def __init__(self, folder: Path, damaged: Literal["refuse", "skip"] = "refuse", warn: Callable = print):
        self.folder = Path(folder)
        try:
            self.manifest = read_json(self.folder / "manifest.json", Manifest)
        except (OSError, MuseError) as error:
            again = "run `musekit cache` with the same options again"
            raise MuseError(f"{self.folder} has no whole manifest; {again}") from error
        shards = self.manifest["shards"]
        self.skipped = {s["file"]: len(s["ids"]) for s in shards if damaged == "skip" and damage(self.folder, s)}
        if self.skipped:
            rows, names = sum(self.skipped.values()), ", ".join(self.skipped)
            warn(f"{self.folder}: {len(self.skipped)} damaged shards skipped, {rows} rows left out: {names}")
        places = {key: (n, row) for n, shard in enumerate(shards) for row, key in enumerate(shard["ids"])}
        self.index = {
            key: (number, row)
            for key, (number, row) in sorted(places.items())
            if key not in self.manifest["set_aside"] and shards[number]["file"] not in self.skipped
        }
        self._open: dict[int, dict[str, torch.Tensor]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self.index

    def __len__(self) -> int:
        return len(self.index)

    def _arrays(self, number: int) -> dict[str, torch.Tensor]:
        """The arrays of a file as views of the mapped file."""
        if number not in self._open:
            shard = self.manifest["shards"][number]
            wrong = damage(self.folder, shard)
            try:
                if not wrong:
                    file = safe_open(self.folder / shard["file"], framework="pt")
                    self._open[number] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            except (OSError, SafetensorError) as error:
                wrong = f"cannot be read ({error})"
            if wrong:
                raise MuseError(
                    f"{self.folder / shard['file']} {wrong}; run `musekit cache` again with --verify, or train without"
                    " it: --train.damaged skip"
                )
        return self._open[number]

    def row(self, key: str, name: str = "x", start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Rows `start:stop` of the first axis of that id's array. Raises MuseError for an unknown id."""
        if key not in self.index:
            raise MuseError(f"{key!r} is not in {self.folder}; run `musekit cache` again")
        number, row = self.index[key]
        return self._arrays(number)[name][row, start:stop].clone()

    def row_length(self, key: str, name: str = "x") -> int:
        """Length of the first axis of that id's array, padding left out."""
        number, row = self.index[key]
        arrays = self._arrays(number)
        return int(arrays["length"][row]) if "length" in arrays else arrays[name].shape[1]

    def all(self, keys: Iterable[str], name: str = "x") -> torch.Tensor:
        """The arrays of these ids, stacked."""
        return torch.stack([self.row(key, name) for key in keys])


def caption_id(text: str) -> str:
    """The id of a caption's row of token states."""
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def config_hash(*parts) -> str:
    """A short hash of anything that has a repr."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def as_half(x: np.ndarray | torch.Tensor) -> torch.Tensor:
    """float16: enough for what one network computed and another reads."""
    return torch.as_tensor(x).to(torch.float16)
