#!/usr/bin/env bash
# MusPy plays repeats of MusicXML, except those of a single measure: that measure is heard once.
#
# Guess before trying: `read_musicxml` unfolds every repeat between a forward and a backward sign alike.
# Seen with muspy 0.5.0, compared with music21 10.5.1 (Python 3.11): G between both signs, then A, becomes G A instead
# of G G A. Two measures between the signs are repeated, and so is one measure that has only the backward sign. Only the
# first <repeat> of a measure is looked at: where forward and backward are in one measure, backward is never seen.
# MusicXML allows a repeat on both barlines of a measure. Vamps and riffs of one measure are common in songs:
# such a piece gets shorter, and a melody with lyrics, chords or a recording that follow the repeats no longer fits.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check muspy==0.5.0 music21==10.5.1 'setuptools<80' 'numpy>=2,<3'
cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
from music21 import converter
import muspy

NOTE = "<note><pitch><step>{}</step><octave>4</octave></pitch><duration>4</duration><voice>1</voice></note>"
FIRST = "<attributes><divisions>1</divisions><time><beats>4</beats><beat-type>4</beat-type></time></attributes>"
FORWARD = '<barline location="left"><repeat direction="forward"/></barline>'
BACKWARD = '<barline location="right"><repeat direction="backward"/></barline>'


def heard(measures):
    """The pitches that muspy and music21 find when they unfold the repeats."""
    measures = [FIRST + measures[0], *measures[1:]]
    content = "".join(f'<measure number="{i + 1}">{m}</measure>' for i, m in enumerate(measures))
    with open("try.musicxml", "w") as file:
        file.write(f"""<?xml version="1.0"?><score-partwise version="3.1"><part-list><score-part id="P">
<part-name>P</part-name></score-part></part-list><part id="P">{content}</part></score-partwise>""")
    notes = muspy.read_musicxml("try.musicxml").tracks[0].notes
    unfolded = converter.parse("try.musicxml", forceSource=True).parts[0].expandRepeats()
    return [note.pitch for note in notes], [note.pitch.midi for note in unfolded.recurse().notes]


C, G, A = NOTE.format("C"), NOTE.format("G"), NOTE.format("A")
found = {
    "one measure, both signs": heard([FORWARD + G + BACKWARD, A]),
    "later measure, both signs": heard([C, FORWARD + G + BACKWARD, A]),
    "one measure, backward only": heard([G + BACKWARD, A]),
    "two measures, both signs": heard([FORWARD + C, G + BACKWARD, A]),
}
for name, (by_muspy, by_music21) in found.items():
    print(f"{name:27} muspy {by_muspy} music21 {by_music21}")
assert found["one measure, both signs"] == ([67, 69], [67, 67, 69])
assert found["later measure, both signs"] == ([60, 67, 69], [60, 67, 67, 69])
assert found["one measure, backward only"] == ([67, 67, 69], [67, 67, 69])
assert found["two measures, both signs"] == ([60, 67, 60, 67, 69], [60, 67, 60, 67, 69])
PYTHON
