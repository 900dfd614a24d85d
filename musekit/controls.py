"""`Controls`: what a user asks of a piece beside its prompt; read from keys, chord lines and MIDI files.

Nothing here needs numpy or torch, so that the command line's help does not wait for them.
"""

import io
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

from musekit.config import TONICS, MuseError
from musekit.prompts import tonic_of

CHORD_SIGNS = {"": "maj", "maj": "maj", "M": "maj", "maj7": "maj", "M7": "maj", "7": "7", "m": "min", "min": "min"}
CHORD_SIGNS |= {"-": "min", "m7": "min", "min7": "min", "dim": "dim", "o": "dim", "dim7": "dim", "m7b5": "dim"}
LONGEST = 600.0  # s: of a piece, and of a melody that is read
MAX_NOTES, MAX_CHORDS = 4096, 1024


@dataclass(frozen=True)
class Controls:
    """What is asked of a piece beside its prompt; None: not asked. Raises MuseError for what cannot be read.

    key may name the mode as well ("D minor", "Am"). melody may be the path of a MIDI file: its tempo becomes bpm where
    there is none, else it is played at bpm. Chords and melody begin with the piece and again when they are over.
    """

    bpm: float | None = None  # of the beat that one would tap, 30 to 300
    metre: int | None = None  # beats per bar, 1 to 12
    key: str | None = None  # the tonic
    mode: str | None = None  # major or minor
    chords: str | None = None  # one a bar; or bars of several chords between |
    melody: tuple[tuple[float, float, int], ...] | None = None  # onset and duration in seconds, MIDI pitch
    ends: bool | None = None  # False: the piece goes on beyond what is heard. None: it ends

    def __post_init__(self):
        if self.bpm is not None and not 30 <= self.bpm <= 300:
            raise MuseError(f"bpm = {self.bpm:g} is no tempo that is known here; choose 30 to 300 beats per minute")
        if self.metre is not None and self.metre not in range(1, 13):
            raise MuseError(f"metre = {self.metre} must be from 1 to 12 beats per bar")
        if self.mode is not None and (self.key is None or self.mode not in ("major", "minor")):
            raise MuseError(f"mode = {self.mode!r:.40} must be major or minor, and needs a key such as D")
        read: dict = {}
        if self.key is not None:
            read["key"], read["mode"] = read_key(self.key, self.mode)
        if self.chords is not None:
            read["chords"] = " ".join(self.chords.replace("|", " | ").split())
            read_chords(read["chords"])
        if isinstance(self.melody, str | Path):
            line, tempo = read_melody(Path(self.melody))
            if self.bpm is None and 30 <= tempo <= 300:
                read["bpm"] = tempo
            stretch = tempo / (self.bpm or tempo)
            read["melody"] = tuple((round(a * stretch, 3), round(b * stretch, 3), pitch) for a, b, pitch in line)
        elif self.melody is not None:
            notes = read["melody"] = tuple((float(a), float(b), int(pitch)) for a, b, pitch in self.melody)
            sane = (0 <= a <= LONGEST and 0 < b <= LONGEST and 0 <= pitch <= 127 for a, b, pitch in notes)
            if not 0 < len(notes) <= MAX_NOTES or not all(sane):
                raise MuseError(f"the melody must have 1 to {MAX_NOTES} notes (onset, length, pitch) in {LONGEST:g} s")
        for name, value in read.items():
            object.__setattr__(self, name, value)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked that the network is given (`ends` is part of the timing)."""
        return replace(self, ends=None) == Controls()

    def record(self, seconds: float) -> dict:
        """The record of a piece of that length, with the fields that `conditions.compact` reads."""
        bpm, metre = self.bpm or 120.0, self.metre or 4
        bar = 60 / bpm * metre
        values = {"key": self.key, "mode": self.mode, "bpm": self.bpm}
        if self.bpm is not None and self.metre is not None:
            values |= {"beats_per_bar": metre, "first_beat": 0.0}
        if self.chords is not None:
            bars, number = read_chords(self.chords), math.ceil(seconds / bar)
            values["chords"] = [
                ((k + i / len(bars[k % len(bars)])) * bar, *chord)
                for k in range(number)
                for i, chord in enumerate(bars[k % len(bars)])
            ]
        if self.melody is not None:
            period = math.ceil(max(a + b for a, b, _ in self.melody) / bar - 0.01) * bar
            number = min(math.ceil(seconds / period), 4 * MAX_NOTES // len(self.melody))
            values["melody"] = [(a + k * period, b, pitch) for k in range(number) for a, b, pitch in self.melody]
        return values


def agreed(asked: dict, said: dict) -> Controls | None:
    """Controls of the fields that are asked for and of what the prompt says (`prompts.read_prompt`), or None.

    Raises MuseError where they disagree.
    """
    if "key" in asked:
        asked = asked | dict(zip(("key", "mode"), read_key(asked["key"]), strict=True))
    said = {name: said[name] for name in ("bpm", "metre", "key", "mode") if name in said}
    in_words = [d | dict.fromkeys(("key", "mode"), f"{d.get('key')} {d.get('mode')}") for d in (said, asked)]
    if "metre" in said:  # three eighths are one beat, as in 6/8
        beats, unit = map(int, said["metre"].split("/"))
        said["metre"] = beats // 3 if unit == 8 and beats > 3 and beats % 3 == 0 else beats
    for name in said.keys() & asked.keys():
        if said[name] != asked[name]:
            prompt, option = (words[name] for words in in_words)
            what = name.replace("mode", "key")
            raise MuseError(f"the prompt says {what} = {prompt}, and the option {option}: leave out one")
    return Controls(**said | asked) if said or asked else None


def read_key(text: str, mode: str | None = None) -> tuple[str, str]:
    """(tonic, mode) of "D minor", "Dm", "F#", "B flat major". Raises MuseError."""
    accidental = r"#|♯|b|♭|[ -]?sharp|[ -]?flat|"
    found = re.fullmatch(rf"([A-Ga-g])({accidental})\s*(m|min|minor|maj|major)?", text.strip())
    said = found and {"m": "minor", "min": "minor", "maj": "major"}.get(found[3], found[3])
    if not found or (mode and said and mode != said):
        raise MuseError(f"key = {text!r:.40} cannot be read; give a tonic and a mode, such as D minor or F# major")
    return tonic_of(found[1], found[2]), mode or said or "major"


def read_chords(text: str) -> list[list[tuple[int, str]]]:
    """[(root, quality), ...] of each bar. Raises MuseError that names the token and what is allowed."""
    text = text.replace(",", " ").replace("♭", "b").replace("♯", "#")
    bars = [bar.split() for bar in text.split("|")] if "|" in text else [[token] for token in text.split()]
    bars, chords = [bar for bar in bars if bar], {}
    if not 0 < sum(map(len, bars)) <= MAX_CHORDS:
        raise MuseError(f"the chord line must have 1 to {MAX_CHORDS} chords; for example Am F C G")
    for token in (token for bar in bars for token in bar):
        found = re.fullmatch(r"([A-G])([#b]?)(.*)", token)
        if token in ("N", "N.C."):
            chords[token] = (0, "none")
        elif found and found[3] in CHORD_SIGNS:
            chords[token] = (TONICS.index(tonic_of(found[1], found[2])), CHORD_SIGNS[found[3]])
        else:
            known = "A to G, then # or b, then nothing, m, 7, m7, maj7, dim or m7b5, and N for none"
            raise MuseError(f"the chord {token!r:.24} cannot be read: give {known}; one per bar, or bars between |")
    return [[chords[token] for token in bar] for bar in bars]


def read_melody(source: Path | bytes, name: str = "") -> tuple[list[tuple[float, float, int]], float]:
    """The upper line of a MIDI file or its bytes, its first note at 0, and its first tempo in BPM. Raises MuseError."""
    import pretty_midi

    path = name or source
    try:
        if (len(source) if isinstance(source, bytes) else source.stat().st_size) > 2**22:
            raise ValueError("it has more than 4 MiB")
        midi = pretty_midi.PrettyMIDI(io.BytesIO(source) if isinstance(source, bytes) else str(source))
        tempo = round(float(midi.get_tempo_changes()[1][0]), 3)
        found = sorted(
            (float(n.start), -int(n.pitch), float(n.end)) for i in midi.instruments if not i.is_drum for n in i.notes
        )
    except Exception as error:  # noqa: BLE001 - the reader raises whatever a damaged file leads it to
        raise MuseError(f"{path} cannot be read as a MIDI file: {str(error) or type(error).__name__:.100}") from error
    line: list[tuple[float, float, int]] = []
    for start, pitch, end in found:
        if line and start < line[-1][0] + line[-1][1] - 0.03:
            if -pitch < line[-1][2] or start < line[-1][0] + 0.03:
                continue  # a lower voice, or a lower note of a chord
            line[-1] = (line[-1][0], start - line[-1][0], line[-1][2])
        line.append((start, max(0.02, end - start), -pitch))
    line = [(start - line[0][0], length, pitch) for start, length, pitch in line]
    if not line or len(line) > MAX_NOTES or line[-1][0] + line[-1][1] > LONGEST:
        raise MuseError(f"{path} must have 1 to {MAX_NOTES} notes that are no drums, within {LONGEST:g} s")
    return line, tempo
