#!/usr/bin/env bash
# midirenderer plays a SoundFont without its modulators: a font that says how velocity acts is played as if it did not.
#
# Guess before trying: modulators of an instrument replace the default ones, as the SoundFont 2 specification says.
# Seen with midirenderer 0.1.3 (it wraps rustysynth; Linux x86_64): a font of one looped tone whose instrument sets the
# default "velocity to attenuation" to an amount of 0 should be as loud at velocity 30 as at 120, and is so in fluidsynth
# 2.3.1. Here it is 22.9 dB softer, exactly as the same font without that modulator. Fonts that shape their layers so
# (MuseScore General does) come out with other levels and colours than in the program they were made for: measure each
# preset's level instead of trusting the font.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check midirenderer==0.1.3 mido==1.3.3 numpy==2.2.6 soundfile==0.14.0
"$folder/venv/bin/python" - <<'PYTHON'
import io
import struct

import midirenderer
import mido
import numpy as np
import soundfile


def chunk(name, data):
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def listed(name, *chunks):
    return chunk(b"LIST", name + b"".join(chunks))


def name(text):
    return text.encode().ljust(20, b"\0")


def font(modulators):
    """A General MIDI piano of one looped tone; modulators: rows of source, destination, amount, amount source, transform."""
    tone = np.round(12000 * np.sin(2 * np.pi * np.arange(4410) / 100)).astype("<i2")  # 441 Hz
    sample = struct.pack("<IIIIIBbHH", 0, 4410, 100, 4300, 44100, 69, 0, 0, 1)
    mods = b"".join(struct.pack("<HHhHH", *row) for row in [*modulators, (0, 0, 0, 0, 0)])
    return chunk(
        b"RIFF",
        b"sfbk"
        + listed(b"INFO", chunk(b"ifil", struct.pack("<HH", 2, 1)), chunk(b"isng", b"EMU8000\0"), chunk(b"INAM", b"one tone\0\0"))
        + listed(b"sdta", chunk(b"smpl", tone.tobytes() + bytes(92)))
        + listed(
            b"pdta",
            chunk(b"phdr", name("tone") + struct.pack("<HHHIII", 0, 0, 0, 0, 0, 0) + name("EOP") + struct.pack("<HHHIII", 0, 0, 1, 0, 0, 0)),
            chunk(b"pbag", struct.pack("<HHHH", 0, 0, 1, 0)),
            chunk(b"pmod", struct.pack("<HHhHH", 0, 0, 0, 0, 0)),
            chunk(b"pgen", struct.pack("<HHHH", 41, 0, 0, 0)),
            chunk(b"inst", name("tone") + struct.pack("<H", 0) + name("EOI") + struct.pack("<H", 1)),
            chunk(b"ibag", struct.pack("<HHHH", 0, 0, 2, len(modulators))),
            chunk(b"imod", mods),
            chunk(b"igen", struct.pack("<HHHHHH", 54, 1, 53, 0, 0, 0)),
            chunk(b"shdr", name("tone") + sample + name("EOS") + bytes(26)),
        ),
    )


def level(soundfont, velocity):
    """dB of a note of a second."""
    track = mido.MidiTrack([
        mido.Message("note_on", note=69, velocity=velocity, time=0),
        mido.Message("note_off", note=69, time=960),
    ])  # fmt: skip
    file, midi = io.BytesIO(), mido.MidiFile(ticks_per_beat=480, tracks=[track])
    midi.save(file=file)
    audio, rate = soundfile.read(io.BytesIO(midirenderer.render_wave_from(soundfont, file.getvalue())))
    return 20 * np.log10(np.sqrt(np.mean(audio[rate // 5 : rate // 2] ** 2)))


LEVEL_BY_VELOCITY = (0x0502, 48, 0, 0, 0)  # the default modulator's source and destination, with an amount of 0
softer = {}
for what, modulators in (("plain", []), ("velocity switched off", [LEVEL_BY_VELOCITY])):
    sound = font(modulators)
    softer[what] = round(float(level(sound, 120) - level(sound, 30)), 1)
    print(f"{what}: velocity 30 is {softer[what]} dB softer than 120")
assert softer["plain"] == softer["velocity switched off"] > 20, softer
PYTHON
