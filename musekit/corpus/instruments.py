"""Instruments and instrumentations: General MIDI programs, ranges, and who plays which part."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Instrument:
    """General MIDI program (0-based) and the range in which it is written, in MIDI numbers."""

    program: int
    low: int
    high: int


INSTRUMENTS = {
    "piano": Instrument(0, 28, 100), "harpsichord": Instrument(6, 29, 89), "organ": Instrument(19, 33, 93),
    "guitar": Instrument(24, 40, 84), "harp": Instrument(46, 28, 98), "vibraphone": Instrument(11, 48, 91),
    "violin": Instrument(40, 55, 98), "viola": Instrument(41, 48, 86), "cello": Instrument(42, 36, 79),
    "flute": Instrument(73, 60, 96), "clarinet": Instrument(71, 50, 91), "trumpet": Instrument(56, 54, 86),
    "choir": Instrument(52, 40, 81), "oboe": Instrument(68, 58, 91), "bassoon": Instrument(70, 34, 74),
    "horn": Instrument(60, 41, 77), "trombone": Instrument(57, 36, 72), "tuba": Instrument(58, 28, 60),
    "saxophone": Instrument(65, 49, 84), "accordion": Instrument(21, 41, 90), "music box": Instrument(10, 60, 103),
    "banjo": Instrument(105, 48, 84), "strings": Instrument(48, 33, 94),
}  # fmt: skip
#: Instrumentations of one instrument for all parts: the classes that the evaluation judges.
SINGLE = (
    *("piano", "harpsichord", "organ", "guitar", "harp", "vibraphone"),
    *("violin", "cello", "flute", "clarinet", "trumpet", "choir"),
)
#: Players from the highest part to the lowest; the last one takes all parts below.
MIXED = {
    "string quartet": ("violin", "violin", "viola", "cello"),
    "flute and harp": ("flute", "harp"),
    "violin and piano": ("violin", "piano"),
    "oboe and harpsichord": ("oboe", "harpsichord"),
    "brass quartet": ("trumpet", "trumpet", "horn", "trombone"),
    "clarinet and cello": ("clarinet", "cello"),
    "woodwind quartet": ("flute", "oboe", "clarinet", "bassoon"),
    "saxophone": ("saxophone",),
    "accordion": ("accordion",),
    "music box": ("music box",),
    "string orchestra": ("strings",),
    "flute and guitar": ("flute", "guitar"),
    "trumpet and organ": ("trumpet", "organ"),
    "banjo": ("banjo",),
}
INSTRUMENTATIONS = {**{name: (name,) for name in SINGLE}, **MIXED}
#: Instrumentations that need at least two parts.
DUETS = tuple(name for name, players in MIXED.items() if len(players) > 1)


def players_of(instrumentation: str, parts: int) -> list[str]:
    """The instrument of each part, parts ordered from high to low."""
    players = INSTRUMENTATIONS[instrumentation]
    if parts >= len(players):
        return [players[min(i, len(players) - 1)] for i in range(parts)]
    return [*players[: parts - 1], players[-1]]  # few parts: keep the top and the bass player
