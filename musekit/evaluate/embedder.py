"""embedder: zero-shot attributes of held-out clips, and text-to-audio retrieval, all in held-out wordings."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from musekit.corpus import lexicon
from musekit.corpus.captions import fill
from musekit.corpus.claims import fits
from musekit.corpus.instruments import SINGLE
from musekit.evaluate.ceiling import rate_of, ratio, references
from musekit.evaluate.judge import ATTRIBUTES, value_of
from musekit.evaluate.subject import Subject, table, target
from musekit.statistics import accuracy

WORDINGS = 12  # sentences a class, at most
CLASSES = {"instrument": SINGLE, "mode": ("major", "minor"), "speed": ("slow", "fast")}
TOP = (1, 5, 10)


def wordings(attribute: str, value: str, n: int = WORDINGS, seed: int = 0) -> list[str]:
    """Up to n held-out sentences that assert just this: {attribute: value}."""
    about = {"instrumentation" if attribute == "instrument" else attribute: value}
    rng, found = np.random.default_rng(seed), {}
    templates = [t for level in lexicon.HELD_OUT.values() for t in level]
    for _ in range(40):
        for template in templates:
            caption = fill(template, about, rng, held_out=True)
            if caption and caption["asks"] == {attribute: value}:
                found[caption["text"]] = None
    return list(rng.permutation(sorted(found)))[:n]


said = functools.cache(wordings)  # several measurements ask for the same sentences, which take a moment


def class_embeddings(subject: Subject, attribute: str) -> np.ndarray:
    """The mean text embedding of each class's wordings (classes, 512), of unit length."""
    means = []
    for value in CLASSES[attribute]:
        x = subject.muse.embedder.embed_text(said(attribute, value)).double().numpy().mean(0)
        means.append(x / np.linalg.norm(x))
    return np.stack(means)


def zero_shot(subject: Subject, records: Sequence[dict], x: np.ndarray, source: str) -> list[dict]:
    """One accuracy row an attribute: each embedding of x (n, 512) gets the class whose sentences lie nearest."""
    rows = []
    for attribute in ATTRIBUTES:
        truth = [value_of(r, attribute) for r in records]
        known = [i for i, t in enumerate(truth) if t is not None]
        guess = (x[known] @ class_embeddings(subject, attribute).T).argmax(1) if known else []
        right = np.array([CLASSES[attribute][g] == truth[i] for g, i in zip(guess, known)], bool)
        rows.append({"measure": "accuracy", "attribute": attribute, "source": source, **accuracy(right)})
    return rows


def recall_by_chance(fitting: int, clips: int, k: int) -> float:
    """P(at least one of `fitting` among k of `clips` drawn at random) = 1 - C(clips - fitting, k) / C(clips, k)."""
    from math import comb

    k = min(k, clips)
    return 1 - comb(clips - fitting, k) / comb(clips, k)


def retrieval(text: np.ndarray, audio: np.ndarray, match: np.ndarray) -> list[dict]:
    """R@k of captions (n, 512) among clips (m, 512): a caption is served when a clip that fits it is in its top k.

    match (n, m) is true where the clip fits. Beside it the chance level and the share of fitting clips in the top k.
    """
    order = (-text @ audio.T).argsort(1, kind="stable")
    ranked = np.take_along_axis(match, order, axis=1)
    rows = []
    for k in TOP:
        chance = np.mean([recall_by_chance(int(m.sum()), len(m), k) for m in match])
        served = accuracy(ranked[:, :k].any(1))
        rows.append(
            {
                "measure": "retrieval",
                "name": f"R@{k}",
                **served,
                "chance": float(chance),
                "precision": float(ranked[:, :k].mean()),
                "precision_by_chance": float(match.mean()),
            }
        )
    return rows


def measure_embedder(subject: Subject) -> None:
    """Writes results/embedder.json."""
    clips = subject.split("test")
    audio = subject.embeddings(clips)
    rows = zero_shot(subject, clips, audio, "embedder, of test clips")
    captions = list({c["text"]: c for clip in clips for c in clip["captions"]}.values())
    text = subject.muse.embedder.embed_text([c["text"] for c in captions]).double().numpy()
    match = np.array([[fits(c["asks"], clip) for clip in clips] for c in captions])
    found = retrieval(text, audio, match)
    for level, few in (("vague", match.sum(1) >= 20), ("specific", match.sum(1) <= 3)):
        if few.any():
            more = {"of": f"{level}: " + ("20 or more" if level == "vague" else "at most 3") + " clips fit"}
            found += [{**row, **more} for row in retrieval(text[few], audio, match[few])]
    heard = references(subject)
    bars = []
    for attribute, bound in (("instrument", 0.95), ("speed", 0.90)):
        value = rate_of(rows, attribute, "embedder, of test clips")
        bars.append(target(f"embedder, zero-shot {attribute}", value, at_least=bound))
    pair = rate_of(rows, "mode", "embedder, of test clips"), rate_of(heard, "mode", "held-out originals")
    bars.append(target("embedder, zero-shot mode / the judge's ceiling", ratio(*pair), at_least=0.85))
    table(rows + heard, "attribute", "source", "n", "accuracy", "low", "high")
    table(found, "name", "of", "n", "accuracy", "low", "high", "chance", "precision", "precision_by_chance")
    table(bars, "name", "value", "bar", "met")
    subject.write("embedder", rows + heard + found + bars)
