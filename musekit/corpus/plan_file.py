"""The plan as a file: <cache>/plan.jsonl.xz, so that a machine without music21 and its scores can render the clips.

The first line tells how it was made, {"plan", "seed", "n", "only", "aside"}: format, seed, number of clips, which
corpus files, scores set aside. Every other line is one clip, [record, notes, how] as `plan.clips` yields it. JSON keeps
each float's bits, so what is rendered from the file is what is rendered from the scores.
"""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from musekit.corpus.families import catalogue

NAME = "plan.jsonl.xz"
FORMAT = 1
Clip = tuple[dict, list[list[float]], dict]  # record without captions, note rows, how to render


def write_plan(
    out: Path,
    n: int = 12_000,
    workers: int = 2,
    seed: int = 0,
    progress: bool = True,
    only: list[str] | None = None,
    stop: Callable[[], int] = lambda: 0,
) -> Path:
    """Writes the plan's first `n` clips into the folder `out`, unless a whole file there holds them; returns its path.

    workers: processes that parse scores; only: prefixes of corpus files (tests). The file is written beside its target
    and renamed. Raises `Stopped` when `stop()` says so; nothing is left then but the parsed scores.
    """
    from tqdm import tqdm

    from musekit.corpus.plan import clips
    from musekit.distributed import Stopped

    out = Path(out).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    path = out / NAME
    if fault(path, n, seed, only) == "":
        return path
    scores, aside = catalogue(out, workers, only, progress)
    temporary = path.with_name(f".{NAME}.{os.getpid()}.tmp")
    try:
        with lzma.open(temporary, "wt", encoding="utf-8") as file:
            first = {"plan": FORMAT, "seed": seed, "n": n, "only": only, "aside": aside}
            file.write(json.dumps(first) + "\n")
            bar = tqdm(islice(clips(scores, seed), n), "plan", n, disable=not progress, mininterval=2)
            for clip in bar:
                if code := stop():
                    raise Stopped(code)
                file.write(json.dumps(clip, separators=(",", ":")) + "\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def fault(path: Path, n: int, seed: int, only: list[str] | None) -> str | None:
    """Why a plan file cannot give these clips: "" when it can, None when there is none.

    The whole file is read: a cut or damaged one is known before the first clip is rendered.
    """
    if not path.exists():
        return None
    try:
        with lzma.open(path, "rt", encoding="utf-8") as file:
            first = json.loads(file.readline())
            if first["plan"] != FORMAT:
                return f"is of format {first['plan']}, not {FORMAT}"
            if (first["seed"], first["only"]) != (seed, only):
                return f"has the seed {first['seed']}, not {seed}" if first["seed"] != seed else "is of other scores"
            there = sum(1 for _ in file)
    except (OSError, EOFError, lzma.LZMAError, ValueError, KeyError, TypeError) as error:
        return f"is damaged ({str(error) or type(error).__name__})"
    if there != first["n"]:
        return f"is damaged (it holds {there:,} of {first['n']:,} clips)"
    return "" if there >= n else f"holds {there:,} clips, not {n:,}"


def read_plan(path: Path) -> tuple[list[dict], Iterator[Clip]]:
    """(scores set aside, the clips in their order) of a whole plan file."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        aside = json.loads(file.readline())["aside"]

    def each() -> Iterator[Clip]:
        with lzma.open(path, "rt", encoding="utf-8") as file:
            next(file)
            for line in file:
                yield tuple(json.loads(line))

    return aside, each()


def planned(
    out: Path, n: int, workers: int, seed: int, only: list[str] | None, progress: bool
) -> tuple[list[dict], Iterator[Clip]]:
    """(scores set aside, clips): from the folder's plan file where it has these clips, else from music21's scores.

    A file that is there and cannot be used is said to be so.
    """
    from musekit.corpus.plan import clips

    path = Path(out) / NAME
    wrong = fault(path, n, seed, only)
    if wrong == "":
        return read_plan(path)
    if wrong is not None:
        print(f"{path} {wrong}: the scores are read instead")
    scores, aside = catalogue(out, workers, only, progress)
    return aside, clips(scores, seed)
