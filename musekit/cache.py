"""The cache: what does not change during training is computed once and kept in shards.

A shard is a safetensors file of up to `SHARD` rows with a JSON sidecar (ids, hash, what made it). A shard is
finished when its sidecar exists and names the same ids and the same maker, so the same command resumes after a
kill, and `manifest.json` is only the sum of the sidecars.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from musekit.config import MuseError
from musekit.runs import sha256, write_atomic

SHARD = 64


def read_clips(cache: Path) -> list[dict]:
    """The clip records of a cache, sorted by id. Raises MuseError when there are none."""
    path = Path(cache) / "clips.jsonl"
    if not path.exists():
        raise MuseError(f"{path} is missing; make the cache first: musekit cache --corpus scores")
    return sorted((json.loads(line) for line in path.read_text().splitlines() if line), key=lambda c: c["id"])


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
) -> dict:
    """Compute the missing shards of `folder` and write its manifest.

    `compute(ids)` returns ({name: (n, ...) tensor}, {id: reason}) where ids with a reason were set aside and have
    no row. Shards are dealt to ranks round robin.
    """
    folder, ids = Path(folder), sorted(ids)
    folder.mkdir(parents=True, exist_ok=True)
    plan = [ids[i : i + SHARD] for i in range(0, len(ids), SHARD)]
    for number in progress(range(rank, len(plan), world), desc=folder.name):
        path, sidecar = folder / f"{number:05d}.safetensors", folder / f"{number:05d}.json"
        want = plan_hash(plan[number], maker)
        if path.exists() and read_sidecar(sidecar).get("plan") == want:
            continue
        tensors, set_aside = compute(plan[number])
        kept = [i for i in plan[number] if i not in set_aside]
        write_atomic(path, save({k: v.contiguous() for k, v in tensors.items()}))
        record = {"file": path.name, "plan": want, "maker": maker, "ids": kept, "set_aside": set_aside}
        write_atomic(sidecar, json.dumps({**record, "sha256": sha256(path)}))
    return merge_manifest(folder, len(plan), maker)


def read_sidecar(path: Path) -> dict:
    """A shard's record; empty when it is missing or damaged, so that the shard is made again."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def merge_manifest(folder: Path, shards: int, maker: str) -> dict:
    """Sum the sidecars into manifest.json; shards that other ranks have not finished are not in it."""
    folder = Path(folder)
    # the cache had more clips once
    for stale in (p for p in folder.glob("[0-9]*.*") if int(p.stem) >= shards):
        stale.unlink(missing_ok=True)
    done = [read_sidecar(folder / f"{number:05d}.json") for number in range(shards)]
    done = [d for d in done if d.get("maker") == maker]
    manifest = {
        "kind": folder.name,
        "maker": maker,
        "complete": len(done) == shards,
        "rows": sum(len(d["ids"]) for d in done),
        "set_aside": {k: v for d in done for k, v in d["set_aside"].items()},
        "shards": done,
    }
    write_atomic(folder / "manifest.json", json.dumps(manifest))
    return manifest


class Shards:
    """Reads rows of a shard folder by id; a file is checked against its hash when it is first opened."""

    def __init__(self, folder: Path, verify: bool = True):
        self.folder, self.verify = Path(folder), verify
        try:
            self.manifest = json.loads((self.folder / "manifest.json").read_text())
        except (OSError, ValueError) as error:
            raise MuseError(
                f"{self.folder} has no whole manifest; run `musekit cache` with the same options again"
            ) from error
        self.index = {i: (n, row) for n, s in enumerate(self.manifest["shards"]) for row, i in enumerate(s["ids"])}
        self._open: dict[int, object] = {}
        self._pid = os.getpid()

    def __contains__(self, key: str) -> bool:
        return key in self.index

    def __len__(self) -> int:
        return len(self.index)

    def _file(self, number: int):
        if self._pid != os.getpid():  # a forked worker maps the files anew
            self._open, self._pid = {}, os.getpid()
        if number not in self._open:
            shard = self.manifest["shards"][number]
            path = self.folder / shard["file"]
            try:
                if self.verify and sha256(path) != shard["sha256"]:
                    raise MuseError(
                        f"{path} differs from its hash in the manifest; delete it and run `musekit cache` again"
                    )
                self._open[number] = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise MuseError(f"{path} cannot be read ({error}); delete it and run `musekit cache` again") from error
        return self._open[number]

    def row(self, key: str, name: str = "x", start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Rows `start:stop` of the first axis of that id's array. Raises MuseError for an unknown id."""
        if key not in self.index:
            raise MuseError(f"{key!r} is not in {self.folder}; run `musekit cache` again")
        number, row = self.index[key]
        return self._file(number).get_slice(name)[row, start:stop]

    def row_length(self, key: str, name: str = "x") -> int:
        """Length of the first axis of that id's array, padding left out."""
        number, row = self.index[key]
        file = self._file(number)
        if "length" in file.keys():  # noqa: SIM118 - a safetensors file is no dict
            return int(file.get_slice("length")[row : row + 1])
        return file.get_slice(name).get_shape()[1]

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
