"""New clips of held-out works, rendered to fit a prompt.

Few of the cache's held-out clips fit a specific prompt (no jig for flute in D major may be among them). But a work is
held out, not a rendering: its notes can be played on the instrument, at the speed and in the key that a prompt asks.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from musekit.cache import config_hash
from musekit.config import home
from musekit.corpus.claims import fits
from musekit.evaluate.subject import Subject
from musekit.files import write_atomic

ATTEMPTS = 4000  # scores tried for one prompt
DRAWS = 150  # of key and dynamic for one arrangement: 1 in 33 is a given key and dynamic


@functools.cache
def held_out_scores(cache: Path) -> list:
    """The parsed scores of the cache that are in no training family; none for a cache of another corpus."""
    from musekit.corpus.families import group, split_of
    from musekit.corpus.scores import from_json

    files = sorted((cache / "scores").glob("*.jsonl"))
    lines = [line for path in files for line in path.read_text("utf-8").splitlines()]
    scores, _ = group([from_json(line) for line in lines if not line.startswith('{"aside"')])
    return [s for s in scores if split_of(s.family) != "train"]


def plans(cache: Path, asks: dict, n: int, seed: int = 0) -> Iterator[tuple[dict, list, dict]]:
    """Up to n (record, notes, how to render) of held-out works, no work twice before each had its turn.

    Scores are drawn by the corpus's own shares of kinds, so the references are spread as the clips learnt from are.
    """
    from musekit.corpus import plan
    from musekit.corpus.arrange import texture_of
    from musekit.corpus.instruments import SINGLE

    scores = held_out_scores(Path(cache))
    rng, used, found = np.random.default_rng([seed, 5]), {}, 0
    for _ in range(ATTEMPTS):
        if found == n:
            return
        mode = asks.get("mode") or str(rng.choice(["major", "minor"]))
        speed = asks.get("speed") or str(rng.choice(["slow", "medium", "fast"]))
        player = asks.get("instrument") or str(rng.choice(SINGLE))
        kinds = plan.KINDS[mode]
        kind = str(rng.choice(list(kinds), p=np.array(list(kinds.values())) / sum(kinds.values())))
        pool = [s for s in scores if (s.kind, s.mode) == (kind, mode) and may_fit(s, asks)]
        if not pool:
            continue
        least = min(used.get(s.work, 0) for s in pool)
        pool = [s for s in pool if used.get(s.work, 0) == least]
        score = pool[int(rng.integers(len(pool)))]
        clip = plan.attempt(score, player, mode, speed, rng)
        used[score.work] = least + 1
        if clip is None or asks.get("texture") not in (None, texture_of(clip["parts"])):
            continue
        for _ in range(DRAWS):  # key and dynamic are drawn here; draw until they are what is asked
            record, notes, how = plan.draw_clip(score, player, clip, found, rng)
            if fits(asks, record):
                yield record, notes, how
                found += 1
                break


def may_fit(score, asks: dict) -> bool:
    """Whether what is the work's own, not the rendering's, is as asked."""
    return all(getattr(score, name) == asks[name] for name in ("era", "form", "composer", "metre") if name in asks)


def embeddings(subject: Subject, asks: dict, n: int, seed: int = 0) -> np.ndarray:
    """Audio embeddings (m, 512), m <= n, of new renderings that fit; kept on disk by what they are made from.

    m may be 0: no held-out work can be played as asked.
    """
    from musekit.corpus.render import SAMPLE_RATE, SilentRender, render

    key = config_hash(sorted(asks.items()), n, seed, subject.data)
    kept = home() / "eval" / f"references-{subject.hashes['embedder']}" / f"{key}.npy"
    if kept.exists():
        return np.load(kept)
    rows = []
    for _, notes, how in plans(subject.cache, asks, n, seed):
        try:
            audio = render(notes, **how)
        except SilentRender:
            continue
        rows.append(subject.muse.embedder.embed_audio(torch.from_numpy(audio)[None], SAMPLE_RATE)[0].double().numpy())
    x, data = np.stack(rows) if rows else np.zeros((0, subject.muse.config.embedder.dim)), io.BytesIO()
    np.save(data, x)
    write_atomic(kept, data.getvalue())
    return x
