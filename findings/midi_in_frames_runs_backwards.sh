#!/usr/bin/env bash
# A Standard MIDI File whose ticks are parts of a film frame (SMPTE): mido reads it, and time runs backwards.
#
# Guess before trying: libraries that read MIDI files turn such ticks into seconds, or say that they do not.
# Seen with mido 1.3.3, pretty_midi 0.2.11 and symusic 0.6.0 on Python 3.11: the division 25 frames of 40 ticks (a tick is
# 1 ms) is read by mido as ticks_per_beat = -6360, so a note of 1 s lasts -0.0786 s, and nothing is said. pretty_midi,
# which reads through mido, stops with "Note end time must be greater than start time". symusic alone says what is
# wrong: the division is not ticks per quarter.
# Whoever takes melodies or data in MIDI should look at the division first: a sum of durations that is negative or zero
# is this, not an empty file.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check mido==1.3.3 pretty_midi==0.2.11 symusic==0.6.0 'setuptools<80'
"$folder/venv/bin/pip" list --disable-pip-version-check 2>/dev/null | grep -iE 'mido|pretty|symusic'
cd "$folder"
venv/bin/python - <<'PYTHON'
import struct

import mido
import pretty_midi
import symusic

note = b"\x00\x90\x45\x60" + b"\x87\x68\x80\x45\x00" + b"\x00\xff\x2f\x00"  # A4 for 1,000 ticks, end of track
header = struct.pack(">4sIHHBB", b"MThd", 6, 0, 1, 256 - 25, 40)  # 25 frames a second, 40 ticks each
with open("frames.mid", "wb") as file:
    file.write(header + struct.pack(">4sI", b"MTrk", len(note)) + note)

read = mido.MidiFile("frames.mid")
print("mido: ticks per beat", read.ticks_per_beat, "length", round(read.length, 4), "s")
assert read.ticks_per_beat == -6360 and read.length < 0
for name, load, error in (
    ("pretty_midi", pretty_midi.PrettyMIDI, ValueError),
    ("symusic", symusic.Score, RuntimeError),
):
    try:
        load("frames.mid")
    except error as why:
        print(f"{name}: {type(why).__name__}: {why}")
    else:
        raise SystemExit(f"{name} reads it now")
PYTHON
