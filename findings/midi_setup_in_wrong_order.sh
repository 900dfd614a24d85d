#!/usr/bin/env bash
# pretty_midi, miditoolkit and symusic read a MIDI file and write its bank select too late to have an effect.
#
# Guess before trying: messages of one tick stay in order, since order has a meaning in MIDI: a bank (controllers 0 and
# 32) holds from the next program change on, data entry (6) is for the parameter that was named before (101 and 100).
# Seen with pretty_midi 0.2.11, miditoolkit 1.0.1 and symusic 0.6.0 (Python 3.11): all three write the program change
# first. A synthesizer that follows the standard plays that program from bank 0. pretty_midi also sorts the controllers
# of a tick by number: "12 semitones" comes before "the parameter is the bend range", and the range stays at 2.
# A file sounds otherwise after any cleaning, cutting or transposing with these libraries, while a comparison of notes,
# programs and controllers finds no difference. With mido the messages stay in order.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check mido==1.3.3 pretty_midi==0.2.11 miditoolkit==1.0.1 \
    symusic==0.6.0 'setuptools<80'
cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import miditoolkit
import mido
import pretty_midi
import symusic

BANK, BEND_RANGE = [(0, 8), (32, 0)], [(101, 0), (100, 0), (6, 12)]
sent = [mido.Message("control_change", control=number, value=value) for number, value in BANK + BEND_RANGE]
sent.insert(2, mido.Message("program_change", program=4))
sent += [mido.Message("note_on", note=60, velocity=90), mido.Message("note_off", note=60, time=480)]
mido.MidiFile(tracks=[mido.MidiTrack(sent)]).save("in.mid")
mido.MidiFile("in.mid").save("mido.mid")
pretty_midi.PrettyMIDI("in.mid").write("pretty_midi.mid")
miditoolkit.MidiFile("in.mid").dump("miditoolkit.mid")
symusic.Score("in.mid").dump_midi("symusic.mid")
right, late, mixed = [*BANK, "program", *BEND_RANGE], BANK + BEND_RANGE, sorted(BANK + BEND_RANGE)
for name, expected in {"mido": right, "pretty_midi": mixed, "miditoolkit": late, "symusic": late}.items():
    setup = [m for m in mido.MidiFile(f"{name}.mid") if m.type in ("control_change", "program_change")]
    order = ["program" if m.type == "program_change" else (m.control, m.value) for m in setup]
    print(name, order)
    assert order == (right if name == "mido" else ["program", *expected]), name
PYTHON
