"""The judges of music: planted beats, keys, chords, tunes and seams, and the failures that they must not pass."""

import numpy as np
import pytest
from fixtures import sinusoids

from musekit.evaluate import theory
from musekit.evaluate.codec import onset_strength, through, width
from musekit.evaluate.music import requests, rows_of, seam_auc

RATE = 44100
TUNE = (0, 4, 7, 5, 9, 7, 4, 2)
LINE = [[0.0, 0, "maj"], [3.0, 9, "min"], [6.0, 5, "maj"], [9.0, 7, "7"]]  # C Am F G7, one bar each at 80 BPM


def piece(bpm=80.0, seconds=12.0, jitter=0.0, seed=0):
    """A tune in quavers over LINE's chords, one on each beat: rows [onset, offset, pitch, amplitude]."""
    rng, step = np.random.default_rng(seed), 30 / bpm
    rows = [[t, t + step, 72 + TUNE[i % 8], 1.0] for i, t in enumerate(np.arange(0, seconds, step))]
    for start, root, kind in LINE:
        thirds = [0, 3 if kind == "min" else 4, 7]
        beats = start * 80 / bpm + 2 * step * np.arange(4)
        rows += [[t, t + 2 * step, 48 + root + p, 0.8] for t in beats for p in thirds]
    rows = np.array(rows)
    rows[:, :2] += rng.normal(0, jitter, (len(rows), 1))
    return rows[np.argsort(rows[:, 0])]


def test_a_grid_has_a_pulse_and_random_onsets_have_none():
    grid = np.arange(0, 12, 0.375)
    assert theory.pulse(grid)[0] == pytest.approx(1, abs=0.01) and theory.met(theory.pulse(grid)[1], 160)
    random = [theory.pulse(theory.at_random(grid, 12, seed))[0] for seed in range(60)]
    assert np.mean(random) < 0.2
    jittered = [theory.pulse(grid + np.random.default_rng(1).normal(0, s, len(grid)))[0] for s in (0.01, 0.03, 0.15)]
    assert jittered[0] > 0.9 > jittered[1] > 0.6 and jittered[2] < 0.4
    assert theory.pulse(grid[:5])[0] == 0 and np.isnan(theory.tempo(piece()[:5]))


def test_the_tempo_is_that_of_the_bass_and_is_kept():
    for bpm in (90.0, 104.0, 120.0):
        found = theory.tempo(piece(bpm))
        assert theory.met(found, bpm) and not theory.met(found, 1.05 * bpm) and not theory.met(found, bpm / 2)
        assert theory.met(found, bpm / 2, theory.OCTAVES)
    times = theory.onsets_of(piece())[0]
    assert theory.steady(times, 12.0)
    faster = np.r_[times[times < 6], 6 + 0.83 * (times[times >= 6] - 6)]
    assert not theory.steady(faster, 12.0)


def test_keys_chords_and_tunes_are_heard_and_others_are_not():
    notes = piece()
    assert theory.key(notes) == ("C", "major")
    up = notes + [0, 0, 3, 0]
    assert theory.key(up) == ("Eb", "major")
    assert theory.chords_met(notes, LINE, 12.0).all() and not theory.chords_met(up, LINE, 12.0).any()
    wrong = [[start, root, {"maj": "min"}.get(kind, "maj")] for start, root, kind in LINE]
    assert not theory.chords_met(notes, wrong, 12.0)[:3].any()
    tune = notes[notes[:, 2] >= 72]
    melody = np.c_[tune[:, 0], tune[:, 1] - tune[:, 0], tune[:, 2]]
    np.testing.assert_array_equal(theory.upper_line(notes), tune)
    assert theory.melody_f1(notes, melody, 12.0) == pytest.approx(1)
    assert theory.melody_f1(notes + [0, 0, 2, 0], melody, 12.0) == 0
    rng = np.random.default_rng(0)
    unlike = np.c_[tune[:, :2], rng.integers(60, 84, len(tune)), tune[:, 3]]
    assert theory.figures_return(tune) > 0.3 and theory.figures_return(unlike) == 0


def test_rows_of_real_and_of_planted_music():
    record = {"bpm": 80.0, "key": "C", "mode": "major", "chords": LINE, "melody": [[0.0, 0.375, 72]]}
    notes = [piece(jitter=0.01, seed=seed) for seed in range(3)]
    rows = {row["name"]: row["mean"] for row in rows_of([record] * 3, notes, [12.0] * 3, "planted")}
    assert rows["pulse"] > 0.8 > 0.3 > rows["pulse of as many onsets at random"]
    assert rows["tempo within 4 %"] == rows["key, of 24"] == rows["chords: root and third"] == 1
    assert rows["chords: of the line in another order"] < 1
    assert rows_of([{}], [np.zeros((0, 4))], [12.0], "silence")[0]["mean"] == 0
    asked = requests(200)
    assert len({a["text"] for a in asked}) > 190 and all(f"{a['bpm']} BPM" in a["text"] for a in asked)


def test_planted_seams_are_found_and_random_places_are_not():
    pairs = [(sinusoids([f, 1.25 * f], 3.0), sinusoids([1.06 * f, 1.7 * f], 3.0)) for f in range(220, 420, 25)]
    assert seam_auc([(np.concatenate(pair, 1), RATE, [3.0]) for pair in pairs]) > 0.9
    noise = np.random.default_rng(0).normal(size=(12, 2, 6 * RATE)).astype(np.float32)
    assert seam_auc([(x, RATE, [2.0, 4.0]) for x in noise]) < 0.75
    with pytest.raises(ValueError, match="5 pieces"):
        seam_auc([(noise[0], RATE, [3.0])])


def test_opus_and_mp3_have_their_rate_and_are_in_time():
    x = sinusoids([220, 277, 330], 3.0)
    for name in ("Opus", "MP3"):
        y, kbit = through(x, RATE, name)
        assert y.shape == x.shape and np.corrcoef(x[0], y[0])[0, 1] > 0.97
        assert kbit == pytest.approx(32, rel=0.35), name


def test_width_and_attacks():
    middle, side = sinusoids([220], 2.0)[0], 0.5 * sinusoids([330], 2.0)[0]
    x, narrow = np.stack([middle + side, middle - side]), np.stack([middle + side / 2, middle - side / 2])
    assert width(narrow) - width(x) == pytest.approx(-20 * np.log10(2)) and np.isnan(width(np.stack([middle, middle])))
    struck = np.concatenate([x, x, x], 1)
    own, at = onset_strength(struck, RATE)
    smooth = np.stack([np.convolve(c, np.hanning(8192) / 4096, "same") for c in struck])
    assert len(at) >= 2 and onset_strength(smooth, RATE, at)[0] < own == onset_strength(struck, RATE, at)[0]


def test_notes_are_matched_by_onset_and_pitch():
    pytest.importorskip("mir_eval", reason="pip install 'musekit[judge]'")
    from musekit.evaluate.transcribe import note_f1

    notes = piece()
    assert note_f1(notes, notes) == 1 == note_f1(notes[:0], notes[:0]) and note_f1(notes[:0], notes) == 0
    assert note_f1(notes + [0, 0, 1, 0], notes) < 0.3 and note_f1(notes + [0.07, 0.07, 0, 0], notes) == 0
    assert note_f1(notes[::2], notes) == pytest.approx(2 / 3, abs=0.02)


def test_the_transcriber_hears_a_chord():
    pytest.importorskip("basic_pitch", reason="pip install --no-deps basic-pitch==0.4.0")
    from musekit.evaluate.transcribe import note_f1, transcribe

    x = np.concatenate([np.zeros((2, RATE // 2), np.float32), sinusoids([261.63, 329.63, 392.0], 1.5)], 1)
    truth = np.array([[0.5, 2.0, pitch] for pitch in (60, 64, 67)])
    assert note_f1(transcribe(x, RATE), truth) > 0.7
