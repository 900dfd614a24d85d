"""Right answers of a prompt: real music of held-out works that matches it, at most one piece of each work.

Few of the cache's held-out clips match a specific prompt: there may be no jig for flute in D major. But works are held
out, not renderings of them, so another held-out score can be rendered on the instrument, at the speed and in the key
that a prompt asks for. Several renderings of one work would be one answer, not several.
"""

import contextlib
import functools
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from musekit.cache import config_hash
from musekit.claims import matches
from musekit.config import home
from musekit.corpus import plan
from musekit.corpus.arrange import piece_of, texture_of
from musekit.corpus.families import read_scores, split_of
from musekit.corpus.instruments import SINGLE
from musekit.corpus.render import SAMPLE_RATE, render
from musekit.corpus.sound import BadAudio
from musekit.evaluate.study import Study, cached

ENOUGH = 32  # matching works; with fewer, works of no matching clip are rendered
ATTEMPTS = 4000  # scores tried for one prompt
DRAWS = 150  # of key and dynamic for one arrangement: 1 in 33 has a given key and dynamic
SECONDS = 12.0  # about how long a rendering lasts: whole bars


def right_answers(study: Study, asks: dict) -> tuple[np.ndarray, int]:
    """Embeddings (n, 512) of matching music of n held-out works, and how many of these are clips of the cache.

    n may be 0: no held-out work can be rendered as asked.
    """
    clips = list({c["family"]: c for c in study.split(study.on) if matches(asks, c)}.values())
    right, wanted = study.embed(clips), 4 if study.quick else ENOUGH
    if len(clips) < wanted:
        made = rendered_embeddings(study, asks, wanted - len(clips), {c["family"] for c in clips})
        right = np.concatenate([right, made])
    return right, len(clips)


def rendered_embeddings(study: Study, asks: dict, n: int, used: Collection[str], seed: int = 0) -> np.ndarray:
    """Audio embeddings (m, 512), m <= n, of new renderings that match; cached by what they are made from."""

    def make() -> dict[str, np.ndarray]:
        rows = []
        for _, notes, how in renderings(study.cache, study.on, asks, n, used, seed):
            with contextlib.suppress(BadAudio):
                rows.append(study.embed_audio(render(notes, **how), SAMPLE_RATE))
        return {"x": study.unit(rows)}

    folder = home() / "eval" / f"right-answers-{study.hashes['embedder']}"
    key = config_hash(sorted(asks.items()), n, seed, study.on, sorted(used), study.data)
    return cached(folder / f"{key}.npz", make)["x"]


def renderings(
    cache: Path, split: str, asks: dict, n: int, used: Collection[str] = (), seed: int = 0
) -> Iterator[tuple[dict, list, dict]]:
    """Up to n (record, notes, arguments of `corpus.render.render`) of different families of the split, none in `used`.

    Scores are drawn by the corpus's own shares of kinds, so the renderings are distributed as the training clips are.
    """
    fixed = {name: asks[name] for name in ("era", "form", "composer", "metre") if name in asks}
    scores = [s for s in held_out_scores(Path(cache), split) if all(getattr(s, n) == v for n, v in fixed.items())]
    rng, used, found = np.random.default_rng([seed, 5]), set(used), 0
    for _ in range(ATTEMPTS if scores else 0):
        if found == n:
            return
        mode = asks.get("mode") or str(rng.choice(["major", "minor"]))
        speed = asks.get("speed") or str(rng.choice(["slow", "medium", "fast"]))
        player = asks.get("instrument") or str(rng.choice(SINGLE))
        kinds = plan.KINDS[mode]
        kind = str(rng.choice(list(kinds), p=np.array(list(kinds.values())) / sum(kinds.values())))
        pool = [s for s in scores if (s.kind, s.mode) == (kind, mode) and s.family not in used]
        if not pool:
            continue
        score = pool[int(rng.integers(len(pool)))]
        piece = piece_of(score)
        clip = piece and plan.attempt(piece, player, mode, speed, rng, SECONDS)
        if clip is None or asks.get("texture") not in (None, texture_of(clip["parts"])):
            continue
        for _ in range(DRAWS):  # key and dynamic are drawn here, until they match
            record, notes, how = plan.draw_clip(piece, player, clip, found, rng)
            if matches(asks, record):
                used.add(score.family)
                yield record, notes, how
                found += 1
                break


@functools.cache
def held_out_scores(cache: Path, split: str) -> list:
    """The parsed scores of the cache whose families are in the split; empty for a cache without scores."""
    scores = read_scores(sorted((cache / "scores").glob("*.jsonl")))
    return [s for s in scores if split_of(s.family) == split]
