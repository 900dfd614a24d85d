"""Clips: renders the plan to <out>/clips/*.flac and merges the records to <out>/clips.jsonl.

The same command again does only what is missing. A clip exists once its record file says so; audio, notes and
record are each written beside their target and renamed, so a kill at any time leaves no half file that
counts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from musekit.corpus.families import write_atomically
from musekit.corpus.plan_file import planned


def _record_path(out: Path, identity: str) -> Path:
    return out / "records" / identity[:2] / f"{identity}.json"


def finished(out: Path, record: dict) -> bool:
    """Whether this very clip is rendered: one of another seed may have the same work and number, and so its id."""
    try:
        kept = json.loads(_record_path(out, record["id"]).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return kept == record and (out / record["path"]).exists()


def render_clip(out: str, record: dict, notes: list[list[float]], how: dict) -> tuple[str, str | None]:
    """Renders one clip and writes audio, notes, then the record. Returns (id, None) or (id, reason it was set
    aside).
    """
    from musekit.corpus.render import render, write_flac

    folder = Path(out)
    try:
        audio = render(notes, **how)
        write_flac(folder / record["path"], audio)
        write_atomically(folder / "notes" / f"{record['id']}.json", json.dumps(notes, separators=(",", ":")))
        write_atomically(_record_path(folder, record["id"]), json.dumps(record))
    except Exception as error:  # one bad clip never ends the run
        return record["id"], f"{type(error).__name__}: {error}"[:300]
    return record["id"], None


def set_aside(out: Path, rows: list[dict]) -> None:
    """Adds rows {"work" or "id", "reason"} to <out>/set_aside.jsonl, each once."""
    path = out / "set_aside.jsonl"
    old = path.read_text("utf-8").splitlines() if path.exists() else []
    new = [json.dumps(r) for r in rows]
    write_atomically(path, "".join(line + "\n" for line in dict.fromkeys(old + new)))


def merge(out: Path, seed: int = 0, identities: list[str] | None = None) -> list[dict]:
    """Writes <out>/clips.jsonl from the record files, with fresh captions (seconds for thousands of clips).

    identities: the clips to take, in this order; default all finished ones, those of the last merge first and
    in its order. Returns the records.
    """
    from musekit.corpus.captions import write_captions

    if identities is None:
        last = out / "clips.jsonl"
        before = last.read_text("utf-8").splitlines() if last.exists() else []
        finished = sorted(p.stem for p in (out / "records").rglob("*.json") if not p.name.startswith("."))
        identities = list(dict.fromkeys([json.loads(line)["id"] for line in before] + finished))
    records = []
    for identity in identities:
        path = _record_path(out, identity)
        if path.exists():
            record = json.loads(path.read_text("utf-8"))
            rng = np.random.default_rng([seed, 3, *identity.encode()])
            records.append({**record, "captions": write_captions(record, rng)})
    write_atomically(out / "clips.jsonl", "".join(json.dumps(r) + "\n" for r in records))
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
    """Renders the first `n` clips of the plan into `out` and returns their records.

    out: cache folder; workers: processes; only: prefixes of corpus files (tests). Order is the plan's, which
    is shuffled: whatever is finished is a balanced corpus. Bad pieces go to <out>/set_aside.jsonl with their
    reasons. The plan is read from <out>/plan.jsonl.xz where that holds these clips (`plan_file`), and made from
    music21's scores where it does not. When `stop()` says so, what is begun is finished and `Stopped` raised.
    """
    from tqdm import tqdm

    from musekit.distributed import Stopped

    out = Path(out).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    aside, clips = planned(out, n, workers, seed, only, progress)
    set_aside(out, aside)
    identities, failed = [], []
    context = get_context("spawn")
    with (
        ProcessPoolExecutor(workers, mp_context=context) as pool,
        tqdm(total=n, desc="clips", disable=not progress, mininterval=2, smoothing=0.05) as bar,
    ):
        pending = set()

        def collect(at_most: int) -> None:
            nonlocal pending
            while len(pending) > at_most:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for job in done:
                    identity, reason = job.result()
                    if reason:
                        failed.append({"id": identity, "reason": reason})
                    bar.update()

        for index, (record, notes, how) in enumerate(clips):
            if index >= n or stop():
                break
            identities.append(record["id"])
            if finished(out, record):
                bar.update()
                continue
            pending.add(pool.submit(render_clip, str(out), record, notes, how))
            collect(8 * workers)
        collect(0)
    set_aside(out, failed)
    if code := stop():
        raise Stopped(code)
    return merge(out, seed, identities)


def summary(records: list[dict]) -> str:
    """Counts by what matters, as lines of text."""
    lines = [
        f"{len(records)} clips, {len({r['work'] for r in records})} works, "
        f"{len({r['family'] for r in records})} families"
    ]
    for name in ("split", "instrumentation", "mode", "speed", "texture", "era", "dynamic", "form"):
        counts = Counter(str(r[name]) for r in records)
        lines.append(f"{name}: " + ", ".join(f"{k} {v}" for k, v in counts.most_common()))
    return "\n".join(lines)


def main() -> None:
    """Command line: python -m musekit.corpus.clips --out FOLDER --n 12000 --workers 2."""
    import argparse

    parser = argparse.ArgumentParser(description="Render music21's scores to captioned clips.")
    parser.add_argument("--out", type=Path, required=True, help="cache folder")
    parser.add_argument("--n", type=int, default=12_000, help="number of clips")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="corpus files to take, by prefix: bach/bwv25 ryansMammoth/A")
    parser.add_argument("--captions-only", action="store_true", help="rewrite the captions of what is rendered")
    args = parser.parse_args()
    out = args.out.expanduser()
    if args.captions_only:
        records = merge(out, args.seed)
    else:
        records = build_clips(out, args.n, args.workers, args.seed, only=args.only)
    print(summary(records))


if __name__ == "__main__":
    main()
