"""Lexicon: words with the claims that they make, and the sentence templates that they fill (`lexicon.toml`)."""

from __future__ import annotations

import tomllib
from pathlib import Path

from musekit.corpus.instruments import SINGLE

CLAIMS = {
    **{name: {"instrument": name} for name in SINGLE},
    **{name: {"speed": name} for name in ("slow", "fast")},
    **{name: {"mode": name} for name in ("minor", "major")},
    **{name: {"dynamic": name} for name in ("soft", "loud")},
    **{"solo": {"texture": "solo"}, "chorale": {"form": "chorale"}},
}
NOUNS = {"solo": ("piece", "melody", "tune"), None: ("piece", "piece of music")}  # melody and tune: single lines only


def claims(text: str) -> dict:
    """The claims of "minor + slow + era=folk", as {"mode": "minor", "speed": "slow", "era": "folk"}."""
    asks = {}
    for claim in text.split(" + "):
        asks.update(CLAIMS.get(claim) or dict([claim.split("=")]))
    return asks


def _words(text: str) -> list[tuple[str, dict]]:
    """[(word, claims)] of lines "claims: word, word, ..."."""
    lines = (line.split(": ") for line in text.splitlines())
    return [(word, claims(asks)) for asks, words in lines for word in words.split(", ")]


def _sentences(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for line in text.splitlines() for part in line.split("|") if part.strip())


_TEXT = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
PAIRS, DANCES, GROUPS = _TEXT["pairs"], tuple(_TEXT["dances"]), tuple(_TEXT["groups"])
CALLED = {name: tuple(names) for name, names in _TEXT["called"].items()}
WORDS = {slot: _words(text) for slot, text in _TEXT["words"].items()}  # the words of each slot
HELD_OUT_WORDS = {slot: _words(text) for slot, text in _TEXT["held_out_words"].items()}
TEMPLATES = {detail: _sentences(text) for detail, text in _TEXT["templates"].items()}  # by how much they claim
HELD_OUT = {detail: _sentences(text) for detail, text in _TEXT["held_out_templates"].items()}
