"""Claims: what a caption says of a clip, as {"instrument": "cello", "mode": "minor", "bpm": 96, ...}.

One caption is true of many clips, and the claims say of which. Records of clips hold the same fields.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

BPM_TOLERANCE = 0.04  # a tempo within 4 % of the claimed one is that tempo
# Words for several instruments of the records; every other word names one instrument.
FAMILIES = {
    "bass": ("acoustic bass", "electric bass"),
    "guitar": ("guitar", "electric guitar", "distorted guitar", "jazz guitar"),
    "acoustic guitar": ("guitar",),
    "electric guitar": ("electric guitar", "distorted guitar", "jazz guitar"),
    "trumpet": ("trumpet", "muted trumpet"),
    "brass": ("trumpet", "muted trumpet", "horn", "trombone", "tuba"),
    "strings": ("strings", "pizzicato strings"),
    "synth": ("pad", "synth lead"),
    "vocals": ("choir",),
}


@functools.cache
def members(word: str) -> frozenset[str]:
    """The instruments that a word stands for: those of a family, or the one of that name."""
    return frozenset(FAMILIES.get(word, (word,)))


def matches(claims: dict, record: dict) -> bool:
    """Whether every claim is true of the clip. An attribute that is unknown (None) satisfies no claim.

    `instrument` is compared with the record's `instrumentation`. Each word of `instruments` must name a sounding
    instrument and no word of `without` may. `bpm` may differ by 4 %. Every other claim equals the field of its name.
    """
    for name, wanted in claims.items():
        if name == "instruments" or name == "without":
            sounding, allowed = record.get("instruments"), name == "without"
            if not sounding:
                return False
            for word in wanted:
                if members(word).isdisjoint(sounding) != allowed:
                    return False
        elif name == "bpm":
            bpm = record.get("bpm")
            if wanted is None or bpm is None or abs(bpm - wanted) > BPM_TOLERANCE * wanted:
                return False
        elif wanted is None or record.get("instrumentation" if name == "instrument" else name) != wanted:
            return False
    return True


def overlap(words: Iterable[str], others: Iterable[str]) -> bool:
    """Whether a word of one list names an instrument that a word of the other names too."""
    return any(members(a) & members(b) for a in words for b in others)


def attribute_of(record: dict, name: str) -> str | None:
    """An attribute in a clip's record or a caption's claims; "scale" is tonic and mode, if both are known."""
    return f"{record.get('key')} {record.get('mode')}" if name == "scale" else record.get(name)
