"""Right answers of a prompt: real music of held-out works that matches it.

Few of the cache's held-out clips match a specific prompt: there may be no jig for flute in D major. But works are held
out, not renderings of them, so a held-out score can be rendered again on the instrument, at the speed and in the key
that a prompt asks for.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from musekit.cache import config_hash
from musekit.claims import matches
from musekit.config import home
from musekit.evaluate.study import HELD_OUT, Study, cached

ENOUGH = 20  # matching held-out clips; with fewer, new renderings are made
RENDERED = 24
ATTEMPTS = 4000  # scores tried for one prompt
DRAWS = 150  # of key and dynamic for one arrangement: 1 in 33 has a given key and dynamic


def right_answers(study: Study, asks: dict) -> tuple[np.ndarray, str, int]:
    """Embeddings (n, 512) of matching music, their source, and how many held-out clips of the cache match.

    n may be 0: no held-out work can be rendered as asked.
    """
    right = study.embed([c for c in study.split(*HELD_OUT) if matches(asks, c)])
    if len(right) < ENOUGH:
        renderings = rendered_embeddings(study, asks, 2 if study.quick else RENDERED)
        if len(renderings) > len(right):
            return renderings, "new renderings of held-out works", len(right)
    return right, "held-out clips", len(right)


def rendered_embeddings(study: Study, asks: dict, n: int, seed: int = 0) -> np.ndarray:
    """Audio embeddings (m, 512), m <= n, of new renderings that match; cached by what they are made from."""
    from musekit.corpus.render import SAMPLE_RATE, render
    from musekit.corpus.sound import BadAudio

    def make() -> dict[str, np.ndarray]:
        rows = []
        for _, notes, how in renderings(study.cache, asks, n, seed):
            with contextlib.suppress(BadAudio):
                rows.append(study.embed_audio(render(notes, **how), SAMPLE_RATE))
        return {"x": study.unit(rows)}

    folder = home() / "eval" / f"right-answers-{study.hashes['embedder']}"
    return cached(folder / f"{config_hash(sorted(asks.items()), n, seed, study.data)}.npz", make)["x"]


def renderings(cache: Path, asks: dict, n: int, seed: int = 0) -> Iterator[tuple[dict, list, dict]]:
    """Up to n (record, notes, arguments of `corpus.render.render`) of held-out works, the least used works first.

    Scores are drawn by the corpus's own shares of kinds, so the renderings are distributed as the training clips are.
    """
    from musekit.corpus import plan
    from musekit.corpus.arrange import texture_of
    from musekit.corpus.instruments import SINGLE

    fixed = {name: asks[name] for name in ("era", "form", "composer", "metre") if name in asks}
    scores = [s for s in held_out_scores(Path(cache)) if all(getattr(s, n) == v for n, v in fixed.items())]
    rng, used, found = np.random.default_rng([seed, 5]), {}, 0
    for _ in range(ATTEMPTS):
        if found == n:
            return
        mode = asks.get("mode") or str(rng.choice(["major", "minor"]))
        speed = asks.get("speed") or str(rng.choice(["slow", "medium", "fast"]))
        player = asks.get("instrument") or str(rng.choice(SINGLE))
        kinds = plan.KINDS[mode]
        kind = str(rng.choice(list(kinds), p=np.array(list(kinds.values())) / sum(kinds.values())))
        pool = [s for s in scores if (s.kind, s.mode) == (kind, mode)]
        if not pool:
            continue
        least = min(used.get(s.work, 0) for s in pool)
        pool = [s for s in pool if used.get(s.work, 0) == least]
        score = pool[int(rng.integers(len(pool)))]
        clip = plan.attempt(score, player, mode, speed, rng)
        used[score.work] = least + 1
        if clip is None or asks.get("texture") not in (None, texture_of(clip["parts"])):
            continue
        for _ in range(DRAWS):  # key and dynamic are drawn here, until they match
            record, notes, how = plan.draw_clip(score, player, clip, found, rng)
            if matches(asks, record):
                yield record, notes, how
                found += 1
                break


@functools.cache
def held_out_scores(cache: Path) -> list:
    """The parsed scores of the cache that are in no training family; empty for a cache without scores."""
    from musekit.corpus.families import read_scores, split_of

    scores = read_scores(sorted((cache / "scores").glob("*.jsonl")))
    return [s for s in scores if split_of(s.family) != "train"]
