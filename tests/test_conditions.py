"""Conditions of Stage 2 against arrays written by hand."""

import numpy as np
import pretty_midi
import pytest

from musekit import conditions
from musekit.conditions import BEATS, CHORDS, MELODY
from musekit.config import MuseError
from musekit.controls import Controls


def test_beats_chords_and_melody_of_frames():
    """120 beats per minute in bars of two, frames of 0.1 s; the second downbeat lies between two frames' middles."""
    record = {"bpm": 120.0, "beats_per_bar": 2, "first_beat": 0.05, "key": "D", "mode": "minor"}
    chords, melody = [[0.0, 2, "min"], [0.5, 7, "7"], [1.0, 0, "none"]], [[0.48, 0.2, 74], [0.0, 0.3, 60]]
    full = conditions.compact(record | {"chords": chords, "melody": melody})
    x = conditions.of_frames(full, 0, 12, 0.1)
    beat = np.arange(12) * 0.1 * 2  # frames' middles are 0.05 + 0.1 i
    np.testing.assert_allclose(x[:, BEATS][:, 0], np.eye(12)[[0, 5, 10]].sum(0), atol=1e-5)
    np.testing.assert_allclose(x[:, BEATS][:, 1], np.eye(12)[[0, 10]].sum(0), atol=1e-5)
    for column, turns in ((2, beat), (4, beat / 2)):
        np.testing.assert_allclose(x[:, BEATS][:, column], np.cos(2 * np.pi * turns), atol=1e-5)
        np.testing.assert_allclose(x[:, BEATS][:, column + 1], np.sin(2 * np.pi * turns), atol=1e-5)
    between = conditions.of_frames(full | {"first_beat": 0.08}, 0, 12, 0.1)[:, 1]
    np.testing.assert_allclose(between[[0, 1, 2, 10, 11]], [0.7, 0.3, 0, 0.7, 0.3], atol=1e-5)
    d_minor, g_seventh = np.eye(12)[[2, 5, 9]].sum(0), np.eye(12)[[7, 11, 2, 5]].sum(0)
    np.testing.assert_array_equal(x[0, CHORDS], [*d_minor, *np.eye(12)[2], 1])
    np.testing.assert_array_equal(x[5, CHORDS], [*g_seventh, *np.eye(12)[7], 1])
    np.testing.assert_array_equal(x[10, CHORDS], [0] * 24 + [1])
    np.testing.assert_allclose(x[0, MELODY], [*np.eye(12)[0], 0, 0.5, 1], atol=1e-5)
    np.testing.assert_allclose(x[5, MELODY], [*np.eye(12)[2], 14 / 12, 0.3, 1], atol=1e-5)
    np.testing.assert_allclose(x[3, MELODY], [0] * 14 + [1], atol=1e-5)  # a rest
    np.testing.assert_array_equal(conditions.of_frames(full, 4, 5, 0.1), x[4:9])  # a crop
    x = conditions.of_frames(full, 0, 12, 0.1, {"chords"})
    assert x[:, CHORDS].any() and not x[:, BEATS].any() and not x[:, MELODY].any()
    assert not conditions.of_frames(conditions.compact({"bpm": 90.0, "key": None}), 0, 4, 0.1).any()  # no first beat
    piece = conditions.of_piece(full | {"bpm": 240})
    np.testing.assert_allclose(piece[:8], [1, 1, 1, 0, 0, 0, 1, 1], atol=1e-5)
    assert np.flatnonzero(piece[8:]).tolist() == [2 + 12, 24 + 1]  # D minor; two beats per bar


def test_controls_are_read_and_become_the_record_of_a_piece(tmp_path):
    line = Controls(bpm=120, metre=4, key="Bb minor", chords="Am7 F|C G7 |")
    assert (line.key, line.mode, Controls(key="Gb").key, Controls(key="dm").mode) == ("Bb", "minor", "F#", "minor")
    assert Controls(key="B♭ minor").key == Controls(key="A sharp minor").key == "Bb"
    assert Controls(chords="B♭, C♯m").record(4)["chords"] == Controls(chords="Bb C#m").record(4)["chords"]
    bars = [(0, 9, "min"), (1, 5, "maj"), (2, 0, "maj"), (3, 7, "7")]
    assert line.record(7)["chords"] == [*bars, *((start + 4, *chord) for start, *chord in bars)]
    assert Controls(chords="C N").record(4)["chords"] == [(0, 0, "maj"), (2, 0, "none")]  # 120 BPM in four
    midi = pretty_midi.PrettyMIDI(None, 220, 100)
    midi.instruments = [pretty_midi.Instrument(0, is_drum) for is_drum in (True, False)]
    midi.instruments[0].notes = [pretty_midi.Note(90, 80, 0, 3)]
    for start, pitch in ((1.0, 60), (1.6, 64), (2.2, 67)):
        for low, seconds in ((0, 0.3), (12, 0.6)):
            midi.instruments[1].notes.append(pretty_midi.Note(90, pitch - low, start, start + seconds))
    midi.write(str(tmp_path / "tune.mid"))
    followed = Controls(melody=tmp_path / "tune.mid")  # its upper line, from its first note on, at its own tempo
    assert followed.bpm == 100 and followed.melody == ((0.0, 0.3, 60), (0.6, 0.3, 64), (1.2, 0.3, 67))
    slower = Controls(melody=tmp_path / "tune.mid", bpm=50, metre=4)
    assert [note[0] for note in slower.record(9)["melody"]] == pytest.approx([0, 1.2, 2.4, 4.8, 6.0, 7.2])  # again
    del midi.instruments[1]
    midi.write(str(tmp_path / "drums.mid"))
    for wrong, says in {
        "chords": ("Am H F", "chord 'H' cannot be read: give A to G"), "bpm": (1000, "bpm = 1000 .* 30 to 300"),
        "metre": (0, "1 to 12 beats"), "key": ("H", "key = 'H' .* D minor"), "mode": ("minor", "needs a key"),
        "melody": (tmp_path / "drums.mid", "drums.mid must have 1 to 4096 notes"),
    }.items():  # fmt: skip
        with pytest.raises(MuseError, match=says[1]):
            Controls(**{wrong: says[0]})
