"""Clips: renders the plan to <out>/clips/*.flac and merges the records to <out>/clips.jsonl.

The same call again does only what is missing. A clip exists once its record file does: audio, notes and record are each
written aside and renamed, the record last, so a kill leaves no half file that counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from musekit.corpus.captions import write_captions
from musekit.corpus.families import catalogue
from musekit.corpus.plan import clips
from musekit.files import write_atomic


def _record_path(out: Path, identity: str) -> Path:
    return out / "records" / identity[:2] / f"{identity}.json"


def finished(out: Path, record: dict) -> bool:
    """Whether this very clip is rendered; a clip of another seed may have the same id."""
    path = _record_path(out, record["id"])
    return path.exists() and json.loads(path.read_bytes()) == record and (out / record["path"]).exists()


def render_clip(out: str, record: dict, notes: list[list[float]], how: dict) -> tuple[str, str | None]:
    """Render one clip and write audio, notes, then the record. Returns (id, the reason when it is not usable)."""
    from musekit.corpus.render import render, write_flac

    folder = Path(out)
    try:
        write_flac(folder / record["path"], render(notes, **how))
        write_atomic(folder / "notes" / f"{record['id']}.json", json.dumps(notes, separators=(",", ":")))
        write_atomic(_record_path(folder, record["id"]), json.dumps(record))
    except Exception as error:  # one bad clip never ends the run
        return record["id"], f"{type(error).__name__}: {error}"[:300]
    return record["id"], None


def set_aside(out: Path, rows: list[dict]) -> None:
    """Add rows {"work" or "id", "reason"} to <out>/set_aside.jsonl, each once."""
    path = out / "set_aside.jsonl"
    old = path.read_text("utf-8").splitlines() if path.exists() else []
    lines = dict.fromkeys([*old, *map(json.dumps, rows)])
    write_atomic(path, "".join(line + "\n" for line in lines))


def merge(out: Path, seed: int, identities: list[str]) -> list[dict]:
    """Write <out>/clips.jsonl from the record files of these clips, with captions; returns the records."""
    records = []
    for path in (path for identity in identities if (path := _record_path(out, identity)).exists()):
        record = json.loads(path.read_bytes())
        rng = np.random.default_rng([seed, 3, *record["id"].encode()])
        records.append({**record, "captions": write_captions(record, rng)})
    write_atomic(out / "clips.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    return records


def build_clips(
    out: Path,
    n: int = 12_000,
    workers: int = 2,
    seed: int = 0,
    progress: bool = True,
    only: list[str] | None = None,
    stop: Callable[[], int] = lambda: 0,
) -> list[dict]:
    """Render the first `n` clips of the plan into the folder `out`, in `workers` processes; returns their records.

    only: prefixes of corpus files, for a small repertoire. The plan is shuffled, so whatever is finished is a balanced
    corpus. Unusable pieces go to <out>/set_aside.jsonl with their reasons. When `stop()` says so, clips in work are
    finished and `Stopped` is raised.
    """
    from tqdm import tqdm

    from musekit.distributed import Stopped

    out = Path(out).expanduser()
    scores, aside = catalogue(out, workers, only, progress)
    set_aside(out, aside)
    identities, failed, pending = [], [], set()
    with (
        ProcessPoolExecutor(workers, get_context("spawn")) as pool,
        tqdm(total=n, desc="clips", disable=not progress, mininterval=2, smoothing=0.05) as bar,
    ):

        def collect(at_most: int) -> None:
            nonlocal pending
            while len(pending) > at_most:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                failed.extend({"id": job.result()[0], "reason": job.result()[1]} for job in done if job.result()[1])
                bar.update(len(done))

        for record, notes, how in islice(clips(scores, seed), n):
            if stop():
                break
            identities.append(record["id"])
            if finished(out, record):
                bar.update()
            else:
                pending.add(pool.submit(render_clip, str(out), record, notes, how))
                collect(8 * workers)
        collect(0)
    set_aside(out, failed)
    if code := stop():
        raise Stopped(code)
    return merge(out, seed, identities)
