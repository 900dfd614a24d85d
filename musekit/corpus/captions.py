"""Captions: sentences about a clip, each with exactly what it asserts, and the prompts of the evaluation.

`fits` is the meaning of a caption: the true matches of the embedder and the reference sets of
the evaluation come from it.
"""

from __future__ import annotations

import numpy as np

from musekit.corpus import lexicon
from musekit.corpus.grammar import fill, fits
from musekit.corpus.instruments import SINGLE

__all__ = ["evaluation_prompts", "fits", "prompts", "write_captions"]
LEVELS = ("vague", "plain", "specific")


def write_captions(record: dict, rng: np.random.Generator, n: int = 6) -> list[dict]:
    """n distinct captions of a clip, from vague to specific; held-out wordings for the valid and test
    splits.
    """
    held_out = record.get("split") in ("valid", "test")
    templates = lexicon.HELD_OUT if held_out else lexicon.TEMPLATES
    captions: dict[str, dict] = {}
    for i in range(n):
        level = LEVELS[i * len(LEVELS) // n]
        order = rng.permutation(templates[level]).tolist()
        for template in order + [t for name in LEVELS for t in templates[name]]:  # any that applies
            caption = fill(template, record, rng, held_out)
            if caption and caption["asks"] and caption["text"] not in captions:
                captions[caption["text"]] = caption
                break
    return list(captions.values())


def evaluation_prompts(n: int = 240, seed: int = 0) -> list[dict]:
    """n prompts in held-out wordings, evenly over 12 instruments x {major, minor} x {slow, fast}, with their
    asks.

    Each asserts exactly an instrument, a mode and a speed; no two are alike.
    """
    rng = np.random.default_rng([seed, 4])
    cells = [(i, m, s) for i in SINGLE for m in ("major", "minor") for s in ("slow", "fast")]
    rounds: dict[str, dict] = {}
    templates = [*lexicon.HELD_OUT["plain"], *lexicon.HELD_OUT["specific"]]
    for k in range(n):
        instrument, mode, speed = cells[k % len(cells)]
        about = {"instrumentation": instrument, "mode": mode, "speed": speed}
        while True:
            caption = fill(templates[int(rng.integers(len(templates)))], about, rng, held_out=True)
            if caption and set(caption["asks"]) == {"instrument", "mode", "speed"} and caption["text"] not in rounds:
                rounds[caption["text"]] = caption
                break
    return list(rounds.values())


def _pair(vague: str, vague_asks: dict, specific: str, specific_asks: dict) -> tuple[dict, dict]:
    return {"text": vague, "asks": vague_asks}, {"text": specific, "asks": {**vague_asks, **specific_asks}}


def prompts(kind: str) -> list:
    """Twenty prompts of kind 'vague' or 'specific', or the twenty 'pairs' (vague, specific) of them.

    Raises ValueError for another kind.
    """
    sad, happy = {"mode": "minor", "speed": "slow"}, {"mode": "major", "speed": "fast"}
    slow, fast, minor, major = {"speed": "slow"}, {"speed": "fast"}, {"mode": "minor"}, {"mode": "major"}
    on = [{"instrument": name} for name in SINGLE]
    piano, harpsichord, organ, guitar, harp, vibes, violin, cello, flute, clarinet, trumpet, choir = on
    pairs = [
        _pair(
            "something sad",
            sad,
            "a slow sad lament for solo cello in D minor",
            {**cello, "texture": "solo", "key": "D"},
        ),
        _pair(
            "something happy",
            happy,
            "a happy, fast fiddle tune in G major",
            {**violin, "era": "folk", "key": "G"},
        ),
        _pair("calm music", slow, "calm organ music, slow, in a major key", {**organ, **major}),
        _pair(
            "energetic music",
            fast,
            "a fast virtuosic harpsichord piece in G major",
            {**harpsichord, **major, "dynamic": "loud", "key": "G"},
        ),
        _pair("piano music", piano, "a slow, quiet piano piece in a minor key", {**sad, "dynamic": "soft"}),
        _pair(
            "organ music",
            organ,
            "a solemn chorale for organ in a minor key, loud",
            {**sad, "form": "chorale", "dynamic": "loud"},
        ),
        _pair("a guitar piece", guitar, "a fast, cheerful guitar piece in C major", {**happy, "key": "C"}),
        _pair(
            "harp music",
            harp,
            "a slow gentle harp piece in a major key",
            {**slow, **major, "dynamic": "soft"},
        ),
        _pair("something on the vibraphone", vibes, "a fast, bright vibraphone piece in major", happy),
        _pair(
            "a violin melody",
            violin,
            "a slow, mournful melody for solo violin in A minor",
            {**sad, "texture": "solo", "key": "A"},
        ),
        _pair("a flute tune", flute, "a merry jig on the flute in D major", {**happy, "form": "jig", "key": "D"}),
        _pair(
            "music for clarinet",
            clarinet,
            "a slow, sad melody for solo clarinet in G minor",
            {**sad, "texture": "solo", "key": "G"},
        ),
        _pair(
            "trumpet music",
            trumpet,
            "a loud, fast trumpet piece in a major key",
            {**happy, "dynamic": "loud"},
        ),
        _pair(
            "a choir",
            choir,
            "a slow, serene chorale sung by a choir in F major",
            {**slow, **major, "form": "chorale", "key": "F"},
        ),
        _pair(
            "a church hymn",
            {"form": "chorale"},
            "a slow church hymn for organ in D minor",
            {**sad, **organ, "key": "D"},
        ),
        _pair("dark music", minor, "a dark, agitated harpsichord piece in a minor key", {**fast, **harpsichord}),
        _pair("a slow piece", slow, "a slow piece for cello in a major key", {**cello, **major}),
        _pair("fast music", fast, "fast, stormy piano music in C minor", {**minor, **piano, "key": "C"}),
        _pair(
            "a folk tune",
            {"era": "folk"},
            "a lively folk tune for solo flute in a minor key",
            {**flute, **fast, **minor, "texture": "solo"},
        ),
        _pair(
            "baroque music",
            {"era": "baroque"},
            "a slow baroque chorale for guitar in A minor",
            {**sad, **guitar, "form": "chorale", "key": "A"},
        ),
    ]
    if kind == "pairs":
        return pairs
    if kind not in ("vague", "specific"):
        raise ValueError(f"unknown kind of prompts {kind!r}: take 'vague', 'specific' or 'pairs'")
    return [pair[kind == "specific"] for pair in pairs]
