"""The judge and its features on rendered notes, planted keys and plain signals."""

import numpy as np
import pytest

from musekit.config import TONICS, MuseError
from musekit.corpus.render import SAMPLE_RATE, render
from musekit.evaluate.features import features
from musekit.evaluate.judge import Judge, KeyTemplates
from musekit.evaluate.study import value_of

PLAYERS = ("piano", "organ", "flute")
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11, 12), "minor": (0, 2, 3, 5, 7, 8, 11, 12)}
TRIADS = {"major": (0, 4, 7), "minor": (0, 3, 7)}


def piece(player, mode, speed, tonic, rng, seconds=4.0):
    """A walk on the scale over the tonic's triad: (record, audio)."""
    step = {"slow": 0.8, "fast": 0.17}[speed] * rng.uniform(0.9, 1.1)
    degrees = np.abs(np.cumsum(rng.integers(-2, 3, size=round(seconds / step)))) % 8
    times = step * np.arange(len(degrees))
    notes = [[t, 0.9 * step, 72 + tonic + SCALES[mode][d], 80, 0] for t, d in zip(times, degrees)]
    notes += [[t, 3.8 * step, 60 + tonic + i, 60, 0] for t in times[::4] for i in TRIADS[mode]]
    audio = render(sorted(notes), players=[player], pans=[64], seconds=seconds, dynamic="medium")
    names = {"instrumentation": player, "mode": mode, "speed": speed, "key": TONICS[tonic]}
    return {**names, "onset_rate": 1 / step}, audio


def pieces(tonics, seed):
    rng = np.random.default_rng(seed)
    return [piece(p, m, s, k, rng) for p in PLAYERS for m in SCALES for s in ("slow", "fast") for k in tonics]


@pytest.fixture(scope="module")
def judge():
    made = pieces((0, 3, 7), seed=0)
    return Judge().fit([r for r, _ in made], [features(a, SAMPLE_RATE) for _, a in made])


def test_new_pieces_in_new_keys_are_judged_right(judge):
    made = pieces((2, 5), seed=1)
    found = [features(a, SAMPLE_RATE) for _, a in made]
    said, rates = judge.judge(found), [r["onset_rate"] for r, _ in made]
    assert np.median(np.abs(np.log(judge.onset_rates(found) / rates))) < 0.3
    for attribute, bound in (("instrument", 0.97), ("mode", 0.9), ("speed", 0.97)):
        right = [s == value_of(r, attribute) for s, (r, _) in zip(said[attribute], made)]
        assert np.mean(right) >= bound, attribute
        swapped = [s == value_of(r, attribute) for s, (r, _) in zip(said[attribute], made[14:] + made[:14])]
        assert np.mean(swapped) < 0.6, attribute  # pieces of other prompts


def test_one_value_is_not_enough_to_learn_from():
    record, audio = piece("piano", "major", "slow", 0, np.random.default_rng(0))
    with pytest.raises(MuseError, match="'instrument'"):
        Judge().fit([record] * 3, [features(audio, SAMPLE_RATE)] * 3)


def test_features_have_their_shapes_and_mono_is_stereo():
    t = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    mono = 0.3 * np.sin(2 * np.pi * 440 * t)
    mono_features, stereo = features(mono, SAMPLE_RATE), features(np.stack([mono, mono]), SAMPLE_RATE)
    assert mono_features["chroma"].shape == (4, 12)
    assert mono_features["chroma"][1].argmax() == TONICS.index("A")
    for name, value in mono_features.items():
        assert value.dtype == np.float32 and np.isfinite(value).all()
        np.testing.assert_allclose(value, stereo[name], rtol=1e-4, atol=1e-4)
    assert all(np.isfinite(v).all() for v in features(np.zeros((2, SAMPLE_RATE * 2)), SAMPLE_RATE).values())  # silence


def planted(n, rng, noise=0.15):
    """Chroma drawn round a scale's histogram in a random key: x (n, 4, 12), tonics, modes."""
    profiles = np.full((2, 12), 0.1)
    for m, mode in enumerate(SCALES):
        profiles[m, list(SCALES[mode])[:7]] += 0.5
        profiles[m, list(TRIADS[mode])] += 0.5
    tonics, modes = rng.integers(12, size=n), rng.integers(2, size=n)
    clean = np.stack([np.roll(profiles[m], k) for k, m in zip(tonics, modes)])
    return clean[:, None] + noise * rng.normal(size=(n, 4, 12)), tonics, modes


def test_key_templates_find_planted_keys_and_turn_with_them():
    rng = np.random.default_rng(5)
    templates = KeyTemplates().fit(*planted(300, rng))
    x, tonics, modes = planted(200, rng)
    p = templates.probabilities(x)
    np.testing.assert_allclose(p.sum((1, 2)), 1)
    assert np.mean(p.reshape(200, 24).argmax(1) == 2 * tonics + modes) > 0.98
    assert np.mean(templates.predict(x) == np.array(["major", "minor"])[modes]) > 0.98
    for k in (1, 5, 11):  # a transposed clip has the transposed key, and the same mode
        np.testing.assert_allclose(templates.probabilities(np.roll(x, k, axis=2)), np.roll(p, k, axis=1), atol=1e-2)
