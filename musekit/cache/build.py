"""`musekit cache`: the clips of a corpus, then each kind; alone, as ranks of torchrun, or as a Slurm array."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from musekit import distributed
from musekit.cache.makers import PARTS
from musekit.cache.precompute import KINDS, precompute
from musekit.config import MuseConfig, MuseError, preset


def share(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """(rank, of how many) of this process: torchrun's ranks within each task of a Slurm array, if there is one."""
    rank, world = int(environment.get("RANK", 0)), int(environment.get("WORLD_SIZE", 1))
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return rank, world
    task, first, last, step, count = (
        int(environment.get(f"SLURM_ARRAY_TASK_{name}", usual))
        for name, usual in (("ID", 0), ("MIN", 0), ("MAX", 0), ("STEP", 1), ("COUNT", 1))
    )
    if (last - first) // step + 1 != count:
        raise MuseError("this array has gaps (--array=0,3,7): shards are dealt by task number; use --array=0-N")
    return (task - first) // step * world + rank, count * world


@contextlib.contextmanager
def alone(folder: Path, others: bool, stop: Callable[[], int]) -> Iterator[bool]:
    """One process at a time inside; yields whether another one did the work while this one waited.

    Raises MuseError where the file system has no locks and `others` may come.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done, began = folder / "clips.jsonl", None
    with open(folder / ".lock", "a+") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if began is None:  # 0: there were no clips yet
                    began = done.stat().st_mtime_ns if done.exists() else 0
                if code := stop():
                    raise distributed.Stopped(code) from None
                time.sleep(0.2)
            except OSError as error:
                if others:
                    raise MuseError(
                        f"{folder} is on a file system without locks ({error.strerror}): make the clips in one process"
                        " first (--kinds clips), then the other kinds in as many as you like"
                    ) from error
                break
        yield began is not None and done.exists() and done.stat().st_mtime_ns != began


def make_clips(options, name: str, folder: Path | None, out: Path, config: MuseConfig, stop: Callable[[], int]) -> None:
    """The clips of the corpus: once, however many ranks there are."""
    with alone(out, share()[1] > 1, stop) as made:
        if made:
            return
        if name == "scores":
            from musekit.corpus.clips import build_clips

            try:
                build_clips(out, n=options.n, workers=options.workers, seed=options.seed, stop=stop)
            except BrokenProcessPool:  # the signal reached a renderer before it could answer
                if not stop():
                    raise MuseError("a process that renders clips died; run the same command again") from None
                raise distributed.Stopped(stop()) from None
            return
        from musekit.corpus.readers import read_corpus

        def look() -> None:
            if code := stop():
                raise distributed.Stopped(code)

        seconds = options.seconds or float(math.floor(config.window_seconds))
        _, told = read_corpus(name, folder, out, seconds, options.keep_apart, stop=look)
        print(told)


def make_plan(options, name: str, out: Path, stop: Callable[[], int]) -> None:
    """The plan of the scores' clips as a file: once, however many ranks there are."""
    if name != "scores":
        raise MuseError(f"--kinds plan is of the scores, which are rendered; {name} has its sound: leave it out")
    from musekit.corpus.plan_file import write_plan

    with alone(out, share()[1] > 1, stop):
        path = write_plan(out, options.n, options.workers, options.seed, stop=stop)
    if share()[0] == 0:
        print(f"plan: {options.n:,} clips, seed {options.seed} -> {path}")


def build_cache(options) -> None:
    """`musekit cache`: the clips of a corpus, then each kind asked for."""
    from musekit import pretrained
    from musekit.corpus.readers import choose

    config = preset(options.preset)
    distributed.check_gpus()
    if options.seconds is not None and not 1 <= options.seconds <= 600:
        raise MuseError(f"--seconds {options.seconds:g}: clips last from 1 to 600 s")
    for name, least in (("n", 1), ("workers", 1), ("seed", 0)):
        if getattr(options, name) < least:
            raise MuseError(f"--{name} must be {least} or more, not {getattr(options, name)}")
    out = options.folder()
    corpus = choose(options.corpus, options.data) if {"plan", "clips"} & {*options.kinds} else None
    mine = share()
    trained = [kind for kind in PARTS if kind in options.kinds and not pretrained.public(PARTS[kind], config)]
    weights = pretrained.find(options.weights) if trained else None
    with distributed.signals() as stop:
        try:
            if "plan" in options.kinds:
                make_plan(options, corpus[0], out, stop)
            if "clips" in options.kinds:
                make_clips(options, *corpus, out, config, stop)
            for kind in (k for k in KINDS if k in options.kinds):
                manifest = precompute(
                    kind, out, config, weights if kind in trained else None, options.workers, mine[0] == 0,
                    share=mine, remake=options.remake, verify=options.verify, stop=stop,
                )  # fmt: skip
                print(summary(kind, manifest, out))
        except distributed.Stopped:
            print(f"stopped by a signal; what is finished is in {out}: run the same command again")
            raise


def summary(kind: str, manifest: dict, out: Path) -> str:
    """One line of what there is of a kind, and one for each reason of what there is not."""
    reasons = (reason.removeprefix("BadAudio: ") for reason in manifest["set_aside"].values())
    aside = Counter(re.sub(r" \(.*", "", reason) for reason in reasons)
    more = "" if manifest["complete"] else "; more to come from other ranks, or from this command again"
    line = f"{kind}: {manifest['rows']:,} rows, {len(manifest['set_aside'])} set aside -> {out / kind}{more}"
    return "\n".join([line, *(f"  {n:,} x {reason}" for reason, n in aside.most_common(8))])
