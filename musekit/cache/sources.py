"""Sources: which sound a shard's rows were made from, so that sound that has changed is noticed.

As `git` does, a file is taken as unchanged when its size and time are; when they differ, its bytes decide.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=256)  # the clips of one long file are neighbours
def digest(path: Path, size: int, mtime: int) -> str:
    """A short hash of a file's bytes."""
    hasher = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()[:16]


class Sources:
    """The sound files of a cache's clips."""

    def __init__(self, cache: Path, clips: dict[str, dict]):
        self.cache, self.clips = Path(cache), clips

    def stat(self, key: str) -> tuple[Path, int, int] | None:
        """(path, size, time in ns) of a clip's file, None where there is none."""
        path = self.cache / self.clips[key]["path"]
        try:
            stat = path.stat()
        except OSError:
            return None
        return path, stat.st_size, stat.st_mtime_ns

    def cut(self, key: str) -> list[float | None]:
        """Which stretch of its file a clip is."""
        clip = self.clips[key]
        return [clip["start"], clip["seconds"]] if "start" in clip else [None, None]

    def of(self, ids: Iterable[str]) -> dict[str, list | None]:
        """{id: [size, time in ns, hash, start, seconds]}, None for a missing file: what a shard's sidecar keeps."""
        told = {key: self.stat(key) for key in ids}
        return {key: stat and [*stat[1:], digest(*stat), *self.cut(key)] for key, stat in told.items()}

    def unchanged(self, ids: Iterable[str], kept: dict[str, list | None] | None, made: float) -> dict | None:
        """`kept` with the files' times of now, where rows made at `made` (seconds since 1970) from it are still theirs.

        None when a file has changed. A file that is gone has not: sound may be deleted once its cache is made. A shard
        from before sources were kept (`kept` is None) is judged as `make` does, by the files' times, and gives {}.
        """
        now = dict(kept or {})
        for key in ids:
            stat = self.stat(key)
            if stat is None:
                continue
            if kept is None:
                if stat[2] > made * 1e9:
                    return None
                continue
            then = kept.get(key)
            if then is None or then[3:] != self.cut(key):
                return None
            if then[:2] != list(stat[1:]):
                if then[2] != digest(*stat):
                    return None
                now[key] = [*stat[1:], *then[2:]]
        return now
