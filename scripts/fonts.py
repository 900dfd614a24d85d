"""Level and pitch of every key of every instrument in every SoundFont: the measurements behind `fonts.toml`.

python scripts/fonts.py      # writes results/fonts.json, and prints what fonts.toml should say
"""

import os

import numpy as np

from musekit.corpus.fonts import (
    FONTS,
    GENERATOR,
    INSTRUMENT,
    RECORDS,
    SAMPLE,
    Preset,
    chunks,
    preset,
    ready,
    subset,
)  # fmt: skip
from musekit.corpus.instruments import INSTRUMENTS
from musekit.corpus.processes import in_processes
from musekit.corpus.render import EVEN, TICKS, synthesise
from musekit.results import write_result

VELOCITY = 80
SOUND, SPACE = 1.2, 1.6  # seconds of a note, and from one note to the next
QUIET, FALSE = 18.0, 45.0  # dB below the median, and cents, at which a key is not usable; choirs scatter by 44

UNPITCHED = ("drums", "timpani")  # partials are not harmonic: level only


def cents_off(wave: np.ndarray, rate: int, hertz: float) -> float:
    """Cents from `hertz` at which the harmonics of a note (N,) add up to most, within +-100.

    Odd and even harmonics are searched apart, because an organ's or an accordion's octave may be false by itself; of
    two that are audible the worse one counts.
    """
    size, cents = 1 << 18, np.arange(-100, 101)
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), size))
    found = []
    for harmonics in (np.arange(1, 9, 2), np.arange(2, 9, 2)):
        at = hertz * 2 ** (cents[:, None] / 1200) * harmonics * size / rate
        values = spectrum[np.round(np.minimum(at, size // 2)).astype(int)]  # (201, 4)
        best = (values**0.5).sum(1).argmax()
        found.append(((values[best] ** 2).sum(), float(cents[best])))
    loudest = max(found)[0]
    return max((error for power, error in found if power >= 0.05 * loudest), key=abs)


def measure(which: tuple[str, str]) -> dict:
    """One row of the result for (font, instrument): level in dBFS RMS and error in cents by key, the usable range."""
    font, name = which
    about, asked = preset(font, name), INSTRUMENTS[name]
    keys = range(asked.low, asked.high + 1)
    starts = [round(TICKS * SPACE * i) for i in range(len(keys))]
    notes = [(start, start + round(TICKS * SOUND), key, VELOCITY) for start, key in zip(starts, keys)]
    audio, rate = synthesise({0: notes}, [name], [64], SPACE * len(keys), 0, font), 48_000
    audio *= 10 ** ((about.level - EVEN) / 20)  # as the font has it
    levels, errors = [], []
    for i, key in enumerate(keys):
        note = audio[round(SPACE * i * rate) :][: round(SOUND * rate)]
        energy = np.cumsum((note.astype(float) ** 2).mean(1))
        power = (energy[rate // 3 :] - energy[: -(rate // 3)]).max() / (rate // 3)  # of the loudest third of a second
        levels.append(round(10 * np.log10(power + 1e-12), 1))
        hertz = 440 * 2 ** ((key - 69) / 12)
        errors.append(0.0 if name in UNPITCHED else cents_off(note.mean(1)[rate // 20 :], rate, hertz))
    middle = np.median(levels)
    good = [level > middle - QUIET and abs(error) <= FALSE for level, error in zip(levels, errors)]
    start, length = max(((i, [*good[i:], False].index(False)) for i in range(len(good))), key=lambda span: span[1])
    run = slice(0, len(keys)) if name == "drums" else slice(start, start + length)
    heard = [levels[36 - asked.low], levels[38 - asked.low]] if name == "drums" else levels[run]  # bass and snare drum
    return {
        "font": font, "instrument": name, "bank": about.bank, "program": about.program,
        "level": round(float(np.median(heard or -99.0)), 1), "low": keys[run][0], "high": keys[run][-1],
        "voices": voices(font, about[:2], keys), "first": asked.low,
        "levels": " ".join(map(str, levels)), "cents": " ".join(str(round(e)) for e in errors),
    }  # fmt: skip


def voices(font: str, which: tuple[int, int], keys: range) -> int:
    """The most samples that one note of these keys plays."""
    most = 0
    for key in keys[::3]:
        found = chunks(np.frombuffer(subset(ready(font), [which], notes={which: {(key, VELOCITY)}}), np.uint8))
        kinds = [np.frombuffer(found[name], GENERATOR)["what"] for name in ("pgen", "igen")]
        instruments = len(found["inst"]) // RECORDS["inst"].itemsize - 1
        most = max(most, -(-int((kinds[0] == INSTRUMENT).sum() * (kinds[1] == SAMPLE).sum()) // instruments))
    return most


if __name__ == "__main__":
    jobs = [(font, name) for font in FONTS for name in FONTS[font]["presets"]]
    made = {(row["font"], row["instrument"]): row for row in in_processes(measure, jobs, os.cpu_count())}
    rows = [made[job] for job in jobs]
    for row in rows:
        print(row["font"], row["instrument"], [row[field] for field in Preset._fields])
    write_result("fonts", rows, module="musekit.corpus.render")
