"""The catalogue: every usable score once, in families of which each lies in one split as a whole.

Two works are one family when their titles agree, or when their melodies share enough interval n-grams (a chorale melody
in all its harmonisations, a tune and its variants). Of near-identical works all but one are dropped.
"""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from musekit.config import MuseError
from musekit.corpus.processes import in_processes
from musekit.corpus.scores import Score, parse, slug, sources
from musekit.files import decode, read_json, write_atomic

N = 6  # intervals in one n-gram
SAME_MELODY, SAME_PIECE = 0.30, 0.90


def split_of(family: str) -> str:
    """Split: "train", "valid" or "test" (84, 8, 8 %), by the hash of the family's name."""
    u = int.from_bytes(hashlib.sha256(f"muse split {family}".encode()).digest()[:8], "big") / 2**64
    return "train" if u < 0.84 else "valid" if u < 0.92 else "test"


def melody_ngrams(score: Score) -> set[tuple]:
    """Interval n-grams of the top part (highest note of each onset, repeated notes merged), free of key and tempo."""
    part = max(score.parts, key=lambda rows: sum(r[2] for r in rows) / len(rows))
    top: dict[float, int] = {}
    for start, _, pitch in part:
        top[start] = max(pitch, top.get(start, 0))
    line = [top[s] for s in sorted(top)]
    line = [p for i, p in enumerate(line) if i == 0 or p != line[i - 1]]
    steps = [b - a for a, b in zip(line, line[1:])]
    return {tuple(steps[i : i + N]) for i in range(max(1, len(steps) - N + 1))}


def piece_fingerprint(score: Score) -> set[tuple]:
    """(onset, pitch relative to the first bass note) of all notes: transposition-invariant."""
    rows = sorted(r for part in score.parts for r in part)
    return {(round(s - rows[0][0], 2), int(p - rows[0][2])) for s, _, p in rows}


def title_key(score: Score) -> str:
    """The key by which titles are compared, "" for a title that says nothing. Movements share their folder's key."""
    if score.kind in ("chorale", "modal"):
        return ""
    if score.kind == "classical":
        folder = score.work.rsplit("/", 1)[0] if score.work.count("/") > 1 else score.work
        return "folder:" + re.sub(r"(no_?\d+|movement\d.*|_no\d+)$", "", folder)
    words = slug(re.sub(r"\(.*?\)|,\s*the\b", " ", score.title.lower())).split("-")
    drop = "the a reel jig hornpipe strathspey march clog s of and favorite no".split()
    kept = [w for w in words if w not in drop and not w.isdigit()]
    return "tune:" + "-".join(kept) if kept and sum(map(len, kept)) > 4 else ""


def group(scores: list[Score]) -> tuple[list[Score], list[dict]]:
    """Set each score's family and drop near-identical pieces: (scores, [{"work", "reason"}] of the dropped ones)."""
    from scipy.cluster.hierarchy import DisjointSet

    scores = sorted(scores, key=lambda s: s.work)
    related, grams = DisjointSet(range(len(scores))), [melody_ngrams(s) for s in scores]
    holders, dropped, titles = defaultdict(list), {}, {}
    for i, score in enumerate(scores):
        if name := title_key(score):
            related.merge(i, titles.setdefault(name, i))
        shared = Counter(j for g in grams[i] for j in holders[g])
        for j, count in shared.items():
            union = len(grams[i]) + len(grams[j]) - count
            contained = count >= max(6, 0.6 * min(len(grams[i]), len(grams[j])))
            if count / union >= SAME_MELODY or contained:
                related.merge(i, j)
                if j not in dropped and count / union >= 0.7:
                    a, b = piece_fingerprint(score), piece_fingerprint(scores[j])
                    if len(a & b) / len(a | b) >= SAME_PIECE:
                        dropped[i] = j
        for g in grams[i]:
            if len(holders[g]) < 60:  # a commonplace n-gram says nothing
                holders[g].append(i)
    first: dict[int, str] = {}
    for i, score in enumerate(scores):
        first.setdefault(related[i], slug(score.work))
    kept = [replace(s, family=first[related[i]]) for i, s in enumerate(scores) if i not in dropped]
    return kept, [{"work": scores[i].work, "reason": f"near-duplicate of {scores[j].work}"} for i, j in dropped.items()]


def parse_to(folder: Path, source: str) -> None:
    """Write the usable works of one corpus file to <folder>/<source>.jsonl, and why others are not usable beside it."""
    scores, aside = parse(source)
    if aside:
        write_atomic(folder / f"{slug(source)}.aside.json", json.dumps(aside))
    lines = (json.dumps(asdict(score), separators=(",", ":")) + "\n" for score in scores)
    write_atomic(folder / f"{slug(source)}.jsonl", "".join(lines))


def set_aside(out: Path) -> dict[str, str]:
    """Why works are not used, by their names in the corpus."""
    files = sorted((out / "scores").glob("*.aside.json"))
    return {work: why for path in files for work, why in read_json(path, dict[str, str]).items()}


def read_scores(files: Iterable[Path]) -> list[Score]:
    """The works that `parse_to` has written to these files, in families, sorted by name."""
    lines = (line for path in files for line in path.read_text("utf-8").splitlines())
    return group([decode(line, Score, "a parsed score") for line in lines])[0]


def catalogue(
    out: Path, workers: int = 2, only: list[str] | None = None, stop: Callable[[], int] = lambda: 0
) -> list[Score]:
    """Parse missing scores into <out>/scores/*.jsonl (a kill loses one file), then group them into families.

    Returns the scores sorted by name. `only`: prefixes of corpus files. Raises MuseError when there is no such score.
    """
    folder, wanted = out / "scores", sources(only)
    if not wanted:
        raise MuseError(f"music21's corpus holds no score {f'that begins with {only}' if only else 'of those in use'}")
    missing = [s for s in wanted if not (folder / f"{slug(s)}.jsonl").exists()]
    missing.sort(key=lambda s: not s.startswith(("airds", "oneill", "misc")))  # the long files first
    if missing:
        parsed = in_processes(partial(parse_to, folder), missing, workers, stop)
        list(tqdm(parsed, "scores", len(missing), disable=None))
    return read_scores(folder / f"{slug(s)}.jsonl" for s in wanted)
