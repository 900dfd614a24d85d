"""One to many: calibration against known answers, and paired settings."""

import numpy as np
import pytest

from musekit.evaluate import one_to_many, quality
from musekit.evaluate.features import spectral_contrast
from musekit.evaluate.sounds import sampled
from musekit.evaluate.study import Study
from musekit.muse import Settings


def curve(scale: float, shift: float = 0.0) -> dict[float, float]:
    """Calibration of samples against right answers that are `scale` times as wide."""
    rng, u = np.random.default_rng(0), []
    for _ in range(60):
        x, right = rng.normal(size=(32, 10)), rng.normal(shift, scale, size=(20, 10))
        u.append(one_to_many.ranks(x, right))
    return {r["nominal"]: r["inside"] for r in one_to_many.calibration(np.concatenate(u), 32)}


def test_samples_of_the_right_distribution_are_calibrated():
    for nominal, inside in curve(1.0).items():
        assert inside == pytest.approx(nominal, abs=0.035)


def test_too_narrow_too_wide_and_misplaced_samples_are_seen():
    for scale, shift in ((1.5, 0.0), (1.0, 1.0)):  # right answers outside the samples' radii
        assert all(inside < nominal - 0.05 for nominal, inside in curve(scale, shift).items())
    assert all(inside > nominal + 0.03 for nominal, inside in curve(0.6).items() if nominal < 0.9)


def test_ranks_are_uniform_and_not_only_so_on_average():
    rng = np.random.default_rng(1)
    u = np.concatenate(
        [one_to_many.ranks(rng.exponential(size=(9, 3)), rng.exponential(size=(5, 3))) for _ in range(800)]
    )
    values, counts = np.unique(u, return_counts=True)  # 5 radii make 6 ranks
    assert values == pytest.approx(np.arange(6) / 6)
    assert counts / len(u) == pytest.approx(np.full(6, 1 / 6), abs=0.03)


def test_prompts_go_from_anything_to_specific():
    asked = one_to_many.graded_prompts()
    assert len(asked) == 41 and asked[0]["facts"] == 0
    vague, specific = ([p["facts"] for p in asked if p["level"] == level] for level in ("vague", "specific"))
    assert len(vague) == len(specific) == 20 and max(vague) < np.mean(specific)


def test_spectral_contrast_tells_notes_from_noise():
    from fixtures import sinusoids

    noise = np.random.default_rng(2).normal(size=(2, 44100)).astype(np.float32) / 5
    assert spectral_contrast(sinusoids([220, 330]), 44100) > 3 + spectral_contrast(noise, 44100)


def test_settings_are_paired(tiny, tmp_path):
    """The same seeds whatever the setting: unguided twice is the same, guided is another and costs the same NFE."""
    study = Study(tiny.weights, tiny.cache, tmp_path, 4, quick=True)
    texts = ["a flute", "slow organ in minor", "a flute"]
    one, nfe = sampled(study.muse, texts, 7, Settings())
    again, _ = sampled(study.muse, texts, 7, Settings(stage1_guidance_scale=1.0))
    assert np.array_equal(one, again) and (nfe == study.muse.config.sample.stage1_steps).all()
    assert not np.allclose(one[0], one[2])  # one prompt, two seeds
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1)
    held_out = quality.Stage1Quality(study)
    samples = quality.Stage1Samples(held_out.real, np.ones(2), 1.0)
    row = held_out.row(samples, samples)
    assert row["against_default"] == row["against_low"] == row["against_high"] == 0
