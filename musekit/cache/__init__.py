"""The cache: what does not change during training is computed once and kept in shards.

A shard is a safetensors file of up to `SHARD` rows with a JSON sidecar (ids, hash, what made it, from which sound). A
shard is finished when its sidecar exists and names the same ids and the same maker, so the same command resumes after a
kill, and `manifest.json` is only the sum of the sidecars. Ranks need no coordination: shards are dealt round robin, and
whoever finishes last writes the whole sum.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from musekit.cache.sources import Sources
from musekit.config import MuseError
from musekit.distributed import Stopped
from musekit.files import sha256, write_atomic

SHARD = 64


def read_clips(cache: Path) -> list[dict]:
    """The clip records of a cache, sorted by id. Raises MuseError when there are none."""
    path = Path(cache) / "clips.jsonl"
    if not path.exists():
        raise MuseError(f"{path} is missing; make the cache first: musekit cache --corpus scores")
    try:
        return sorted((json.loads(line) for line in path.read_text().split("\n") if line), key=lambda c: c["id"])
    except (ValueError, KeyError, TypeError) as error:
        raise MuseError(f"{path} is damaged ({error}); make it again: musekit cache --kinds clips") from error


def plan_hash(ids: list[str], maker: str) -> str:
    """Names one shard's content: these ids, made by that."""
    return hashlib.sha256("\n".join([maker, *ids]).encode()).hexdigest()[:16]


def build_shards(
    folder: Path,
    ids: Iterable[str],
    maker: str,
    compute: Callable[[list[str]], tuple[dict[str, torch.Tensor], dict[str, str]]],
    *,
    progress: Callable = lambda shards, **kw: shards,
    rank: int = 0,
    world: int = 1,
    sources: Sources | None = None,
    verify: bool = False,
    stop: Callable[[], int] = lambda: 0,
) -> dict:
    """Compute the missing shards of `folder` and write its manifest.

    `compute(ids)` returns ({name: (n, ...) tensor}, {id: reason}) where ids with a reason were set aside and have
    no row. Shards are dealt to ranks round robin. `sources`: a shard whose sound has changed is made again; `verify`:
    one that differs from its hash, too. When `stop()` says so, raises Stopped after the shard in hand.
    """
    folder, ids = Path(folder), sorted(ids)
    folder.mkdir(parents=True, exist_ok=True)
    plan = [ids[i : i + SHARD] for i in range(0, len(ids), SHARD)]
    if read_sidecar(folder / "manifest.json").get("maker", maker) != maker:
        merge_manifest(folder, len(plan), maker)  # rows of another maker are no longer told of
    for number in progress(range(rank, len(plan), world), desc=folder.name):
        if code := stop():
            merge_manifest(folder, len(plan), maker)
            raise Stopped(code)
        path, sidecar = folder / f"{number:05d}.safetensors", folder / f"{number:05d}.json"
        want = plan_hash(plan[number], maker)
        if finished(path, sidecar, plan[number], want, sources, verify):
            continue
        tensors, set_aside = compute(plan[number])
        kept = [i for i in plan[number] if i not in set_aside]
        made_from = {"sources": sources.of(plan[number])} if sources else {}
        data = save({k: v.contiguous() for k, v in tensors.items()})
        write_atomic(path, data)
        record = {"file": path.name, "plan": want, "maker": maker, "ids": kept, "set_aside": set_aside}
        record |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        write_atomic(sidecar, json.dumps({**record, **made_from}))
    return merge_manifest(folder, len(plan), maker)


def finished(path: Path, sidecar: Path, ids: list[str], want: str, sources: Sources | None, verify: bool) -> bool:
    """Whether a shard is there, whole, as planned, and of the sound that its clips have now."""
    record = read_sidecar(sidecar)
    if record.get("plan") != want or not path.exists() or not intact(record):
        return False
    if record.get("bytes", size := path.stat().st_size) != size or (verify and sha256(path) != record["sha256"]):
        return False
    if sources is None:
        return True
    now = sources.unchanged(ids, record.get("sources"), path.stat().st_mtime)
    if now and now != record["sources"]:  # touched or copied, but the same bytes
        write_atomic(sidecar, json.dumps({**record, "sources": now}))
    return now is not None


def read_sidecar(path: Path) -> dict:
    """A shard's record; empty when it is missing or damaged, so that the shard is made again."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def intact(record: dict) -> bool:
    """Whether a shard's record is as it was written: its plan is the hash of its ids and maker."""
    try:
        ids, aside = record["ids"], record["set_aside"]
        whole = ids == sorted(ids) and isinstance(record["sha256"], str) and isinstance(record["file"], str)
        return whole and record["plan"] == plan_hash(sorted([*ids, *aside]), record["maker"])
    except (KeyError, TypeError, AttributeError):
        return False


def merge_manifest(folder: Path, shards: int, maker: str) -> dict:
    """Sum the sidecars into manifest.json; shards that other ranks have not finished are not in it.

    Two ranks that finish together both write it. Each looks again after it has written, so the last one to write has
    seen all that was finished before.
    """
    folder = Path(folder)
    # the cache had more clips once
    for stale in (p for p in folder.glob("[0-9]*.*") if int(p.stem) >= shards):
        stale.unlink(missing_ok=True)
    before = None
    while (done := done_shards(folder, shards, maker)) != before:
        manifest = {
            "kind": folder.name,
            "maker": maker,
            "complete": len(done) == shards,
            "rows": sum(len(d["ids"]) for d in done),
            "set_aside": {k: v for d in done for k, v in d["set_aside"].items()},
            "shards": done,
        }
        write_atomic(folder / "manifest.json", json.dumps(manifest))
        before = done
    return manifest


def done_shards(folder: Path, shards: int, maker: str) -> list[dict]:
    """The records of the finished shards of that maker, without their sources."""
    records = [read_sidecar(folder / f"{number:05d}.json") for number in range(shards)]
    done = [r for r in records if r.get("maker") == maker and intact(r)]
    return [{k: v for k, v in r.items() if k != "sources"} for r in done]


class Shards:
    """Reads rows of a shard folder by id.

    A file is checked against its hash when it is first opened in a process, and a manifest against itself: damage is
    named and never read. `damaged="refuse"` raises MuseError there; "skip" looks at every file at once, leaves the rows
    of damaged ones out and says how many: `skipped` is {file: rows}, alike on all ranks.
    """

    def __init__(self, folder: Path, verify: bool = True, damaged: Literal["refuse", "skip"] = "refuse", warn=print):
        self.folder, self.verify = Path(folder), verify
        again = "run `musekit cache` with the same options again"
        try:
            self.manifest = json.loads((self.folder / "manifest.json").read_text())
            shards, maker = self.manifest["shards"], self.manifest["maker"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise MuseError(f"{self.folder} has no whole manifest; {again}") from error
        if wrong := [s.get("file") for s in shards if not intact(s) or s["maker"] != maker]:
            raise MuseError(f"{self.folder / 'manifest.json'} is damaged where it tells of {wrong[0]}; {again}")
        self._open: dict[int, object] = {}
        self._arrays: dict[tuple[int, str], torch.Tensor] = {}  # views of the mapped files
        self._whole: set[int] = set()  # files that were found to be as their hash says
        self._pid = os.getpid()
        self.skipped: dict[str, int] = {}
        if damaged == "skip":
            self.skipped = {s["file"]: len(s["ids"]) for n, s in enumerate(shards) if self.damage(n)}
        if self.skipped:
            rows, names = sum(self.skipped.values()), ", ".join(self.skipped)
            warn(f"{self.folder}: {len(self.skipped)} damaged shards skipped, {rows} rows left out: {names}")
        whole = ((n, s) for n, s in enumerate(shards) if s["file"] not in self.skipped)
        self.index = {i: (n, row) for n, s in whole for row, i in enumerate(s["ids"])}

    def __contains__(self, key: str) -> bool:
        return key in self.index

    def __len__(self) -> int:
        return len(self.index)

    def damage(self, number: int) -> str:
        """What is wrong with a shard's file; "" for nothing."""
        shard = self.manifest["shards"][number]
        path = self.folder / shard["file"]
        try:
            return "" if sha256(path) == shard["sha256"] else "differs from its hash in the manifest"
        except OSError as error:
            return f"cannot be read ({error.strerror or error})"

    def _file(self, number: int):
        if self._pid != os.getpid():  # a forked worker maps the files anew
            self._open, self._arrays, self._pid = {}, {}, os.getpid()
        if number not in self._open:
            path = self.folder / self.manifest["shards"][number]["file"]
            again = "delete it and run `musekit cache` again"
            if self.verify and number not in self._whole and (wrong := self.damage(number)):
                raise MuseError(f"{path} {wrong}; {again}, or train without it: --train.damaged skip")
            try:
                self._open[number] = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise MuseError(f"{path} cannot be read ({error}); {again}") from error
            self._whole.add(number)
        return self._open[number]

    def _array(self, number: int, name: str) -> torch.Tensor | None:
        """A whole array of a file, as the file is mapped: nothing is read before it is used. None: it has no such."""
        file = self._file(number)  # first, as it forgets what a parent process had mapped
        if (number, name) not in self._arrays:
            there = name in file.keys()  # noqa: SIM118 - a safetensors file is no dict
            self._arrays[number, name] = file.get_tensor(name) if there else None
        return self._arrays[number, name]

    def row(self, key: str, name: str = "x", start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Rows `start:stop` of the first axis of that id's array. Raises MuseError for an unknown id."""
        if key not in self.index:
            raise MuseError(f"{key!r} is not in {self.folder}; run `musekit cache` again")
        number, row = self.index[key]
        return self._array(number, name)[row, start:stop].clone()

    def row_length(self, key: str, name: str = "x") -> int:
        """Length of the first axis of that id's array, padding left out."""
        number, row = self.index[key]
        lengths = self._array(number, "length")
        return self._array(number, name).shape[1] if lengths is None else int(lengths[row])

    def all(self, keys: Iterable[str], name: str = "x") -> torch.Tensor:
        """The arrays of these ids, stacked."""
        return torch.stack([self.row(k, name) for k in keys])


def caption_id(text: str) -> str:
    """The id of a caption's token row."""
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def config_hash(*parts) -> str:
    """A short hash of anything that has a repr."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def as_half(x: np.ndarray | torch.Tensor) -> torch.Tensor:
    """float16: enough for what a network made and another network reads."""
    return torch.as_tensor(x).to(torch.float16)
