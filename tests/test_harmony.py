"""Chord lines are drawn as the training clips' chords follow each other, and in the key that was read."""

from collections import Counter

import numpy as np
import torch

from musekit import conditions, harmony
from musekit.controls import Controls, read_chords
from musekit.recipe import Settings


def clip(key: str, mode: str, bars: list[str], metre: int = 4) -> dict:
    """A compact record at 60 BPM: a chord a bar, each a root and the sign of a quality."""
    names = {"": "maj", "m": "min", "7": "7", "N": "none"}
    found = [
        (i * metre * 1.0, 0 if b == "N" else conditions.TONICS.index(b.rstrip("m7")), b) for i, b in enumerate(bars)
    ]
    rows = [(start, root, names[b if b == "N" else b[len(b.rstrip("m7")) :]]) for start, root, b in found]
    about = {"key": key, "mode": mode, "bpm": 60.0, "beats_per_bar": metre, "first_beat": 0.0}
    return conditions.compact(about | {"chords": rows})


def test_chords_and_melodies_have_a_key():
    """Where none is asked for: cadences, and Twinkle, twinkle, little star."""
    star = [62, 62, 69, 69, 71, 71, 69, 67, 67, 66, 66, 64, 64, 62]
    tune = tuple((k / 2, 0.5, pitch) for k, pitch in enumerate(star))
    keys = {
        "C F G7 C": "C major",
        "Am Dm E7 Am": "A minor",
        "Bb | Eb F7 | Bb": "Bb major",
        "F#m Bm C#7 F#m": "F# minor",
    }
    asked = [(Controls(chords=line), key) for line, key in keys.items()]
    for controls, key in [*asked, (Controls(melody=tune), "D major"), (Controls(key="E", chords="C F G"), "E major")]:
        found = harmony.keyed(controls)
        assert f"{found.key} {found.mode}" == key and found.chords == controls.chords
    for without in (Controls(), Controls(bpm=90), Controls(chords="N N")):
        assert harmony.keyed(without) == without


def test_a_chain_that_knows_one_song_draws_it_in_any_key():
    chain = harmony.chain([clip("D", "major", ["D", "G", "A7", "D"] * 5)])
    assert chain.shape == harmony.SHAPE and not chain[1].any()
    bars = read_chords(
        harmony.line(chain, np.random.default_rng(0), conditions.key_index(dict(key="Eb", mode="major")), 4)
    )
    assert len(bars) == harmony.BARS and bars[0] == [(3, "maj")] and {len(bar) for bar in bars} == {1}
    follows = {(3, "maj"): {(8, "maj"), (3, "maj")}, (8, "maj"): {(10, "7")}, (10, "7"): {(3, "maj")}}
    assert all(b[0] in follows[a[0]] for a, b in zip(bars, bars[1:]))
    assert harmony.line(chain, np.random.default_rng(0), 12, 4) == ""  # it knows no minor


def test_probabilities_are_those_that_are_counted_by_hand():
    minor = clip("A", "minor", ["Am", "E7", "Am", "Dm", "N", "Am"], metre=3)
    chain = harmony.chain([minor, {"bpm": 60.0}])[1]
    i, iv, v7 = 0 * 5 + 1, 5 * 5 + 1, 7 * 5 + 3
    assert chain[1, harmony.FIRST, i] == 1 and chain[1, i, v7] == chain[1, i, iv] == 0.5
    assert chain[0, i, i] == 1 and chain[1, v7, i] == 1  # the rest of a bar stays; a rest (N) is passed over
    assert np.isin(chain.sum(-1).round(9), (0, 1)).all()


def test_drawn_chords_follow_each_other_as_often_as_counted():
    songs = [clip("C", "major", list(np.random.default_rng(s).choice(["C", "F", "G"], 16))) for s in range(40)]
    chain, rng, seen = harmony.chain(songs), np.random.default_rng(1), Counter()
    for _ in range(300):
        bars = read_chords(harmony.line(chain, rng, 0, 4))
        seen.update((a[-1][0], b[0][0]) for a, b in zip(bars, bars[1:]))
    for before in (0, 5, 7):
        n = sum(seen[before, after] for after in (0, 5, 7))
        for after in (0, 5, 7):
            p = chain[0, 1, before * 5, after * 5]
            assert abs(seen[before, after] / n - p) < 4 * np.sqrt(p * (1 - p) / n)


def test_a_piece_is_given_the_chords_of_its_key_unless_others_are_asked_for(muse):
    with torch.inference_mode():
        muse.stage2.readout[13 + 14, -1] = 1.0  # D minor
        muse.stage2.harmony.copy_(torch.from_numpy(harmony.chain([clip("A", "minor", ["Am", "Dm", "E7", "Am"] * 4)])))
    options = {"seconds": 0.5, "steps": 1, "stage1_steps": 1}
    piece, other = muse.stream(muse.recipes("a flute", 2, 0, Settings(**options)))
    assert (piece.controls.key, piece.controls.mode) == ("D", "minor") and piece.recipe.controls is None
    assert {name for bar in read_chords(piece.controls.chords) for name in bar} <= {(2, "min"), (7, "min"), (9, "7")}
    assert piece.controls.chords.startswith("Dm | ") and piece.controls != other.controls
    [again] = muse.stream(muse.recipes("a flute", 1, 0, Settings(**options, chords=piece.controls.chords)))
    assert again.controls.chords == piece.controls.chords and again.recipe.controls.key == "D"  # of the chords
    [keyed] = muse.stream(muse.recipes("a flute in E minor", 1, 0, Settings(**options)))
    assert keyed.controls.chords.startswith("Em | ")
    for words in ({"prompt": "a flute in G minor"}, {"key": "G minor"}):  # not the piece's chords, which are in D minor
        painted = muse.repaint(piece, 0.1, 0.3, **words, steps=1, stage1_steps=1).controls
        assert painted.key == "G" and painted.chords.startswith("Gm | ") and painted.bpm == piece.controls.bpm
    painted = muse.repaint(piece, 0.1, 0.3, chords="C F G C", steps=1, stage1_steps=1).controls
    assert (painted.key, painted.mode, painted.chords) == ("C", "major", "C F G C")  # not the piece's key either
    kept = muse.repaint(piece, 0.1, 0.3, prompt="a flute", steps=1, stage1_steps=1)
    assert kept.controls.chords == piece.controls.chords
