"""One to many: calibration against answers that are known, and both experiments end to end on random weights."""

import json
import shutil

import numpy as np
import pytest

from musekit import evaluate as evaluation
from musekit.evaluate import one_to_many, quality
from musekit.evaluate.subject import Subject
from musekit.muse import Settings
from musekit.results import read_result


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
    asked = one_to_many.asked()
    assert len(asked) == 41 and asked[0]["facts"] == 0
    vague, specific = ([p["facts"] for p in asked if p["level"] == level] for level in ("vague", "specific"))
    assert len(vague) == len(specific) == 20 and max(vague) < np.mean(specific)


def test_spectral_contrast_tells_notes_from_noise():
    from fixtures import sinusoids

    noise = np.random.default_rng(2).normal(size=(2, 44100)).astype(np.float32) / 5
    assert one_to_many.spectral_contrast(sinusoids([220, 330]), 44100) > 3 + one_to_many.spectral_contrast(noise, 44100)


def test_settings_are_paired(tiny, tmp_path):
    """The same seeds whatever the setting: unguided twice is the same, guided is another and costs the same NFE."""
    subject = Subject(tiny.weights, tiny.cache, tmp_path, 4, quick=True)
    texts = ["a flute", "slow organ in minor", "a flute"]
    one, nfe = quality.sampled(subject.muse, texts, Settings())
    again, _ = quality.sampled(subject.muse, texts, Settings(stage1_guidance_scale=1.0))
    assert np.array_equal(one, again) and nfe == subject.muse.config.sample.stage1_steps
    assert not np.allclose(one[0], one[2])  # one prompt, two seeds
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1)
    held = quality.Quality(subject)
    row = held.row(quality.Embedded(held.real, np.ones(2), 1.0), quality.Embedded(held.real, np.ones(2), 1.0))
    assert row["against_default"] == row["against_low"] == row["against_high"] == 0


@pytest.fixture(scope="module")
def two_speeds(tiny, tmp_path_factory):
    """The tiny cache with clips of two speeds, so that a judge can be fitted on it."""
    cache = tmp_path_factory.mktemp("two-speeds") / "cache"
    shutil.copytree(tiny.cache, cache)
    records = [json.loads(line) for line in (cache / "clips.jsonl").read_text().splitlines()]
    for i, record in enumerate(records):
        speed = ("slow", "fast")[i % 4 // 2]
        record |= {"speed": speed, "onset_rate": {"slow": 1.0, "fast": 6.0}[speed]}
    (cache / "clips.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return cache


@pytest.mark.parametrize("what", ["one-to-many", "guidance"])
def test_an_experiment_runs_twice_the_second_time_from_what_is_kept(
    what, tiny, two_speeds, tmp_path, monkeypatch, capsys
):
    results = []
    for k in range(2):
        if k:
            monkeypatch.setattr(
                "musekit.muse.Muse.render_rows", lambda *a, **b: pytest.fail("it was rendered before")
            )
        evaluation.evaluate(what, tiny.weights, two_speeds, tmp_path / str(k), quick=True)
        results.append(read_result(what, tmp_path / str(k)))
    assert results[0]["rows"] == results[1]["rows"]
    assert "noise" in results[0]["provenance"]["note"]
    measures = {r["measure"] for r in results[0]["rows"]}
    if what == "one-to-many":
        assert {
            "prompt",
            "mean",
            "difference",
            "calibration",
            "rank correlation",
            "sound",
            "sound difference",
        } <= measures
        rows = [r for r in results[0]["rows"] if r["measure"] == "prompt"]
        assert [r["level"] for r in rows] == ["anything", "vague", "vague", "vague"] and rows[0]["m"] > 1
        sources = {r["source"] for r in results[0]["rows"] if r["measure"] == "sound"}
        assert {"samples", "regression"} <= sources
    else:
        assert {"stage1 guidance", "stage1 steps", "stage1 ruler", "stage2 guidance", "stage2 steps"} <= measures
        steps = [r for r in results[0]["rows"] if r["measure"] == "stage1 steps"]
        assert steps and all(r["nfe"] == r["value"] for r in steps)
    assert "kernel_distance" in capsys.readouterr().out
