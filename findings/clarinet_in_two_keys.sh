#!/usr/bin/env bash
# music21 writes the same clarinet to MIDI in two keys: its part alone as it sounds, in the score a tone higher.
#
# Guess before trying: a B-flat clarinet's MusicXML (<transpose>, -2 semitones) becomes MIDI at sounding pitch: a MIDI
# file holds what is heard, and a closed issue of music21 (187) says that its MIDI should be so.
# Seen with music21 10.5.1: `score.parts[1].write("midi")` gives 70 for a written C5, `score.write("midi")` gives 72.
# Only the stream that is exported is asked for `atSoundingPitch`; a score answers "unknown", its parts are never asked.
# A flute and a clarinet that play in unison clash by a whole tone in the score's file, and nothing is said.
# Melodies for training or conditioning that are taken from scores are wrong for each clarinet, trumpet, horn and
# saxophone. `score.toSoundingPitch().write("midi")` is the remedy.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check music21==10.5.1 mido==1.3.3
cd "$folder"
venv/bin/python - <<'PYTHON'
import mido
from music21 import converter

PART = """<part id="{0}"><measure number="1"><attributes><divisions>1</divisions>{1}</attributes><note><pitch>
<step>{2}</step>{3}<octave>{4}</octave></pitch><duration>4</duration></note></measure></part>"""
TONE_DOWN = "<transpose><diatonic>-1</diatonic><chromatic>-2</chromatic></transpose>"
NAME = '<score-part id="{0}"><part-name>{1}</part-name></score-part>'
flute, clarinet = PART.format("A", "", "B", "<alter>-1</alter>", 4), PART.format("B", TONE_DOWN, "C", "", 5)
names = NAME.format("A", "Flute") + NAME.format("B", "Clarinet")
text = f'<score-partwise version="3.1"><part-list>{names}</part-list>{flute}{clarinet}</score-partwise>'
score = converter.parse('<?xml version="1.0"?>' + text, format="musicxml")  # in unison on B-flat 4, which is 70
print("atSoundingPitch:", score.atSoundingPitch, [part.atSoundingPitch for part in score.parts])
found = {}
for name, music in (("score", score), ("clarinet", score.parts[1]), ("toSoundingPitch", score.toSoundingPitch())):
    music.write("midi", "try.mid")
    found[name] = [m.note for m in mido.MidiFile("try.mid") if m.type == "note_on" and m.velocity]
    print(name, found[name])
assert list(found.values()) == [[70, 72], [70], [70, 70]]
PYTHON
