"""Grammar: fills a sentence with words that are true of a clip, and keeps account of what it asserts."""

from __future__ import annotations

import re

import numpy as np

from musekit.corpus import lexicon

SLOT = re.compile(r"\{(\w+)\}")
TABLES = {
    "mood": lexicon.MOODS,
    "speed": lexicon.SPEEDS,
    "pace": lexicon.PACES,
    "mode": lexicon.MODES,
    "dynamic": lexicon.DYNAMICS,
    "loudness": lexicon.LOUDNESSES,
    "era": lexicon.ERAS,
    "texture": lexicon.TEXTURES,
    "form": lexicon.FORMS,
    "composer": lexicon.COMPOSERS,
    "metre": lexicon.METRES,
}


def fits(asks: dict, record: dict) -> bool:
    """True when every asked attribute is true of the clip; what is unknown (None) fits nothing.

    `instrument` is compared with the record's `instrumentation`, every other key with the field of its name.
    """
    for name, wanted in asks.items():
        if wanted is None or record.get("instrumentation" if name == "instrument" else name) != wanted:
            return False
    return True


def _spelled(key: str) -> tuple[str, ...]:
    """'Bb' -> ('Bb', 'B flat')."""
    return (key, key[0] + {"b": " flat", "#": " sharp"}[key[1]]) if len(key) > 1 else (key,)


def _played(name: str, called: tuple[str, ...]) -> list[str]:
    if name == "choir":
        return ["sung by a choir", "for choir", "sung by voices"]
    if name in lexicon.GROUPS:
        return [f"played by a {c}" for c in called]
    if " and " in name:
        return [f"played by {name}", f"by a duo of {name}"]
    article = "an" if name[0] in "aeiou" else "a"
    return [f"{how} {c}" for c in called for how in ("played on the", "on the")] + [f"on {article} {name}"]


def words(slot: str, record: dict, held_out: bool = False) -> list[tuple[str, dict]]:
    """All (text, asks) of a slot that are true of the record. Raises KeyError for an unknown slot."""
    name, texture, mode = (record.get(field) for field in ("instrumentation", "texture", "mode"))
    asks = {"instrument": name}
    called = lexicon.CALLED.get(name, (name,)) if name else ()
    if slot == "noun":
        found = [(n, {}) for n in lexicon.NOUNS.get(texture, lexicon.NOUNS[None])]
    elif slot == "instrument":
        found = [(c, asks) for c in called]
    elif slot == "played":
        found = [(said, asks) for said in _played(name, called)] if name else []
    elif slot == "solo":  # one line on one instrument
        alone = texture == "solo" and name and name not in (*lexicon.GROUPS, "choir") and " and " not in name
        found = [
            (f"{how} {c}", {**asks, "texture": "solo"}) for how in ("solo", "unaccompanied") for c in called if alone
        ]
    elif slot == "fiddle":
        found = [("fiddle tune", {**asks, "era": "folk", "texture": "solo"})] if name == "violin" else []
    elif slot == "dance":
        found = [(text, a) for text, a in lexicon.FORMS if a["form"] in lexicon.DANCES]
    elif slot == "key":
        known = mode and record.get("key")
        found = (
            [(f"in {k} {mode}", {"key": record["key"], "mode": mode}) for k in _spelled(record["key"])] if known else []
        )
    else:
        found = [*TABLES[slot], *(lexicon.HELD_OUT_WORDS.get(slot, ()) if held_out else ())]
    return [(text, a) for text, a in found if fits(a, record)]


def fill(template: str, record: dict, rng: np.random.Generator, held_out: bool = False) -> dict | None:
    """The template as {"text", "asks"} with words that are true of the record, None when a slot has none."""
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
