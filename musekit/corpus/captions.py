"""Captions: sentences about a clip, each with exactly what it claims, and the prompts of the evaluation.

A template's slots are filled with words of `lexicon.toml` that are true of the clip; their claims are added up.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import numpy as np

from musekit.claims import matches
from musekit.corpus.instruments import SINGLE

LEVELS = ("vague", "plain", "specific")
SLOT = re.compile(r"\{(\w+)\}")


def claims(text: str) -> dict:
    """The claims of "minor + slow + era=folk", as {"mode": "minor", "speed": "slow", "era": "folk"}."""
    return dict(CLAIMS.get(claim, claim).split("=") for claim in text.split(" + "))


def _words(table: dict[str, list[str]]) -> list[tuple[str, dict]]:
    """[(word, its claims)] of a table of the lexicon."""
    return [(word, claims(asks)) for asks, words in table.items() for word in words]


_LEXICON = tomllib.loads(Path(__file__).with_name("lexicon.toml").read_text(encoding="utf-8"))
CLAIMS = {**{name: f"instrument={name}" for name in SINGLE}, **_LEXICON["claims"]}
WORDS = {slot: _words(table) for slot, table in _LEXICON["words"].items()}  # the words of each slot
HELD_OUT_WORDS = {slot: _words(table) for slot, table in _LEXICON["held_out_words"].items()}
TEMPLATES, HELD_OUT = _LEXICON["templates"], _LEXICON["held_out_templates"]  # by level: how much they claim


def _played(name: str, called: list[str]) -> list[str]:
    if name == "choir":
        return ["sung by a choir", "for choir", "sung by voices"]
    if name in _LEXICON["groups"]:
        return [f"played by a {c}" for c in called]
    if " and " in name:
        return [f"played by {name}", f"by a duo of {name}"]
    article = "an" if name[0] in "aeiou" else "a"
    return [f"{how} {c}" for c in called for how in ("played on the", "on the")] + [f"on {article} {name}"]


def words(slot: str, record: dict, held_out: bool = False) -> list[tuple[str, dict]]:
    """All (text, claims) for a slot that are true of the record. Raises KeyError for an unknown slot."""
    name, texture, mode = (record.get(field) for field in ("instrumentation", "texture", "mode"))
    asks = {"instrument": name}
    called = _LEXICON["called"].get(name, [name]) if name else []
    if slot == "noun":
        found = [(n, {}) for n in _LEXICON["nouns"].get(texture, _LEXICON["nouns"]["other"])]
    elif slot == "instrument":
        found = [(c, asks) for c in called]
    elif slot == "played":
        found = [(said, asks) for said in _played(name, called)] if name else []
    elif slot == "solo":  # one line on one instrument
        alone = texture == "solo" and name and name not in (*_LEXICON["groups"], "choir") and " and " not in name
        sounding = [f"{how} {c}" for how in ("solo", "unaccompanied") for c in called if alone]
        found = [(said, {**asks, "texture": "solo"}) for said in sounding]
    elif slot == "fiddle":
        found = [("fiddle tune", {**asks, "era": "folk", "texture": "solo"})] if name == "violin" else []
    elif slot == "key":
        key = record.get("key") if mode else None
        spelled = [key, key.replace("b", " flat").replace("#", " sharp")] if key else []  # "Bb", "B flat"
        found = [(f"in {k} {mode}", {"key": key, "mode": mode}) for k in dict.fromkeys(spelled)]
    else:
        found = [*WORDS[slot], *(HELD_OUT_WORDS.get(slot, ()) if held_out else ())]
    return [(text, a) for text, a in found if matches(a, record)]


def fill(template: str, record: dict, rng: np.random.Generator, held_out: bool = False) -> dict | None:
    """The template as {"text", "asks"} with words that are true of the record; None when a slot has none."""
    text, asks, said = template, {}, set()
    for slot in SLOT.findall(template):
        choices = [c for c in words(slot, record, held_out) if not said & set(re.findall(r"[a-z]{4,}", c[0]))]
        if not choices:
            return None
        word, asked = choices[int(rng.integers(len(choices)))]
        said |= set(re.findall(r"[a-z]{4,}", word))  # never the same word twice
        text = text.replace("{" + slot + "}", word, 1)
        asks.update(asked)
    text = re.sub(r"\b(a|an) (?=(\w))", lambda m: "an " if m[2].lower() in "aeiou" else "a ", text)
    return {"text": text, "asks": asks}


def write_captions(record: dict, rng: np.random.Generator, n: int = 6) -> list[dict]:
    """n distinct captions of a clip, from vague to specific; clips of valid and test have held-out wordings."""
    held_out = record.get("split") in ("valid", "test")
    templates = HELD_OUT if held_out else TEMPLATES
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
    """n distinct prompts {"text", "asks"} in held-out wordings, evenly over 12 instruments x 2 modes x 2 speeds.

    Each claims exactly an instrument, a mode and a speed.
    """
    rng = np.random.default_rng([seed, 4])
    cells = [(i, m, s) for i in SINGLE for m in ("major", "minor") for s in ("slow", "fast")]
    rounds: dict[str, dict] = {}
    templates = [*HELD_OUT["plain"], *HELD_OUT["specific"]]
    for k in range(n):
        instrument, mode, speed = cells[k % len(cells)]
        about = {"instrumentation": instrument, "mode": mode, "speed": speed}
        while True:
            caption = fill(templates[int(rng.integers(len(templates)))], about, rng, held_out=True)
            if caption and set(caption["asks"]) == {"instrument", "mode", "speed"} and caption["text"] not in rounds:
                rounds[caption["text"]] = caption
                break
    return list(rounds.values())


def prompts(kind: str) -> list:
    """Twenty prompts {"text", "asks"} of kind "vague" or "specific", or the twenty "pairs" (vague, specific) of them.

    Raises ValueError for another kind.
    """
    pairs = [
        ({"text": vague, "asks": claims(few)}, {"text": specific, "asks": claims(few) | claims(more)})
        for vague, few, specific, more in _LEXICON["pairs"]
    ]
    if kind == "pairs":
        return pairs
    if kind not in ("vague", "specific"):
        raise ValueError(f"unknown kind of prompts {kind!r}: take 'vague', 'specific' or 'pairs'")
    return [pair[kind == "specific"] for pair in pairs]
