"""embedder: zero-shot attributes of held-out clips, and text-to-audio retrieval, all in held-out wordings."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from musekit.corpus import lexicon
from musekit.corpus.captions import fill, fits
from musekit.evaluate.judge import ATTRIBUTES, ceiling_rows, ratio
from musekit.evaluate.study import CLASSES, Study, target, value_of
from musekit.statistics import accuracy

WORDINGS = 12  # sentences per class, at most
TOP = (1, 5, 10)


@functools.cache
def wordings(attribute: str, value: str, n: int = WORDINGS, seed: int = 0) -> list[str]:
    """Up to n held-out sentences that assert only {attribute: value}."""
    about = {"instrumentation" if attribute == "instrument" else attribute: value}
    rng, found = np.random.default_rng(seed), {}
    templates = [t for level in lexicon.HELD_OUT.values() for t in level]
    for _ in range(40):
        for template in templates:
            caption = fill(template, about, rng, held_out=True)
            if caption and caption["asks"] == {attribute: value}:
                found[caption["text"]] = None
    return list(rng.permutation(sorted(found)))[:n]


def class_embeddings(study: Study, attribute: str) -> np.ndarray:
    """The mean text embedding of each class's wordings (classes, 512), of unit length."""
    means = []
    for value in CLASSES[attribute]:
        x = study.embed_text(wordings(attribute, value)).mean(0)
        means.append(x / np.linalg.norm(x))
    return np.stack(means)


def zero_shot(study: Study, records: Sequence[dict], x: np.ndarray, source: str) -> list[dict]:
    """Accuracy per attribute: each embedding of x (n, 512) gets the class whose sentences are nearest."""
    rows = []
    for attribute in ATTRIBUTES:
        truth = [value_of(r, attribute) for r in records]
        known = [i for i, t in enumerate(truth) if t is not None]
        guess = (x[known] @ class_embeddings(study, attribute).T).argmax(1) if known else []
        right = np.array([CLASSES[attribute][g] == truth[i] for g, i in zip(guess, known)], bool)
        rows.append({"measure": "accuracy", "attribute": attribute, "source": source, **accuracy(right)})
    return rows


def recall_by_chance(fitting: int, clips: int, k: int) -> float:
    """P(at least one of `fitting` among k of `clips` drawn at random) = 1 - C(clips - fitting, k) / C(clips, k)."""
    from math import comb

    k = min(k, clips)
    return 1 - comb(clips - fitting, k) / comb(clips, k)


def retrieval(text: np.ndarray, audio: np.ndarray, match: np.ndarray) -> list[dict]:
    """R@k of captions (n, 512) among clips (m, 512): the share of captions with a matching clip in their top k.

    match (n, m): whether the clip matches the caption. Also the chance level, and the share of matches in the top k.
    """
    order = (-text @ audio.T).argsort(1, kind="stable")
    ranked = np.take_along_axis(match, order, axis=1)
    rows = []
    for k in TOP:
        chance = np.mean([recall_by_chance(int(m.sum()), len(m), k) for m in match])
        row = {"measure": "retrieval", "name": f"R@{k}", **accuracy(ranked[:, :k].any(1)), "chance": float(chance)}
        precision = {"precision": float(ranked[:, :k].mean()), "precision_by_chance": float(match.mean())}
        rows.append(row | precision)
    return rows


def measure_embedder(study: Study) -> None:
    """Writes results/embedder.json."""
    clips, source = study.split("test"), "embedder, of test clips"
    audio = study.embeddings(clips)
    rows = zero_shot(study, clips, audio, source) + ceiling_rows(study)
    bars = [
        target(f"embedder, zero-shot {row['attribute']}", row["accuracy"], at_least=bound)
        for row, bound in zip(rows, (0.95, None, 0.90))
        if bound
    ]
    value = ratio(rows, "mode", source, of="held-out originals")
    bars.append(target("embedder, zero-shot mode / the judge's ceiling", value, at_least=0.85))
    captions = list({c["text"]: c for clip in clips for c in clip["captions"]}.values())
    text = study.embed_text([c["text"] for c in captions])
    match = np.array([[fits(c["asks"], clip) for clip in clips] for c in captions])
    rows += retrieval(text, audio, match)
    for of, few in (
        ("vague: 20 or more clips fit", match.sum(1) >= 20),
        ("specific: at most 3 clips fit", match.sum(1) <= 3),
    ):
        if few.any():
            rows += [{**row, "of": of} for row in retrieval(text[few], audio, match[few])]
    study.write("embedder", rows + bars)
