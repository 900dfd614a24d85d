"""prompts: do generated clips sound as their prompts ask?  embedder: does it place sounds near their words?

The judge is applied to generated clips, held-out originals and codec round trips, so the three accuracies compare. The
embedder answers the same questions zero-shot: a sound has the class whose held-out sentences are nearest.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from musekit.corpus.captions import HELD_OUT, evaluation_prompts, fill
from musekit.evaluate.judge import ATTRIBUTES, accuracy_rows, as_record, ceiling_rows, ratio
from musekit.evaluate.study import CLASSES, Sound, Study, target, value_of
from musekit.muse import Settings
from musekit.statistics import accuracy

PROMPT_SEED = 20_000  # piece i of the prompts has the seed 20,000 + i
WORDINGS = 12  # sentences per class, at most


def evaluation_pieces(study: Study) -> tuple[list[dict], list[Path], np.ndarray]:
    """The n evaluation prompts, a piece for each with the preset's defaults, and Stage 1's embeddings (n, 512)."""
    prompts = evaluation_prompts(study.n)
    recipes = study.recipes([p["text"] for p in prompts], PROMPT_SEED, Settings())
    x, _ = study.sample(recipes)
    return prompts, study.render(x, recipes), x


def measure_prompts(study: Study) -> None:
    """Writes results/prompts.json."""
    prompts, paths, sampled = evaluation_pieces(study)
    records = [as_record(p["asks"]) for p in prompts]
    rows = obedience(study, records, paths)
    rows += zero_shot(study, records, sampled, "embedder, of Stage 1's embeddings")
    study.write("prompts", rows, seed=PROMPT_SEED)


def obedience(study: Study, records: Sequence[dict], pieces: Sequence[Sound]) -> list[dict]:
    """The judge's accuracy on pieces and on held-out clips, and the bars on their ratio; records: what was wanted."""
    rows = ceiling_rows(study) + accuracy_rows(study, records, study.features(pieces), "generated")
    for attribute in ATTRIBUTES:
        found = next(r for r in rows if (r["source"], r["attribute"]) == ("generated", attribute))
        value = ratio(rows, attribute, "generated", of="held-out round trips")
        share = value / found["accuracy"] if value else 0.0
        ends = {"low": share * found["low"], "high": share * found["high"]} if value else {}
        rows.append(target(f"prompts are obeyed, {attribute}: generated / round trips", value, at_least=0.9, **ends))
    return rows


@functools.cache
def wordings(attribute: str, value: str, n: int = WORDINGS, seed: int = 0) -> list[str]:
    """Up to n held-out sentences that assert only {attribute: value}."""
    about = {"instrumentation" if attribute == "instrument" else attribute: value}
    rng, found = np.random.default_rng(seed), {}
    templates = [t for level in HELD_OUT.values() for t in level]
    for _ in range(40):
        for template in templates:
            caption = fill(template, about, rng, held_out=True)
            if caption and caption["asks"] == {attribute: value}:
                found[caption["text"]] = None
    return list(rng.permutation(sorted(found)))[:n]


def zero_shot(study: Study, records: Sequence[dict], x: np.ndarray, source: str) -> list[dict]:
    """Accuracy per attribute: each embedding of x (n, 512) gets the class whose sentences are nearest.

    A class is the mean text embedding of its wordings, of unit length.
    """
    rows = []
    for attribute in ATTRIBUTES:
        words = study.unit([study.embed_text(wordings(attribute, v)).mean(0) for v in CLASSES[attribute]])
        truth = [value_of(r, attribute) for r in records]
        known = [i for i, t in enumerate(truth) if t is not None]
        guess = (x[known] @ words.T).argmax(1)
        right = np.array([CLASSES[attribute][g] == truth[i] for g, i in zip(guess, known)], bool)
        rows.append({"measure": "accuracy", "attribute": attribute, "source": source, **accuracy(right)})
    return rows


def measure_embedder(study: Study) -> None:
    """Writes results/embedder.json: zero-shot attributes of held-out clips, in held-out wordings."""
    clips, source = study.split(study.on), "embedder, of held-out clips"
    rows = zero_shot(study, clips, study.embed(clips), source) + ceiling_rows(study)
    instrument, _, speed = (row["accuracy"] for row in rows[: len(ATTRIBUTES)])
    mode = ratio(rows, "mode", source, of="held-out originals")
    bars = [
        target("embedder, zero-shot instrument", instrument, at_least=0.95),
        target("embedder, zero-shot speed", speed, at_least=0.90),
        target("embedder, zero-shot mode / the judge's ceiling", mode, at_least=0.85),
    ]
    study.write("embedder", rows + bars)
