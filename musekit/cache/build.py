"""`musekit cache`: the clips of a corpus, then each kind of rows; in one process, several ranks, or a Slurm array."""

from __future__ import annotations

import contextlib
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import filelock

from musekit import distributed
from musekit.cache.precompute import KINDS, PARTS, precompute
from musekit.cache.store import Manifest
from musekit.config import MuseConfig, MuseError, preset


def share_of(text: str) -> tuple[int, int]:
    """(rank, of how many) of this process: torchrun's ranks within the share "INDEX/COUNT". Raises MuseError."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise MuseError(f"--share {text}: give INDEX/COUNT with INDEX from 0 to COUNT - 1, for example 0/4")
    return int(found[1]) * distributed.world() + distributed.rank(), int(found[2]) * distributed.world()


def make_clips(options, name: str, folder: Path | None, out: Path, config: MuseConfig, stop: Callable[[], int]) -> None:
    """The clips of the corpus, made by one rank at a time: ranks that waited while they were made do nothing."""
    from musekit.corpus import plan, readers

    out.mkdir(parents=True, exist_ok=True)
    clips, lock = out / "clips.jsonl", filelock.FileLock(out / ".lock")
    before = clips.stat().st_mtime_ns if clips.exists() else 0
    while not lock.is_locked:
        if code := stop():
            raise distributed.Stopped(code)
        with contextlib.suppress(filelock.Timeout):
            lock.acquire(timeout=0.2)
    try:
        if clips.exists() and clips.stat().st_mtime_ns != before:
            return
        if name == "scores":
            plan.build_clips(out, n=options.n, workers=options.workers, seed=options.seed, stop=stop)
        else:
            seconds = options.seconds or float(math.floor(config.window_seconds))
            print(readers.read_corpus(name, folder, out, seconds, options.keep_apart, stop=stop)[1])
    finally:
        lock.release()


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
                    kind, out, config, weights if kind in trained else None, options.workers, share=share,
                    show=share[0] == 0, remake=options.remake, verify=options.verify, stop=stop,
                )  # fmt: skip
                print(summary(kind, manifest, out))
        except distributed.Stopped:
            print(f"stopped by a signal; what is finished is in {out}: run the same command again")
            raise


def summary(kind: str, manifest: Manifest, out: Path) -> str:
    """One line with the number of rows of a kind, and one for each reason why clips have none."""
    reasons = Counter(re.sub(r"^BadAudio: | \(.*", "", reason) for reason in manifest["set_aside"].values())
    more = "" if manifest["complete"] else "; more to come from other ranks, or from this command again"
    line = f"{kind}: {manifest['rows']:,} rows, {len(manifest['set_aside'])} set aside -> {out / kind}{more}"
    return "\n".join([line, *(f"  {n:,} x {reason}" for reason, n in reasons.most_common(8))])
