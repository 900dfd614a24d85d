"""`musekit cache`: the clips of a corpus, then each kind of rows; in one process, several ranks, or a Slurm array."""

from __future__ import annotations

import contextlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import filelock

from musekit import distributed
from musekit.cache.makers import KINDS, PARTS
from musekit.cache.precompute import precompute
from musekit.cache.store import Manifest
from musekit.config import MuseConfig, MuseError, preset


def share_of(text: str) -> tuple[int, int]:
    """(rank, of how many) of this process: torchrun's ranks within the share "INDEX/COUNT". Raises MuseError."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise MuseError(f"--share {text}: give INDEX/COUNT with INDEX from 0 to COUNT - 1, for example 0/4")
    return int(found[1]) * distributed.world() + distributed.rank(), int(found[2]) * distributed.world()


@contextlib.contextmanager
def exclusive(folder: Path, stop: Callable[[], int]) -> Iterator[bool]:
    """One process at a time in this block; yields True when another one did the work while this one waited."""
    folder.mkdir(parents=True, exist_ok=True)
    clips, lock = folder / "clips.jsonl", filelock.FileLock(folder / ".lock")
    before = clips.stat().st_mtime_ns if clips.exists() else 0
    waited = False
    while True:
        try:
            lock.acquire(timeout=0.2)
            break
        except filelock.Timeout:
            waited = True
            if code := stop():
                raise distributed.Stopped(code) from None
    try:
        yield waited and clips.exists() and clips.stat().st_mtime_ns != before
    finally:
        lock.release()


def make_clips(options, name: str, folder: Path | None, out: Path, config: MuseConfig, stop: Callable[[], int]) -> None:
    """The clips of the corpus: once, however many ranks there are."""
    with exclusive(out, stop) as done:
        if done:
            return
        if name == "scores":
            from musekit.corpus.clips import build_clips

            try:
                build_clips(out, n=options.n, workers=options.workers, seed=options.seed, stop=stop)
            except BrokenProcessPool:  # the signal ended a renderer, too
                if code := stop():
                    raise distributed.Stopped(code) from None
                raise MuseError("a process that renders clips died; run the same command again") from None
            return
        from musekit.corpus.readers import read_corpus

        seconds = options.seconds or float(math.floor(config.window_seconds))
        print(read_corpus(name, folder, out, seconds, options.keep_apart, stop=stop)[1])


def build_cache(options) -> None:
    """`musekit cache`: the clips of a corpus, then each kind that is asked for."""
    from musekit import pretrained
    from musekit.corpus.readers import choose

    config = preset(options.preset)
    distributed.check_gpus()
    if options.seconds is not None and not 1 <= options.seconds <= 600:
        raise MuseError(f"--seconds {options.seconds:g}: clips last from 1 to 600 s")
    for name, least in (("n", 1), ("workers", 1), ("seed", 0)):
        if getattr(options, name) < least:
            raise MuseError(f"--{name} must be {least} or more, not {getattr(options, name)}")
    out, share = options.folder(), share_of(options.share)
    corpus = choose(options.corpus, options.data) if "clips" in options.kinds else None
    trained = [kind for kind in PARTS if kind in options.kinds and not pretrained.public(PARTS[kind], config)]
    weights = pretrained.find(options.weights) if trained else None
    with distributed.signals() as stop:
        try:
            if corpus:
                make_clips(options, *corpus, out, config, stop)
            for kind in (k for k in KINDS if k in options.kinds):
                manifest = precompute(
                    kind, out, config, weights if kind in trained else None, options.workers, share[0] == 0,
                    share=share, remake=options.remake, verify=options.verify, stop=stop,
                )  # fmt: skip
                print(summary(kind, manifest, out))
        except distributed.Stopped:
            print(f"stopped by a signal; what is finished is in {out}: run the same command again")
            raise


def summary(kind: str, manifest: Manifest, out: Path) -> str:
    """One line with the number of rows of a kind, and one for each reason why clips have none."""
    reasons = (reason.removeprefix("BadAudio: ") for reason in manifest["set_aside"].values())
    aside = Counter(re.sub(r" \(.*", "", reason) for reason in reasons)
    more = "" if manifest["complete"] else "; more to come from other ranks, or from this command again"
    line = f"{kind}: {manifest['rows']:,} rows, {len(manifest['set_aside'])} set aside -> {out / kind}{more}"
    return "\n".join([line, *(f"  {n:,} x {reason}" for reason, n in aside.most_common(8))])
