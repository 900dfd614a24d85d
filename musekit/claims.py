"""Claims: what a caption says of a clip, as {"instrument": "cello", "mode": "minor", "bpm": 96, ...}.

One caption is true of many clips, and the claims say of which. Records of clips hold the same fields.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

from musekit.prompts import FAMILIES

BPM_TOLERANCE = 0.04  # a tempo within 4 % of the claimed one is that tempo


@functools.cache
def members(word: str) -> frozenset[str]:
    """The instruments or styles that a word stands for: those of a family, or the one of that name."""
    return frozenset(FAMILIES.get(word, (word,)))


def _sounding(words: list[str], clip: dict, absent: bool = False) -> bool:
    sounding = clip.get("instruments")
    return bool(sounding) and all([members(word).isdisjoint(sounding) == absent for word in words])


# How claims are compared that do not equal the field of their name.
COMPARE: dict[str, Callable[[Any, dict], bool]] = {
    "instrument": lambda name, clip: clip.get("instrumentation") == name,
    "instruments": _sounding,
    "without": functools.partial(_sounding, absent=True),
    "lead": lambda word, clip: bool(clip.get("instruments")) and clip["instruments"][0] in members(word),
    "style": lambda word, clip: clip.get("style") in members(word),
    "bpm": lambda bpm, clip: clip.get("bpm") is not None and abs(clip["bpm"] - bpm) <= BPM_TOLERANCE * bpm,
    # not to be heard any more when a band plays the tune in its own style
    "era": lambda era, clip: clip.get("era") == era and not clip.get("style"),
    "form": lambda form, clip: clip.get("form") == form and not clip.get("style"),
    "composer": lambda name, clip: clip.get("composer") == name and not clip.get("style"),
}


def matches(claims: dict, record: dict) -> bool:
    """Whether every claim is true of the clip. An attribute that is unknown (None) satisfies no claim.

    `instrument` is compared with the record's `instrumentation`. Each word of `instruments` must name a sounding
    instrument, no word of `without` may, and `lead` the first one. `bpm` may differ by 4 %. Every other claim equals
    the field of its name.
    """
    for name, wanted in claims.items():
        compare = COMPARE.get(name)
        if wanted is None or not (compare(wanted, record) if compare else record.get(name) == wanted):
            return False
    return True


def attribute_of(record: dict, name: str) -> str | None:
    """An attribute in a clip's record or a caption's claims: "scale" is tonic and mode, "tempo" the number of 8 % steps
    from 50 BPM, if they are known."""
    if name == "tempo":
        return str(round(math.log(record["bpm"] / 50) / math.log(1.08))) if record.get("bpm") else None
    return f"{record.get('key')} {record.get('mode')}" if name == "scale" else record.get(name)
