"""Captions are true of their clips, varied, and held-out wordings stay held out."""

import re
from collections import Counter
from itertools import product

import numpy as np
import pytest

from musekit.claims import matches
from musekit.config import TONICS
from musekit.corpus.captions import (
    HELD_OUT,
    HELD_OUT_WORDS,
    SLOT,
    TEMPLATES,
    WORDS,
    evaluation_prompts,
    prompts,
    words,
    write_captions,
)
from musekit.corpus.instruments import INSTRUMENTATIONS, SINGLE

FIELDS = ("instrument", "mode", "key", "speed", "metre", "form", "era", "dynamic", "composer", "texture")


def records(n: int, seed: int = 0) -> list[dict]:
    """Made-up records with the fields that captions read, some of them unknown."""
    rng = np.random.default_rng(seed)
    values = {
        "instrumentation": [*INSTRUMENTATIONS], "mode": ["major", "minor", None], "key": ["D", "Bb", "F#"],
        "speed": ["slow", "medium", "fast", None], "metre": ["3/4", "4/4", "7/8", ""],
        "form": ["chorale", "jig", "tune", "madrigal"], "era": ["baroque", "folk", "medieval"],
        "dynamic": ["soft", "medium", "loud"], "composer": ["J. S. Bach", "traditional"],
        "texture": ["solo", "chordal", "polyphonic"], "split": ["train", "valid", "test"],
    }  # fmt: skip
    found = [{name: v[int(rng.integers(len(v)))] for name, v in values.items()} for _ in range(n)]
    return [r | {"id": str(i), "key": r["key"] if r["mode"] else None} for i, r in enumerate(found)]


def test_every_caption_is_true_of_its_clip():
    for record in records(200, seed=1):
        captions = write_captions(record, np.random.default_rng(2))
        assert len(captions) == 6 == len({c["text"] for c in captions})
        for c in captions:
            assert c["asks"] and set(c["asks"]) <= set(FIELDS) and matches(c["asks"], record), c
            assert "{" not in c["text"] and "None" not in c["text"] and not re.search(r"\ba [aeiou]", c["text"])


def test_words_say_what_they_ask():
    """Key, mode, instrument and sad words may not appear unless they are in the asks."""
    for record in records(150, seed=3):
        for c in write_captions(record, np.random.default_rng(4)):
            said = set(re.findall(r"[a-z#]+", c["text"].lower()))
            assert not said & {"minor", "major"} or "mode" in c["asks"]
            if said & {"sad", "melancholy", "mournful", "plaintive"}:
                assert c["asks"]["mode"] == "minor" and c["asks"]["speed"] == "slow"
            if said & {"cheerful", "happy", "joyous"}:
                assert c["asks"]["mode"] == "major" and c["asks"]["speed"] == "fast"
            if said & {"cello", "piano", "flute", "choir", "trumpet"}:
                assert c["asks"]["instrument"] == record["instrumentation"]
            if said & {"melody", "tune", "solo", "unaccompanied"}:
                assert record["texture"] == "solo"
            if said & {"chorale", "hymn"}:
                assert c["asks"]["form"] == "chorale"


def test_captions_go_from_vague_to_specific_and_vary():
    every = [write_captions(r, np.random.default_rng(i)) for i, r in enumerate(records(300, seed=5))]
    asked = np.array([[len(c["asks"]) for c in captions] for captions in every])
    assert asked[:, :2].mean() < 1.7 < 2.7 < asked[:, 4:].mean()
    texts = [c["text"] for captions in every for c in captions]
    assert len(set(texts)) > 0.7 * len(texts)


def test_held_out_wordings_never_reach_training():
    every = records(400, seed=6)
    texts = {"train": set(), "valid": set(), "test": set()}
    for i, r in enumerate(every):
        texts[r["split"]] |= {c["text"] for c in write_captions(r, np.random.default_rng(i))}
    assert not texts["train"] & (texts["valid"] | texts["test"])
    held = {w for table in HELD_OUT_WORDS.values() for w, _ in table}
    assert not [t for t in texts["train"] if any(re.search(rf"\b{re.escape(w)}\b", t) for w in held)]
    common = set().union(*TEMPLATES.values()) & set().union(*HELD_OUT.values())
    assert not common


def training_sentences() -> re.Pattern:
    """Every sentence that the training templates can make, of any clip."""

    def said(slot: str) -> set[str]:
        records = product(INSTRUMENTATIONS, ("solo", "chordal"), ("major", "minor"), TONICS if slot == "key" else "C")
        fields = ("instrumentation", "texture", "mode", "key")
        found = {text for values in records for text, _ in words(slot, dict(zip(fields, values)))}
        return found | {text for text, _ in WORDS.get("form" if slot == "dance" else slot, ())}

    templates = [t for level in TEMPLATES.values() for t in level]
    slots = {slot for t in templates for slot in SLOT.findall(t)}
    choices = {slot: f"(?:{'|'.join(map(re.escape, said(slot)))})" for slot in slots}
    patterns = [re.sub(r"\\\{(\w+)\\\}", lambda m: choices[m[1]], re.escape(t)) for t in templates]
    return re.compile("|".join(re.sub(r"\ba\\ ", r"an?\\ ", p) for p in patterns), re.IGNORECASE)


def test_no_evaluation_prompt_is_a_sentence_of_the_training_grammar():
    trained = training_sentences()
    for record in [r for r in records(200, seed=8) if r["split"] == "train"]:
        for c in write_captions(record, np.random.default_rng(9)):
            assert trained.fullmatch(c["text"]), c  # the pattern misses none
    asked = [*prompts("vague"), *prompts("specific"), *evaluation_prompts(480)]
    assert not [p["text"] for p in asked if trained.fullmatch(p["text"])]
    assert trained.fullmatch("something sad") and trained.fullmatch("a merry jig on the flute in D major")


def test_evaluation_prompts_cover_every_cell_evenly():
    asked = evaluation_prompts(240)
    assert len(asked) == 240 == len({p["text"] for p in asked}) and asked == evaluation_prompts(240)
    cells = Counter((p["asks"]["instrument"], p["asks"]["mode"], p["asks"]["speed"]) for p in asked)
    assert set(cells) == set(product(SINGLE, ("major", "minor"), ("slow", "fast"))) and set(cells.values()) == {5}
    assert all(set(p["asks"]) == {"instrument", "mode", "speed"} for p in asked)


def test_pairs_go_from_vague_to_specific():
    assert len(prompts("pairs")) == len(prompts("vague")) == len(prompts("specific")) == 20
    for vague, specific in prompts("pairs"):
        assert vague["asks"].items() < specific["asks"].items(), (vague, specific)
        for p in (vague, specific):
            assert matches(p["asks"], {**p["asks"], "instrumentation": p["asks"].get("instrument")})
    with pytest.raises(ValueError, match="unknown kind"):
        prompts("long")
