"""Instruments and instrumentations (`instruments.toml`): General MIDI programs, ranges, and who plays which part."""

import tomllib
from pathlib import Path
from typing import NamedTuple


class Instrument(NamedTuple):
    """General MIDI program (0-based) and the range in which it is written, in MIDI numbers."""

    program: int
    low: int
    high: int


_TABLES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
INSTRUMENTS = {name: Instrument(*row) for name, row in _TABLES["instruments"].items()}
SINGLE = tuple(_TABLES["instrumentations"]["single"])  # one instrument for all parts
MIXED = {name: tuple(players) for name, players in _TABLES["instrumentations"]["mixed"].items()}
CHORDERS = frozenset(_TABLES["instrumentations"]["chords"])  # those that may play chords under a melody
INSTRUMENTATIONS = {**{name: (name,) for name in SINGLE}, **MIXED}
DUETS = tuple(name for name, players in MIXED.items() if len(players) > 1)  # those that need at least two parts


def players_of(instrumentation: str, parts: int) -> list[str]:
    """The instrument of each part, parts ordered from high to low."""
    players = INSTRUMENTATIONS[instrumentation]
    if parts >= len(players):
        return [players[min(i, len(players) - 1)] for i in range(parts)]
    return [*players[: parts - 1], players[-1]]  # few parts: keep the top and the bass player
