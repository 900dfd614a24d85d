"""Captions are true of their clips, varied, and held-out wordings stay held out."""

import functools
import re
import time
import timeit
from collections import Counter
from itertools import product

import numpy as np
import pytest

from musekit.claims import attribute_of, matches, members
from musekit.config import TONICS, preset
from musekit.corpus.captions import (
    CHOICE,
    HELD_OUT,
    HELD_OUT_FACTS,
    HELD_OUT_WORDS,
    LEVELS,
    SLOT,
    TEMPLATES,
    WORDS,
    evaluation_prompts,
    prompts,
    words,
    write_captions,
)
from musekit.corpus.instruments import INSTRUMENTATIONS, SINGLE
from musekit.encoders.text import text_encoder

FIELDS = (
    "instrument", "mode", "key", "speed", "metre", "form", "era", "dynamic", "composer", "texture", "instruments",
    "without", "style", "bpm", "bars", "lead",
)  # fmt: skip
STYLES = sorted({name for _, asks in WORDS["genre"] for name in members(asks["style"])})
PLAYERS = sorted({name for _, asks in WORDS["player"] for word in asks["instruments"] for name in members(word)})


def records(n: int, seed: int = 0) -> list[dict]:
    """Made-up records with the fields that captions read, some of them unknown."""
    rng = np.random.default_rng(seed)
    values = {
        "instrumentation": [*INSTRUMENTATIONS], "mode": ["major", "minor", None], "key": ["D", "Bb", "F#"],
        "speed": ["slow", "medium", "fast", None], "metre": ["3/4", "4/4", "7/8", ""],
        "form": ["chorale", "jig", "tune", "madrigal"], "era": ["baroque", "folk", "medieval"],
        "dynamic": ["soft", "medium", "loud"], "composer": ["J. S. Bach", "traditional"],
        "texture": ["solo", "chordal", "polyphonic"], "split": ["train", "valid", "test"], "bars": [8, 13, None],
        "bpm": [None, 61.3, 96.0, 118.4, 171.9],
    }  # fmt: skip
    found = [{name: v[int(rng.integers(len(v)))] for name, v in values.items()} for _ in range(n)]
    for i, r in enumerate(found):
        r |= {"id": str(i), "key": r["key"] if r["mode"] else None}
        r["instruments"] = [*INSTRUMENTATIONS[r["instrumentation"]]]
        if i % 2:  # a band
            players = rng.choice(PLAYERS, 2 + i % 4, replace=False).tolist()
            r |= {"style": STYLES[i // 2 % len(STYLES)], "instrumentation": "a band", "instruments": players}
    return found


def test_every_caption_is_true_of_its_clip():
    encoder = text_encoder(preset("mini").text)
    for record in records(340, seed=1):
        captions = write_captions(record, np.random.default_rng(2))
        assert len(captions) == 6 == len({c["text"] for c in captions})
        for c in captions:
            assert c["asks"] and set(c["asks"]) <= set(FIELDS) and matches(c["asks"], record), c
            assert not encoder.is_cut(c["text"])
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
                assert {"instrument", "instruments", "without"} & c["asks"].keys()
            if said & {"melody", "tune", "solo", "unaccompanied"}:
                assert record["texture"] == "solo" or "lead" in c["asks"]
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
    trained, forms = training_sentences(), {level: expanded(TEMPLATES[level]) for level in LEVELS}
    assert min(map(len, forms.values())) >= 400
    held = [t for level in LEVELS for t in HELD_OUT[level] + HELD_OUT_FACTS[level]]
    assert not set().union(*forms.values()) & expanded(held)
    assert not [t for t in texts["valid"] | texts["test"] if trained.fullmatch(t)]


def expanded(templates: list[str]) -> set[str]:
    """The templates with each of their alternatives."""
    pieces = [[m.split("|") if i % 2 else [m] for i, m in enumerate(CHOICE.split(t))] for t in templates]
    return {"".join(chosen) for each in pieces for chosen in product(*each)}


@functools.cache
def training_sentences() -> re.Pattern:
    """Every sentence that the training templates can make, of any clip."""

    def said(slot: str) -> set[str]:
        tonics = TONICS if slot in ("key", "scale") else "C"
        records = product(INSTRUMENTATIONS, ("solo", "chordal"), ("major", "minor"), tonics, [99], [99])
        fields = ("instrumentation", "texture", "mode", "key", "bpm", "bars")
        every = [{**dict(zip(fields, values)), "instruments": values[0].split(" and ")} for values in records]
        found = {text for record in every for text, _ in words(slot, record)}
        return found | {text for text, _ in WORDS.get({"dance": "form", "lead": "player"}.get(slot, slot), ())}

    def pattern(part: str) -> str:  # of a template, or of one of its alternatives
        return re.sub(r"\\\{(\w+)\\\}", lambda m: choices[m[1]], re.escape(part))

    templates = [CHOICE.split(t) for level in TEMPLATES.values() for t in level]
    slots = {slot for t in templates for slot in SLOT.findall("".join(t))}
    choices = {slot: f"(?:{'|'.join(map(re.escape, said(slot)))})" for slot in slots}
    choices = {slot: re.sub(r"(?<!\d)(99|100)(?!\d)", r"\\d+", choice) for slot, choice in choices.items()}
    parts = [[[pattern(p) for p in part.split("|")] for part in template] for template in templates]
    patterns = ["".join(f"(?:{'|'.join(part)})" for part in template) for template in parts]
    return re.compile(re.sub(r"\ba(?=\\ |\||\))", "an?", "|".join(patterns)), re.IGNORECASE)


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


def test_claims_compare_as_people_would():
    band = {"instruments": ["jazz guitar", "acoustic bass"], "bpm": 100.0, "style": "jazz trio", "era": "baroque"}
    true = [{"instruments": ["guitar", "bass"]}, {"without": ["drums", "piano"]}, {"bpm": 104}, {"bpm": 97}]
    false = [{"instruments": ["guitar", "drums"]}, {"without": ["piano", "guitar"]}, {"bpm": 105}, {"bpm": 50}]
    false += [{"instruments": ["acoustic guitar"]}, {"style": "rock"}, {"metre": None}, {"without": ["bass"]}]
    true, false = [*true, {"style": "jazz", "lead": "guitar"}], [*false, {"lead": "bass"}, {"era": "baroque"}]
    assert all(matches(asks, band) for asks in [*true, {}]) and not any(matches(asks, band) for asks in false)
    assert not any(matches(asks, {}) for asks in [*true, *false])  # unknown is neither there nor absent
    assert attribute_of({"key": "D", "mode": "minor"}, "scale") == "D minor"


def test_all_pairs_of_a_batch_are_compared_in_no_time():
    clips = records(128, seed=10)
    asks = [write_captions(r, np.random.default_rng(1))[i % 6]["asks"] for i, r in enumerate(clips)]
    times = timeit.repeat(lambda: [[matches(a, clip) for clip in clips] for a in asks], "", time.process_time, 5, 1)
    assert min(times) < 0.05  # seconds for 16,384 pairs


def test_equal_words_make_equal_claims():
    said = {}
    for slot in WORDS.keys() - {"absent"}:
        for word, asks in WORDS[slot]:
            assert said.setdefault(word, asks) == asks, (slot, word)
