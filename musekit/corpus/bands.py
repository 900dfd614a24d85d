"""Bands: what the players beside the lead play, from the chords of a clip and the patterns of `plan.toml`."""

from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np

from musekit.corpus.arrange import TABLES, fold, swung, top_line
from musekit.corpus.harmony import TONES

STYLES: dict[str, dict] = TABLES["styles"]
KIT: dict[str, int] = TABLES["kit"]
SECTION = 8  # bars after which the patterns alternate
STEPS = {"four": 4, "three": 4, "six": 3}  # per beat


@dataclass(frozen=True)
class Clock:
    """From quarters to seconds: bars of `bar` quarters from `first` on, each of beats of `beat` quarters.

    metre: the kind of pattern; bars: how many; swing: where the second half of a beat begins (0: straight).
    """

    bpm: float
    beat: float
    bar: float
    first: float
    bars: int
    metre: str
    swing: float = 0.0

    @property
    def end(self) -> float:
        """The end of the last bar in quarters."""
        return self.first + self.bars * self.bar

    def __call__(self, quarters: np.ndarray | float) -> np.ndarray | float:
        beats = (np.asarray(quarters, float) - self.first) / self.beat
        return (swung(beats, self.swing) + self.first / self.beat) * 60 / self.bpm

    def text(self, patterns: list[str]) -> str:
        """The patterns laid out over all bars, one a section."""
        beats = round(self.bar / self.beat)
        period = STEPS[self.metre] * (beats if beats == 3 else 4)
        steps = self.bars * beats * STEPS[self.metre]
        sections = (p[:period] * (SECTION * beats * STEPS[self.metre] // period) for p in cycle(patterns))
        return "".join(islice(sections, self.bars // SECTION + 1))[:steps]

    def at(self, step: np.ndarray | int) -> np.ndarray | float:
        """The time of a step in quarters."""
        return self.first + step * self.beat / STEPS[self.metre]


@dataclass(frozen=True)
class Harmony:
    """chords: (root, quality) by unit between `edges` in quarters; stop: when the final chord is struck, or None."""

    chords: list[tuple[int, str]]
    edges: np.ndarray
    stop: float | None = None

    def unit(self, quarters: np.ndarray | float) -> np.ndarray:
        """The index of the unit at this time."""
        return np.clip(np.searchsorted(self.edges, np.asarray(quarters) + 1e-4, "right") - 1, 0, len(self.chords) - 1)


def strikes(text: str, chord: list[tuple]) -> list[tuple[int, int, str]]:
    """(first step, step after the last, letter) of a pattern; what is held over a change of chord is struck again."""
    found: list[tuple[int, int, str]] = []
    for step, letter in enumerate(text):
        held = letter == "-" and found and found[-1][1] == step
        if held and chord[step] == chord[step - 1]:
            found[-1] = (found[-1][0], step + 1, found[-1][2])
        elif held:
            found.append((step, step + 1, "r" if found[-1][2] in "rtfow" else found[-1][2]))
        elif letter not in ".-":
            found.append((step, step + 1, letter))
    return found


def tones_of(chord: tuple[int, str], at: int, sevenths: bool = False) -> list[int]:
    """The chord's tones in the octave above `at`, from low to high."""
    root, quality = chord
    more = {"maj": (11,), "min": (10,)}.get(quality, ()) if sevenths else ()
    return sorted(at + (root + step - at) % 12 for step in (*TONES[quality], *more))


def pitches(play: str, letter: str, at: int, chord: tuple, following: tuple, sevenths: bool) -> list[int]:
    """What one strike sounds. play: "chord", "power" (root and fifth), "arp" or "bass"."""
    root = at + (chord[0] - at) % 12
    if play == "chord":
        return tones_of(chord, at, sevenths)
    if play == "power":
        return [root, root + (6 if chord[1] == "dim" else 7)]
    if play == "arp":
        tones, k = tones_of(chord, at), "abcdefgh".index(letter)
        return [tones[k % len(tones)] + 12 * (k // len(tones))]
    steps = {"t": TONES[chord[1]][1], "f": TONES[chord[1]][2], "w": TONES[chord[1]][2], "o": 12}
    if letter == "w" and following != chord:
        goal = at + (following[0] - at) % 12
        return [goal - 1 if root < goal else goal + 1]
    return [root + steps.get(letter, 0)]


def play(role: dict, clock: Clock, harmony: Harmony, sevenths: bool = False) -> np.ndarray:
    """Rows [onset, duration, pitch, accent] in quarters of one role of `plan.toml`."""
    text, how, at = clock.text(role[clock.metre]), role["play"], role["at"]
    units = harmony.unit(clock.at(np.arange(len(text))))
    chords = [harmony.chords[u] for u in units]
    rows: list[list[float]] = []
    stop = clock.end if harmony.stop is None else harmony.stop
    for first, last, letter in strikes(text, chords):
        onset = clock.at(first)
        if onset < stop - 1e-3 and chords[first][1] != "none":
            after = harmony.chords[min(int(units[first]) + 1, len(harmony.chords) - 1)]
            accent = 4 * (int(letter) - 6) if letter.isdigit() else 0
            for pitch in pitches(how, letter, at, chords[first], after, sevenths):
                rows.append([onset, min(clock.at(last), stop) - onset, pitch, accent])
    if harmony.stop is not None:
        chord = harmony.chords[int(harmony.unit(stop))]
        if chord[1] != "none":
            final = pitches("chord" if how == "arp" else how, "r", at, chord, chord, False)
            rows += [[stop, clock.end - stop, p, 2] for p in final]
    return np.array(rows) if rows else np.zeros((0, 4))


def drums(names: list[str], clock: Clock, stop: float | None) -> np.ndarray:
    """Rows [onset, duration, key of the kit, accent] of these patterns, with a fill before each new section."""
    tables = TABLES["drums"]
    rows, per_bar = [], round(clock.bar / clock.beat) * STEPS[clock.metre]
    for name, key in KIT.items():
        text = clock.text([tables[n][clock.metre].get(name, "." * 16) for n in names])
        fill = clock.text([tables["fill"][clock.metre].get(name, "." * 16)])
        starts = range(SECTION * per_bar, len(text) + 1, SECTION * per_bar)
        for start in starts:
            text = text[: start - per_bar] + fill[start - per_bar : start] + text[start:]
        strokes = [(s, 4 * (int(letter) - 6)) for s, letter in enumerate(text) if letter.isdigit()]
        strokes += [(s, 4) for s in starts if name == "crash" and s < len(text)]
        rows += [[clock.at(s), clock.beat / 4, key, accent] for s, accent in strokes]
    if stop is not None:
        rows = [row for row in rows if row[0] < stop - 1e-3]
        rows += [[stop, clock.beat, KIT[name], 4] for name in ("kick", "crash")]
    return np.array(sorted(rows))


def second(lead: np.ndarray, harmony: Harmony) -> np.ndarray:
    """A second voice: under each note of the lead the next chord tone that is at least a minor third lower."""
    rows = lead.copy()
    for row, unit in zip(rows, harmony.unit(rows[:, 0])):
        root, quality = harmony.chords[unit]
        members = {(root + step) % 12 for step in TONES.get(quality, (0, 5))}
        row[2] = next(p for p in range(int(row[2]) - 3, int(row[2]) - 16, -1) if p % 12 in members)
    return rows


def metres_of(style: dict) -> set[str]:
    """The kinds of bar for which every role of a style has a pattern."""
    rows = [role for role in style["roles"] if role["play"] != "second"]
    rows += [{m for n in style["drums"] for m in TABLES["drums"][n]}] if style["drums"] else []
    return {metre for metre in STEPS if all(metre in row for row in rows)}


def band(
    style: dict, lead: np.ndarray, leader: str, clock: Clock, harmony: Harmony, rng: np.random.Generator
) -> list[tuple[str, np.ndarray, int, int]]:
    """(instrument, rows [onset, duration, pitch, accent] in quarters, level, pan) of each player, the lead first."""
    players = [(leader, np.c_[top_line(lead), np.zeros(len(top_line(lead)))], 8, int(rng.integers(54, 75)))]
    late = int(rng.integers(0, 3 * len(style["roles"])))  # this role enters after four bars, if there is such a role
    for index, role in enumerate(style["roles"]):
        names = [n for n in role["by"] if n != leader] or role["by"]
        name = leader if names == ["lead"] else str(rng.choice(names))
        rows = (
            second(players[0][1], harmony)
            if role["play"] == "second"
            else play(role, clock, harmony, style.get("sevenths", False))
        )
        if index == late and clock.bars >= 12 and role["play"] != "bass":
            rows = rows[rows[:, 0] >= clock.at(0) + 4 * clock.bar - 1e-3]
        side = 64 if role["play"] == "bass" else 64 + (-1) ** index * int(rng.integers(18, 40))
        if len(rows):
            players.append((name, fold(rows, name), role.get("level", 0), side))
    kits = [name for name in style["drums"] if clock.metre in TABLES["drums"][name]]
    if kits:
        players.append(("drums", drums([str(k) for k in rng.permutation(kits)], clock, harmony.stop), 0, 64))
    return players
