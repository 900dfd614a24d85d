"""Scores against music21 itself, families against transposed copies, windows against a slow reference."""

from dataclasses import replace

import numpy as np
import pytest

from musekit.config import TONICS
from musekit.corpus import arrange, bands, families, harmony, instruments, plan, scores
from musekit.harmony import key_of


@pytest.fixture(scope="module")
def chorale() -> scores.Score:
    return scores.parse("bach/bwv253.mxl")[0][0]


@pytest.fixture(scope="module")
def jig() -> scores.Score:
    return scores.parse("ryansMammoth/AnnieHughesJig.abc")[0][0]


def test_notes_are_those_of_music21_with_ties_joined():
    from music21 import converter

    work = "bach/bwv66.6.mxl"
    stream = converter.parse(scores.corpus_folder() / work)
    ours = scores.parse(work)[0][0]
    for part, rows in zip(stream.stripTies().parts, ours.parts):
        theirs = sorted((float(n.offset), float(n.quarterLength), n.pitch.midi) for n in part.flatten().notes)
        assert np.array(rows) == pytest.approx(np.array(theirs), abs=1e-3)


@pytest.mark.parametrize("work", ["bach/bwv253.mxl", "bach/bwv66.6.mxl", "ryansMammoth/AcaciaReel.abc"])
def test_key_is_that_of_music21(work):
    from music21 import converter

    theirs = converter.parse(scores.corpus_folder() / work).analyze("key")
    every = np.array([r for part in scores.parse(work)[0][0].parts for r in part])
    name, mode, r, gap = key_of(every[:, 2], every[:, 1])
    assert (TONICS.index(name), mode) == (theirs.tonic.pitchClass, theirs.mode)
    assert r == pytest.approx(theirs.correlationCoefficient, abs=1e-4)
    second = theirs.alternateInterpretations[0].correlationCoefficient
    assert gap == pytest.approx(theirs.correlationCoefficient - second, abs=1e-4)


def test_what_is_known_of_a_work(chorale, jig):
    assert (chorale.title, chorale.form, chorale.key, chorale.mode) == ("Chorale BWV 253", "chorale", "A", "major")
    assert len(chorale.parts) == 4 and chorale.metre == "4/4" and "Greentree" in chorale.licence
    assert jig.form == "jig" and len(jig.parts) == 1 and jig.metre == "2/4"


def test_music_without_a_clear_mode_has_none():
    modal = [scores.parse(s)[0][0] for s in scores.sources(["monteverdi/madrigal.4.1.mxl", "josquin/mille"])]
    assert None in {s.mode for s in modal}
    chromatic = np.arange(60, 72)
    assert key_of(chromatic, np.ones(12))[2] == 0.0
    assert not scores.third_is_clear(np.array([60, 63, 64]), np.array([4.0, 1.0, 2.0]), "C", "major")


def test_what_the_licences_forbid_is_left_out():
    used = scores.sources()
    assert len(used) > 1500
    assert not [s for s in used if s.startswith(("palestrina", "essenFolksong", "leadSheet")) or s.endswith(".krn")]
    assert {s.split("/")[0] for s in used} <= set(scores.COLLECTIONS)
    assert not [s for s in used if "In Verde Prato" in s]  # says "Copyright"


def test_families_hold_variants_together_and_drop_duplicates(chorale, jig):
    up = [[[s, d, p + 3] for s, d, p in part] for part in chorale.parts]
    other_bass = [*up[:3], [[s, d, p - (i % 3)] for i, (s, d, p) in enumerate(up[3])]]
    scored = [
        chorale,
        replace(chorale, work="bach/z-copy", title="", parts=up),
        replace(chorale, work="bach/z-other-harmony", title="", parts=other_bass),
        jig,
    ]
    kept, dropped = families.group(scored)
    assert [d["work"] for d in dropped] == ["bach/z-copy"]
    family = {s.work: s.family for s in kept}
    assert family["bach/bwv253"] == family["bach/z-other-harmony"] != family[jig.work]


@pytest.mark.parametrize("start, quarters", [(0, 8), (32, 30), (4, 100)])
def test_window_matches_a_slow_reference(chorale, start, quarters):
    """Play the piece over and over on a list, one note at a time."""
    for part in chorale.parts:
        wanted = []
        for turn in range(5):
            for onset, duration, pitch in part:
                t = onset + turn * chorale.length - start
                if 0 <= t < quarters:
                    wanted.append((t, duration, pitch))
                elif turn == 0 and t < 0 and t + duration >= 1:
                    wanted.append((0.0, t + duration, pitch))
        got = arrange.window(part, start, quarters, chorale.length)
        assert np.array(sorted(got.tolist())) == pytest.approx(np.array(sorted(wanted)))


def test_texture_and_speed_words():
    line = np.array([[0, 1, 60], [1, 1, 62], [2, 1, 64.0]])
    assert arrange.texture_of([line]) == "solo"
    assert arrange.texture_of([line, line - [0, 0, 12]]) == "chordal"
    assert arrange.texture_of([line, line + [0.5, 0, -12]]) == "polyphonic"
    assert [plan.speed_of(r) for r in (1.0, 2.0, 2.8, 3.8, 5.0)] == ["slow", None, "medium", None, "fast"]


def test_players_stay_in_their_ranges(chorale):
    parts = [np.asarray(p, float) for p in arrange.ordered(chorale)]
    for name in instruments.INSTRUMENTATIONS:
        players = instruments.players_of(name, len(parts))
        assert len(players) == len(parts)
        for player, fitted in zip(players, arrange.to_range(parts, players, transpose=4)):
            about = instruments.INSTRUMENTS[player]
            assert fitted[:, 2].min() >= about.low and fitted[:, 2].max() <= about.high, (name, player)


def test_scores_that_cannot_be_used_are_named_with_their_reasons(tmp_path, monkeypatch):
    monkeypatch.setattr(scores, "corpus_folder", lambda: tmp_path)
    files = {"bach/odd.mxl": "odd", "ryansMammoth/Short.abc": "X:1\nT:short\nM:4/4\nL:1/4\nK:C\nC D E F|\n"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
        families.parse_to(tmp_path / "scores", name)
    reasons = families.set_aside(tmp_path)
    assert reasons.pop("bach/odd.mxl").startswith("music21 cannot read the score (")
    assert reasons == {"ryansMammoth/Short": "fewer than 16 notes"}
    assert families.read_scores(sorted((tmp_path / "scores").glob("*.jsonl"))) == []


def test_chords_are_those_that_a_score_states():
    """Two tunes of the corpus carry chord symbols, which the analysis does not see."""
    from music21 import converter
    from music21.harmony import ChordSymbol

    source = "nottingham-dataset/reelsa-c.abc"
    tunes = converter.parse(scores.corpus_folder() / source, forceSource=True).scores
    agree = []
    for tune, score in zip(tunes, scores.parse(source)[0], strict=True):
        stated = sorted((float(c.getOffsetInHierarchy(tune)), c.root().pitchClass) for c in tune[ChordSymbol])
        edges = np.arange(stated[0][0], score.length, 2.0)
        found = harmony.chords_of(
            [np.array(score.parts[0])], edges, np.arange(len(edges) - 1) % 2 == 0, score.key, score.mode
        )
        agree += [root == [r for t, r in stated if t <= at + 1e-3][-1] for (root, _), at in zip(found, edges)]
    assert np.mean(agree) >= 0.7


def test_chords_of_a_progression_that_sounds():
    progression = [(0, "maj"), (9, "min"), (2, "min"), (7, "7"), (0, "maj")]
    rows = [[4 * k, 4, 60 + (r + s) % 12] for k, (r, q) in enumerate(progression) for s in harmony.TONES[q]]
    found = harmony.chords_of([np.array(rows, float)], np.arange(0, 24, 4.0), np.ones(5, bool), "C", "major")
    assert found == progression


def test_a_band_plays_the_chords_on_the_grid(jig):
    """Bass roots on the downbeats, chord tones in the comping, drums on the steps, the final chord at the stop."""
    progression = [(0, "maj"), (5, "maj"), (7, "7"), (0, "maj")] * 3
    clock = bands.Clock(120.0, 1.0, 4.0, 0.5, 12, "four")
    assert clock(0.5) == pytest.approx(0.25) and clock(2.5) == pytest.approx(1.25) and clock.end == 48.5
    chords = bands.Harmony(progression, 0.5 + 4.0 * np.arange(13), stop=46.5)
    lead = np.array([[0.5 + k, 1, 72] for k in range(47)], float)
    for name, style in bands.STYLES.items():
        if "four" not in bands.metres_of(style):
            continue
        for who, rows, *_ in bands.band(style, lead, style["lead"][0], clock, chords, np.random.default_rng(0))[1:]:
            assert np.allclose((rows[:, 0] - 0.5) * 4 % 1, 0) and rows[:, 0].max() <= 46.5 + 1e-6, (name, who)
            if "bass" in who:
                for k, (root, _) in enumerate(progression[:-1]):
                    first = rows[np.abs(rows[:, 0] - 0.5 - 4 * k) < 1e-6]
                    assert not len(first) or first[0, 2] % 12 == root, (name, k)
                assert rows[-1, 2] % 12 == 0
    swing = replace(clock, swing=2 / 3)
    assert swing([0.5, 1.0, 1.5]) == pytest.approx([0.25, 0.25 + 1 / 3, 0.75])
