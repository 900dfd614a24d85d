"""SoundFonts (`fonts.toml`): where they are, and small ones that hold only the presets that a clip needs.

midirenderer reads SF2 alone and parses all of it at each call: 148 MB of FluidR3_GM take 0.3 s. `subset` writes an SF2
with a few presets (specification: SoundFont 2.04, section 7), which sounds the same to the last bit. Samples of an SF3
(Vorbis, flag 0x10 of the sample's type) are decoded on the way.

    python -m musekit.corpus.fonts FOLDER    # compressed fonts with all presets of the corpus, for a machine without
                                             # packages: set MUSEKIT_FONTS to the folder there
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import sys
import tomllib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from musekit.config import MuseError, home, suggest
from musekit.files import regular, sha256, write_atomic

FONTS = tomllib.loads(Path(__file__).with_name("fonts.toml").read_text(encoding="utf-8"))
QUALITY = 0.6  # of Vorbis, 0 to 1
COMPRESSED, ROM = 0x10, 0x8000  # flags of a sample's type
GUARD = 46  # points after each sample, into which a synthesiser may read
MOST = 1 << 24  # points of one sample: 6 minutes
INSTRUMENT, SAMPLE = 41, 53  # generators that point to an instrument and to a sample
KEYS, VELOCITIES, ATTENUATION = 43, 44, 48
NAME = ("name", "S20")
MODULATOR = [("from", "<u2"), ("to", "<u2"), ("amount", "<i2"), ("by", "<u2"), ("transform", "<u2")]
RECORDS = {
    name: np.dtype(fields)
    for name, fields in {
        "phdr": [NAME, ("program", "<u2"), ("bank", "<u2"), ("bag", "<u2"), ("unused", "<u4", 3)],
        "pbag": [("gen", "<u2"), ("mod", "<u2")], "pmod": MODULATOR, "pgen": [("what", "<u2"), ("value", "<u2")],
        "inst": [NAME, ("bag", "<u2")],
        "ibag": [("gen", "<u2"), ("mod", "<u2")], "imod": MODULATOR, "igen": [("what", "<u2"), ("value", "<u2")],
        "shdr": [NAME, *((f, "<u4") for f in ("start", "end", "loop", "loop_end", "rate")), ("key", "u1"),
                 ("cents", "i1"), ("link", "<u2"), ("type", "<u2")],
    }.items()
}  # fmt: skip


def chunks(data: np.ndarray) -> dict[str, np.ndarray]:
    """{name: bytes} of the chunks of a RIFF file, those inside its lists included. Raises ValueError."""
    if data[:4].tobytes() != b"RIFF" or data[8:12].tobytes() != b"sfbk":
        raise ValueError("it does not begin like a SoundFont")
    found, at = {}, 12
    while at + 8 <= len(data):
        name, size = struct.unpack("<4sI", data[at : at + 8])
        if at + 8 + size > len(data):
            raise ValueError(f"its part {name.decode('latin1')!r} is cut off")
        if name == b"LIST":
            at += 12
            continue
        found[name.decode("latin1")] = data[at + 8 : at + 8 + size]
        at += 8 + size
        if size % 2 and data[at : at + 4].tobytes() != b"LIST":  # some SF3 files lack the byte that makes it even
            at += 1
    return found


def source(controller: int, key: float, velocity: float) -> float | None:
    """Value of a modulator's source (section 8.2) at a key and a velocity; None for another controller than these."""
    if controller & 0xFF not in (2, 3):
        return 1.0 if controller == 0 else None
    x = (velocity if controller & 0xFF == 2 else key) / 128
    x = 1 - x if controller & 0x100 else x
    curve = controller >> 10
    if curve == 3:
        x = float(x >= 0.5)
    elif curve:  # concave and convex: the spec's 96 dB
        x = -40 / 96 * np.log10(max(1 - x, 1e-3)) if curve == 1 else 1 + 40 / 96 * np.log10(max(x, 1e-3))
    x = float(np.clip(x, 0, 1))
    return 2 * x - 1 if controller & 0x200 else x


def modulated(bags: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """A preset's zones with modulators by key and velocity written as generators, octave by octave and 16 by 16.

    rustysynth has no modulators but for velocity to attenuation; MuseScore's piano is muffled and silent without them.
    """
    common, zones = {}, []
    merged: dict[tuple, int] = {}
    for place, (rows, modulators) in enumerate(bags):
        if not len(modulators) and not merged:
            zones.append((rows, modulators))
            continue
        values = common | {int(what): int(value) for what, value in rows}
        own = merged | {(int(m["from"]), int(m["to"]), int(m["by"])): int(m["amount"]) for m in modulators}
        if INSTRUMENT not in values:
            common, merged = (values, own) if place == 0 else (common, merged)
            continue
        own = {k: amount for k, amount in own.items() if amount and not (k[0] & 0xFF == 2 and k[1] == ATTENUATION)}
        used = {controller & 0xFF for k in own for controller in (k[0], k[2])}
        spans = []
        for what, number, step in ((KEYS, 3, 12), (VELOCITIES, 2, 16)):
            low, high = values.get(what, 0x7F00) & 0xFF, values.get(what, 0x7F00) >> 8
            cuts = [low, *(c for c in range(0, 128, step) if low < c <= high and number in used), high + 1]
            spans.append([(a, b - 1) for a, b in zip(cuts[:-1], cuts[1:])])
        for keys in spans[0]:
            for velocities in spans[1]:
                new = {KEYS: keys[0] | keys[1] << 8, VELOCITIES: velocities[0] | velocities[1] << 8}
                new |= {k: v - 0x10000 * (v > 0x7FFF) for k, v in values.items() if k not in new and k != INSTRUMENT}
                middle = sum(keys) / 2, sum(velocities) / 2
                for (one, to, by), amount in own.items():
                    factors = source(one, *middle), source(by, *middle)
                    if None not in factors:
                        new[to] = new.get(to, 0) + round(amount * factors[0] * factors[1])
                new = {k: int(np.clip(v, -0x8000, 0x7FFF)) & 0xFFFF for k, v in new.items()} | {INSTRUMENT: values[41]}
                zones.append((np.array([*new.items()], RECORDS["pgen"]), modulators[:0]))
    return zones


def zones_of(tables: dict, kind: str, header: np.ndarray, after: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(generators, modulators) of each zone of a preset (kind "p") or an instrument ("i"). Raises ValueError."""
    bags, zones = tables[f"{kind}bag"][header["bag"] : int(after["bag"]) + 1], []
    for bag, until in zip(bags[:-1], bags[1:]):
        zone = tuple(tables[f"{kind}{what}"][bag[what] : until[what]].copy() for what in ("gen", "mod"))
        if any(len(rows) != int(until[what]) - int(bag[what]) for rows, what in zip(zone, ("gen", "mod"))):
            raise ValueError("a zone lies outside its tables")
        zones.append(zone)
    return modulated(zones) if kind == "p" else zones


def points(smpl: np.ndarray, row: np.ndarray) -> np.ndarray:
    """A sample's points, int16, and the guard points after it; `row` becomes relative to them. Raises ValueError."""
    start, end, name = int(row["start"]), int(row["end"]), row["name"].decode("latin1")
    if row["type"] & ROM or not start <= end <= len(smpl) // (1 if row["type"] & COMPRESSED else 2):
        raise ValueError(f"the sample {name!r} is not in the file")
    if row["type"] & COMPRESSED:
        with soundfile.SoundFile(io.BytesIO(smpl[start:end].tobytes())) as file:
            if file.frames > MOST or file.channels != 1:
                raise ValueError(f"the sample {name!r} is not a mono sound of a few minutes")
            wave = np.clip(np.round(file.read(dtype="float32") * 32768), -32768, 32767).astype("<i2")
        row["type"] -= COMPRESSED
        row["start"], row["end"] = 0, len(wave)
    else:
        wave = smpl[2 * start : len(smpl) // 2 * 2][: 2 * (end - start + GUARD)].view("<i2")
        for field in ("loop", "loop_end"):
            row[field] = max(0, int(row[field]) - start)
        row["start"], row["end"] = 0, end - start
    return np.pad(wave, (0, int(row["end"]) + GUARD - len(wave)))


def encoded(smpl: np.ndarray, row: np.ndarray, quality: float) -> np.ndarray:
    """A sample's Ogg Vorbis bytes; those of a compressed one stay as they are."""
    if row["type"] & COMPRESSED:
        return smpl[row["start"] : row["end"]]
    wave, buffer = points(smpl, row)[: int(row["end"])], io.BytesIO()
    with soundfile.SoundFile(buffer, "w", 44100, 1, "VORBIS", format="OGG", compression_level=1 - quality) as file:
        for at in range(0, len(wave), 4096):  # libsndfile overflows its stack on long blocks
            file.write(wave[at : at + 4096])
    row["type"] |= COMPRESSED
    return np.frombuffer(buffer.getvalue(), np.uint8)


def sounding(zone: tuple[np.ndarray, np.ndarray], notes: set[tuple[int, int]] | None) -> bool:
    """Whether one of the notes (key, velocity) lies in the ranges of a zone; None: any note."""
    limits = {int(row["what"]): (row["value"] & 0xFF, row["value"] >> 8) for row in zone[0][:2]}  # ranges come first
    keys, velocities = limits.get(KEYS, (0, 127)), limits.get(VELOCITIES, (0, 127))
    return notes is None or any(keys[0] <= k <= keys[1] and velocities[0] <= v <= velocities[1] for k, v in notes)


def subset(
    path: Path,
    presets: Iterable[tuple[int, int]],
    quality: float | None = None,
    notes: dict[tuple[int, int], set[tuple[int, int]]] | None = None,
) -> bytes:
    """An SF2 that holds only these (bank, program) of a SoundFont. Raises MuseError for a damaged or missing one.

    quality: 0 to 1, write an SF3 with Vorbis samples instead. notes: the (key, velocity) that each preset must play.
    """
    out: dict[str, list] = {name: [] for name in RECORDS}
    counts = dict.fromkeys(RECORDS, 0)
    instruments: dict[int, int] = {}  # old number: new number
    samples: dict[int, int] = {}
    heard: dict[int, set[tuple[int, int]]] = {}  # notes of each instrument
    waves, at = [], 0

    def add(name: str, rows: np.ndarray) -> None:
        out[name].append(rows)
        counts[name] += len(rows)

    def copy(kind: str, headers: np.ndarray, number: int, numbers: dict[int, int], played: set | None) -> None:
        header, start = headers[number : number + 1].copy(), {what: f"{kind}{what}" for what in ("bag", "gen", "mod")}
        header["bag"] = counts[start["bag"]]
        add("phdr" if kind == "p" else "inst", header)
        zones = zones_of(tables, kind, headers[number], headers[number + 1])
        for generators, modulators in [zone for zone in zones if sounding(zone, played)] or zones[:1]:
            links = np.flatnonzero(generators["what"] == (INSTRUMENT if kind == "p" else SAMPLE))
            for old in map(int, generators["value"][links]):
                if kind == "p" and played is not None:
                    heard.setdefault(old, set()).update(played)
                numbers.setdefault(old, len(numbers))
            generators["value"][links] = [numbers[int(old)] for old in generators["value"][links]]
            add(start["bag"], np.array([(counts[start["gen"]], counts[start["mod"]])], RECORDS[start["bag"]]))
            add(start["gen"], generators)
            add(start["mod"], modulators)

    try:
        found = chunks(np.memmap(regular(path), np.uint8, "r"))
        tables = {n: np.frombuffer(found[n], t, len(found[n]) // t.itemsize) for n, t in RECORDS.items()}
        heads = tables["phdr"][:-1]
        for bank, program in sorted({*presets}):
            place = np.flatnonzero((heads["bank"] == bank) & (heads["program"] == program))
            if not len(place):
                raise ValueError(f"it has no program {program} in bank {bank}")
            copy("p", tables["phdr"], place[0], instruments, notes and notes[bank, program])
        for number in instruments:
            copy("i", tables["inst"], number, samples, heard.get(number))
        for number in samples:
            row = tables["shdr"][:-1][number : number + 1].copy()
            row["link"] = samples.get(int(row["link"][0]), 0)
            if quality is not None:
                wave = encoded(found["smpl"], row[0], quality)
                row["start"], row["end"] = at, at + len(wave)
            else:
                wave = points(found["smpl"], row[0])
                for field in ("start", "end", "loop", "loop_end"):
                    row[field] += at
            at += len(wave)
            if at > 16 * MOST:
                raise ValueError("it is larger than 512 MB")
            add("shdr", row)
            waves.append(wave)
    except (OSError, ValueError, KeyError, IndexError, OverflowError, soundfile.SoundFileError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else getattr(error, "strerror", None) or error
        raise MuseError(f"{path} cannot be used as a SoundFont ({why!s:.120}); install it again") from error
    for kind in "pi":  # each table ends with a row that tells where the last one ends
        add("phdr" if kind == "p" else "inst", np.zeros(1, RECORDS["phdr" if kind == "p" else "inst"]))
        out["phdr" if kind == "p" else "inst"][-1]["bag"] = counts[f"{kind}bag"]
        add(f"{kind}bag", np.array([(counts[f"{kind}gen"], counts[f"{kind}mod"])], RECORDS[f"{kind}bag"]))
        for what in ("gen", "mod"):
            add(f"{kind}{what}", np.zeros(1, RECORDS[f"{kind}{what}"]))
    add("shdr", np.zeros(1, RECORDS["shdr"]))
    pdta = b"".join(chunk(name, np.concatenate(out[name]).tobytes()) for name in RECORDS)
    info = chunk("LIST", b"INFO" + chunk("ifil", struct.pack("<HH", 2, 1)) + chunk("INAM", b"subset\0\0"))
    sound = chunk("LIST", b"sdta" + chunk("smpl", b"".join(wave.tobytes() for wave in waves)))
    return chunk("RIFF", b"sfbk" + info + sound + chunk("LIST", b"pdta" + pdta))


def chunk(name: str, data: bytes) -> bytes:
    """A RIFF chunk of an even length."""
    return struct.pack("<4sI", name.encode(), len(data) + len(data) % 2) + data + bytes(len(data) % 2)


class Preset(NamedTuple):
    """A General MIDI preset (bank 128: drums), by measurement: level of its notes at velocity 80 in dBFS RMS, lowest
    and highest key that are whole, in tune and audible, and voices of one note at most."""

    bank: int
    program: int
    level: float
    low: int
    high: int
    voices: int


def preset(font: str, instrument: str) -> Preset:
    """The preset of an instrument. Raises MuseError for an unknown font or instrument."""
    if font not in FONTS:
        raise suggest(font, FONTS, "SoundFont")
    if instrument not in FONTS[font]["presets"]:
        raise suggest(instrument, FONTS[font]["presets"], f"instrument of {font}")
    return Preset(*FONTS[font]["presets"][instrument])


def located(font: str) -> Path:
    """A font's file: <font>.sf2 or .sf3 in the folder MUSEKIT_FONTS, else where its package has it. Raises MuseError."""
    import pretty_midi

    about = FONTS[font]
    for kind in ("sf2", "sf3") if os.environ.get("MUSEKIT_FONTS") else ():
        if (path := Path(os.environ["MUSEKIT_FONTS"]) / f"{font}.{kind}").exists():
            return path
    path = Path(pretty_midi.__file__).parent / about["file"]  # an absolute one stays as it is
    if not path.exists():
        raise MuseError(f"the SoundFont {path} is missing; install it: sudo apt-get install {about['package']}")
    return path


def wanted(font: str) -> set[tuple[int, int]]:
    """(bank, program) of all instruments of a font."""
    return {tuple(row[:2]) for row in FONTS[font]["presets"].values()}


@cache
def ready(font: str) -> Path:
    """A font as an SF2 without compression: its own file, or one below `home()` that is made once. Raises MuseError."""
    path = located(font)
    if path.suffix != ".sf3":
        return path
    key = hashlib.sha256(f"{sha256(path)} {sha256(Path(__file__))} {sorted(wanted(font))}".encode()).hexdigest()
    plain = home() / "fonts" / f"{font}-{key[:16]}.sf2"
    if not plain.exists():
        write_atomic(plain, subset(path, wanted(font)))
    return plain


def main(folder: Path) -> None:
    """Write <font>.sf3 of each font with the corpus's presets, those that are not compressed as Vorbis."""
    for font in FONTS:
        path = located(font)
        data = subset(path, wanted(font), quality=QUALITY)
        write_atomic(folder / f"{font}.sf3", data)
        print(f"{folder / font}.sf3: {len(data) / 2**20:.1f} MiB of {path.stat().st_size / 2**20:.1f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
