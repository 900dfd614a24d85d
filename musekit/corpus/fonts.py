"""SoundFonts (`fonts.toml`): where they are, and small ones that hold only what one call of the synthesiser needs.

midirenderer reads SF2 alone and parses all of it at each call: 148 MB of FluidR3_GM take 0.3 s. `subset` writes an SF2
with a few presets (SoundFont 2.04, section 7) that it plays the same to the last bit. Vorbis samples (SF3: flag 0x10 of
a sample's type) are decoded on the way, and modulators, which it would ignore, become generators.
"""

import hashlib
import io
import itertools
import os
import struct
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
COMPRESSED, ROM = 0x10, 0x8000  # flags of a sample's type
GUARD = 46  # points after each sample, into which a synthesiser may read
MOST = 1 << 24  # points of one sample: 6 minutes
INSTRUMENT, KEYS, VELOCITIES, ATTENUATION, SAMPLE = 41, 43, 44, 48, 53  # generators
HEADER, BAG = [("name", "S20"), ("bag", "<u2")], [("gen", "<u2"), ("mod", "<u2")]
GENERATOR = [("what", "<u2"), ("value", "<u2")]
MODULATOR = [("from", "<u2"), ("to", "<u2"), ("amount", "<i2"), ("by", "<u2"), ("transform", "<u2")]
POINTS = ("start", "end", "loop", "loop_end")
RECORDS = {
    "phdr": np.dtype([HEADER[0], ("program", "<u2"), ("bank", "<u2"), HEADER[1], ("unused", "<u4", 3)]),
    "pbag": np.dtype(BAG), "pmod": np.dtype(MODULATOR), "pgen": np.dtype(GENERATOR),
    "inst": np.dtype(HEADER),
    "ibag": np.dtype(BAG), "imod": np.dtype(MODULATOR), "igen": np.dtype(GENERATOR),
    "shdr": np.dtype([HEADER[0], *((field, "<u4") for field in (*POINTS, "rate")), ("key", "u1"), ("cents", "i1"),
                      ("link", "<u2"), ("type", "<u2")]),
}  # fmt: skip
Notes = set[tuple[int, int]]  # (key, velocity)


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


def fonts_of(players: Iterable[str]) -> list[str]:
    """The fonts that have all these instruments whole and in tune."""
    return [font for font, about in FONTS.items() if {*players} <= {*about["presets"]}]


def located(font: str) -> Path:
    """A font's file: <font>.sf2 or .sf3 in the folder MUSEKIT_FONTS, else its package's. Raises MuseError."""
    import pretty_midi

    folder, about = os.environ.get("MUSEKIT_FONTS"), FONTS[font]
    paths = [Path(folder) / f"{font}.{kind}" for kind in ("sf2", "sf3")] if folder else []
    paths.append(Path(pretty_midi.__file__).parent / about["file"])  # an absolute one stays as it is
    if not (found := [path for path in paths if path.exists()]):
        raise MuseError(f"the SoundFont {paths[-1]} is missing; install it: sudo apt-get install {about['package']}")
    return found[0]


def require_all() -> None:
    """Raise MuseError that names the packages of all fonts that are missing."""
    missing = []
    for font, about in FONTS.items():
        try:
            located(font)
        except MuseError:
            missing.append(about["package"])
    if missing:
        raise MuseError(f"SoundFonts are missing; install them: sudo apt-get install {' '.join(missing)}")


def stand_in(folder: Path) -> list[str]:
    """Let TimGM, which pretty_midi ships, stand in for fonts whose package is missing, its steel guitar for their
    mandolin, by files in `folder`, which becomes MUSEKIT_FONTS. Returns the missing fonts: they do not sound as named.
    """
    data, missing = bytearray(located("timgm").read_bytes()), []
    data[data.index(b"Steel Guitar") + 22] = 16  # the bank
    for font in FONTS:
        try:
            located(font)
        except MuseError:
            missing.append(font)
    for font in missing:
        write_atomic(folder / f"{font}.sf2", bytes(data))
    if missing:
        os.environ["MUSEKIT_FONTS"] = str(folder)
    return missing


@cache
def ready(font: str) -> Path:
    """A font as an SF2 without compression: its own file, or one below `home()` that is made once. Raises MuseError."""
    path = located(font)
    if path.suffix != ".sf3":
        return path
    presets = {tuple(row[:2]) for row in FONTS[font]["presets"].values()}
    made_from = f"{sha256(path)} {sha256(Path(__file__))} {sorted(presets)}"
    plain = home() / "fonts" / f"{font}-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}.sf2"
    if not plain.exists():
        write_atomic(plain, subset(path, presets))
    return plain


def chunks(data: np.ndarray) -> dict[str, np.ndarray]:
    """{name: bytes} of the chunks of a RIFF file, those inside its lists included. Raises ValueError."""
    if data[:4].tobytes() != b"RIFF" or data[8:12].tobytes() != b"sfbk":
        raise ValueError("it does not begin like a SoundFont")
    found, at = {}, 12
    while at + 8 <= len(data):
        name, size = struct.unpack("<4sI", data[at : at + 8])
        if at + 8 + size > len(data):
            raise ValueError(f"its part {name.decode('latin1')!r} is cut off")
        if name != b"LIST":
            found[name.decode("latin1")] = data[at + 8 : at + 8 + size]
        at += 12 if name == b"LIST" else 8 + size
        if name != b"LIST" and size % 2 and data[at : at + 4].tobytes() != b"LIST":  # some SF3 files lack the even byte
            at += 1
    return found


def source(controller: int, key: float, velocity: float) -> float | None:
    """Value of a modulator's source (section 8.2): 1 without one, None for another than key and velocity."""
    which, curve = controller & 0xFF, controller >> 10
    if which not in (2, 3) or curve > 1:
        return None if controller else 1.0
    x = (velocity if which == 2 else key) / 128
    x = 1 - x if controller & 0x100 else x
    x = min(1.0, -40 / 96 * np.log10(max(1 - x, 1e-3))) if curve else x  # concave, over 96 dB
    return 2 * x - 1 if controller & 0x200 else x


def modulated(zones: list[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    """Generators of a preset's zones (generators, modulators), with modulators by key and velocity among them: such a
    zone becomes zones of 16 keys by 16 velocities. MuseScore's piano is dull and silent without.
    """
    if not any(len(modulators) for _, modulators in zones):
        return [rows for rows, _ in zones]
    common, always, out = {}, {}, []
    for rows, modulators in zones:
        values = common | dict(rows.tolist())
        own = always | {(one, to, by): amount for one, to, amount, by, _ in modulators.tolist()}
        if INSTRUMENT not in values:  # the first zone holds for all others
            common, always = values, own
            continue
        bands = []
        for what in (KEYS, VELOCITIES):
            limits = values.pop(what, 0x7F00)
            low, high = limits & 0xFF, limits >> 8
            bands.append([(a, min(a | 15, high)) for a in (low, *range((low | 15) + 1, high + 1, 16))])
        last = values.pop(INSTRUMENT)
        for keys, velocities in itertools.product(*bands):
            new = {what: (value ^ 0x8000) - 0x8000 for what, value in values.items()}
            for (one, to, by), amount in own.items():
                factors = [source(controller, sum(keys) / 2, sum(velocities) / 2) for controller in (one, by)]
                if None not in factors and (one & 0xFF, to) != (2, ATTENUATION):
                    new[to] = new.get(to, 0) + round(amount * factors[0] * factors[1])
            ranges = [(KEYS, keys[0] | keys[1] << 8), (VELOCITIES, velocities[0] | velocities[1] << 8)]
            rest = [(what, max(-0x8000, min(value, 0x7FFF)) & 0xFFFF) for what, value in new.items()]
            out.append(np.array([*ranges, *rest, (INSTRUMENT, last)], GENERATOR))
    return out


def sounding(zone: np.ndarray, notes: Notes | None) -> bool:
    """Whether one of the notes lies in the ranges of a zone, which come first; None: any note."""
    limits = dict(zone[:2].tolist())
    k, v = limits.get(KEYS, 0x7F00), limits.get(VELOCITIES, 0x7F00)
    return notes is None or any(k & 255 <= key <= k >> 8 and v & 255 <= vel <= v >> 8 for key, vel in notes)


def points(smpl: np.ndarray, row: np.ndarray) -> np.ndarray:
    """A sample's points, int16, and the guard points after it; `row` becomes relative to them. Raises ValueError."""
    start, end = int(row["start"]), int(row["end"])
    if row["type"] & COMPRESSED:
        with soundfile.SoundFile(io.BytesIO(smpl[start:end].tobytes())) as file:
            if file.frames > MOST or file.channels != 1:
                raise ValueError(f"the sample {row['name']!r} is not a mono sound of a few minutes")
            wave = np.clip(np.round(file.read(dtype="float32") * 32768), -32768, 32767).astype("<i2")
        row["type"] -= COMPRESSED
        row["start"], row["end"] = 0, len(wave)
    else:
        wave = smpl[2 * start : len(smpl) // 2 * 2][: 2 * (end - start + GUARD)].view("<i2")
        for field in reversed(POINTS):
            row[field] = max(0, int(row[field]) - start)
    return np.pad(wave, (0, int(row["end"]) + GUARD - len(wave)))


def subset(path: Path, presets: Iterable[tuple[int, int]], notes: dict[tuple[int, int], Notes] | None = None) -> bytes:
    """An SF2 that holds only these (bank, program) of a SoundFont. Raises MuseError for a damaged or missing one.

    notes: all that each preset will play.
    """
    out: dict[str, list[np.ndarray]] = {name: [] for name in RECORDS}
    counts = dict.fromkeys(RECORDS, 0)
    instruments: dict[int, Notes] = {}  # old number: its notes; the new number is the place
    samples: dict[int, Notes] = {}
    waves, at = [], 0

    def add(name: str, rows: np.ndarray) -> None:
        out[name].append(rows)
        counts[name] += len(rows)

    def copy(kind: str, headers: np.ndarray, number: int, what: int, numbers: dict, played: Notes | None) -> None:
        bag, gen, mod = f"{kind}bag", f"{kind}gen", f"{kind}mod"
        header = headers[number : number + 1].copy()
        bags = tables[bag][header["bag"][0] : int(headers[number + 1]["bag"]) + 1]
        zones = [
            (tables[gen][one["gen"] : after["gen"]], tables[mod][one["mod"] : after["mod"]])
            for one, after in zip(bags[:-1], bags[1:])
        ]
        header["bag"] = counts[bag]
        add("phdr" if kind == "p" else "inst", header)
        zones = modulated(zones) if kind == "p" else [rows for rows, _ in zones]
        for rows in [zone for zone in zones if sounding(zone, played)] or zones[:1]:
            rows = rows.copy()
            linking = rows["what"] == what
            for old in rows["value"][linking].tolist():
                numbers.setdefault(old, set()).update(played or ())
            rows["value"][linking] = [[*numbers].index(old) for old in rows["value"][linking]]
            add(bag, np.array([(counts[gen], 0)], BAG))
            add(gen, rows)

    try:
        found = chunks(np.memmap(regular(path), np.uint8, "r"))
        tables = {n: np.frombuffer(found[n], t, len(found[n]) // t.itemsize) for n, t in RECORDS.items()}
        heads, smpl = tables["phdr"][:-1], found["smpl"]
        for bank, program in sorted({*presets}):
            place = np.flatnonzero((heads["bank"] == bank) & (heads["program"] == program))
            if not len(place):
                raise ValueError(f"it has no program {program} in bank {bank}")
            copy("p", tables["phdr"], place[0], INSTRUMENT, instruments, notes and notes[bank, program])
        for number, played in instruments.items():
            copy("i", tables["inst"], number, SAMPLE, samples, played if notes else None)
        for number in samples:
            row = tables["shdr"][:-1][number : number + 1].copy()
            one = row[0]
            if one["type"] & ROM or not one["start"] <= one["end"] <= len(smpl) // (1 + (not one["type"] & COMPRESSED)):
                raise ValueError(f"the sample {one['name']!r} is not in the file")
            one["link"] = 0
            waves.append(points(smpl, one))
            for field in POINTS:
                one[field] += at
            at += len(waves[-1])
            if at > 16 * MOST:
                raise ValueError("it is larger than 512 MB")
            add("shdr", row)
    except (OSError, ValueError, KeyError, IndexError, OverflowError, soundfile.SoundFileError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else getattr(error, "strerror", None) or error
        raise MuseError(f"{path} cannot be used as a SoundFont ({why!s:.120}); install it again") from error
    for kind, head in (("p", "phdr"), ("i", "inst")):  # each table ends with a row that says where the last one ends
        add(head, np.zeros(1, RECORDS[head]))
        out[head][-1]["bag"] = counts[f"{kind}bag"]
        add(f"{kind}bag", np.array([(counts[f"{kind}gen"], 0)], BAG))
    for name in ("pgen", "pmod", "igen", "imod", "shdr"):
        add(name, np.zeros(1, RECORDS[name]))
    pdta = b"".join(chunk(name, np.concatenate(out[name]).tobytes()) for name in RECORDS)
    info = chunk("LIST", b"INFO" + chunk("ifil", struct.pack("<HH", 2, 1)) + chunk("INAM", b"subset\0\0"))
    sound = chunk("LIST", b"sdta" + chunk("smpl", b"".join(wave.tobytes() for wave in waves)))
    return chunk("RIFF", b"sfbk" + info + sound + chunk("LIST", b"pdta" + pdta))


def chunk(name: str, data: bytes) -> bytes:
    """A RIFF chunk of an even length."""
    return struct.pack("<4sI", name.encode(), len(data) + len(data) % 2) + data + bytes(len(data) % 2)
