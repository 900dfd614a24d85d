"""Captions: sentences about a clip, each with exactly what it claims, and the prompts of the evaluation.

A template's slots are filled with words of `lexicon.toml` that are true of the clip; their claims are added up.
"""

import re
import tomllib
from pathlib import Path

import numpy as np

from musekit.claims import matches, members
from musekit.corpus.instruments import DUETS, INSTRUMENTATIONS, SINGLE

LEVELS = ("vague", "plain", "specific")
SLOT = re.compile(r"\{(\w+)\}")
CHOICE = re.compile(r"\[([^\]]*)\]")  # alternatives within a template, "[music|a track]"
LISTS = ("instruments", "without")  # claims that are lists of words


def claims(text: str) -> dict:
    """The claims of "minor + era=folk + without=bass/drums", as {"mode": "minor", "era": "folk", "without": [...]}."""
    pairs = dict(CLAIMS.get(claim, claim).split("=") for claim in text.split(" + "))
    return {name: value.split("/") if name in LISTS else value for name, value in pairs.items()}


def _words(table: dict[str, list[str]]) -> list[tuple[str, dict]]:
    """[(word, its claims)] of a table of the lexicon."""
    return [(word, claims(asks)) for asks, words in table.items() for word in words]


_LEXICON = tomllib.loads(Path(__file__).with_name("lexicon.toml").read_text(encoding="utf-8"))
CLAIMS = {**{name: f"instrument={name}" for name in SINGLE}, **_LEXICON["claims"]}
WORDS = {slot: _words(table) for slot, table in _LEXICON["words"].items()}  # the words of each slot
HELD_OUT_WORDS = {slot: _words(table) for slot, table in _LEXICON["held_out_words"].items()}
TEMPLATES, HELD_OUT = _LEXICON["templates"], _LEXICON["held_out_templates"]  # by level: how much they claim
HELD_OUT_FACTS = _LEXICON["held_out_facts"]  # beside HELD_OUT for clips; the evaluation's prompts have none of these


def _played(name: str, called: list[str]) -> list[str]:
    if name == "choir":
        return ["sung by a choir", "for choir", "sung by voices"]
    if name in _LEXICON["groups"]:
        return [f"played by a {c}" for c in called]
    if " and " in name:
        return [f"played by {name}", f"performed by {name}"]
    article = "an" if name[0] in "aeiou" else "a"
    return [f"{how} {c}" for c in called for how in ("played on the", "on the")] + [f"on {article} {name}"]


def words(slot: str, record: dict, held_out: bool = False) -> list[tuple[str, dict]]:
    """All (text, claims) for a slot that are true of the record. Raises KeyError for an unknown slot."""
    name, texture, mode = (record.get(field) for field in ("instrumentation", "texture", "mode"))
    name = name if name in INSTRUMENTATIONS else None  # a band has a style instead
    asks = {"instruments": name.split(" and ")} if name in DUETS and " and " in name else {"instrument": name}
    called = _LEXICON["called"].get(name, [name]) if name else []
    if slot == "noun":
        found = [(n, {}) for n in _LEXICON["nouns"].get(texture, _LEXICON["nouns"]["other"])]
    elif slot == "instrument":
        found = [(c, asks) for c in called]
    elif slot == "only":  # and nothing else
        found = [(c, {"instrument": name}) for c in called]
    elif slot == "played":
        found = [(said, asks) for said in _played(name, called)] if name else []
    elif slot == "solo":  # one line on one instrument
        alone = texture == "solo" and name and name not in (*_LEXICON["groups"], "choir") and " and " not in name
        sounding = [f"{how} {c}" for how in ("solo", "unaccompanied") for c in called if alone]
        found = [(said, {**asks, "texture": "solo"}) for said in sounding]
    elif slot == "fiddle":
        found = [("fiddle tune", {**asks, "era": "folk", "texture": "solo"})] if name == "violin" else []
    elif slot in ("key", "scale"):
        key = record.get("key") if mode else None
        names = [name for name in (key, key, _LEXICON["enharmonic"].get(key)) if name]  # "Eb", "D#"
        names += [n[0] + " -"[i % 2] + {"b": "flat", "#": "sharp"}[n[1]] for i, n in enumerate(names) if n[1:]]
        forms = [form.replace("#mode", mode) for form in _LEXICON["forms"][slot] if key]
        found = [(form.replace("#key", n), {"key": key, "mode": mode}) for form in forms for n in names]
    elif slot in ("tempo", "bpm", "bars"):  # "around 120 bpm" is rounded to fives
        name = "bars" if slot == "bars" else "bpm"
        number = record.get(name)
        steps = [(f, 5 if "around" in f else 1) for f in _LEXICON["forms"][slot] if number]
        found = [(f.replace("#", str(n)), {name: n}) for f, by in steps for n in [by * round(number / by)]]
    elif slot in ("player", "lead"):  # one of several instruments, the one with the melody
        several = WORDS["player"] if len(record.get("instruments", ())) > 1 else ()
        found = [(text, a | {"lead": a["instruments"][0]} if slot == "lead" else a) for text, a in several]
    else:
        found = [*WORDS[slot], *(HELD_OUT_WORDS.get(slot, ()) if held_out else ())]
    return [(text, a) for text, a in found if matches(a, record)]


def fill(
    template: str, record: dict, rng: np.random.Generator, held_out: bool = False, known: dict | None = None
) -> dict | None:
    """The template as {"text", "asks"} with words that are true of the record; None when a slot has none.

    known: the record's words by slot, which the call adds to.
    """
    known = {} if known is None else known
    text = CHOICE.sub(lambda m: (options := m[1].split("|"))[int(rng.integers(len(options)))], template)
    asks, said = {}, set()
    for slot in SLOT.findall(text):
        if slot not in known:
            known[slot] = words(slot, record, held_out)
        choices = known[slot]
        if said:
            choices = [c for c in choices if not said & set(re.findall(r"[a-z]{4,}", c[0]))]
        if "instruments" in asks:  # nor the same instrument
            heard = frozenset().union(*map(members, asks["instruments"]))
            choices = [c for c in choices if not any(heard & members(n) for n in c[1].get("instruments", ()))]
        if not choices:
            return None
        word, asked = choices[int(rng.integers(len(choices)))]
        said |= set(re.findall(r"[a-z]{4,}", word))  # never the same word twice
        text = text.replace("{" + slot + "}", word, 1)
        asks |= {k: [*asks.get(k, ()), *v] if k in LISTS else v for k, v in asked.items()}
    text = re.sub(r"\b(a|an) (?=(\w))", lambda m: "an " if m[2].lower() in "aeiou" else "a ", text)
    return {"text": text, "asks": asks}


def write_captions(record: dict, rng: np.random.Generator, n: int = 6) -> list[dict]:
    """n distinct captions of a clip, from vague to specific; clips of valid and test have held-out wordings."""
    held_out = record.get("split") in ("valid", "test")
    templates = {level: HELD_OUT[level] + HELD_OUT_FACTS[level] for level in LEVELS} if held_out else TEMPLATES
    captions: dict[str, dict] = {}
    known: dict[str, list] = {}
    for i in range(n):
        level = LEVELS[i * len(LEVELS) // n]
        order = rng.permutation(templates[level]).tolist()
        for template in order + [t for name in LEVELS for t in templates[name]]:  # any that applies
            caption = fill(template, record, rng, held_out, known)
            if caption and caption["asks"] and caption["text"] not in captions:
                text = caption["text"]
                captions[text] = {**caption, "text": text[0].upper() + text[1:] if rng.random() < 0.2 else text}
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
