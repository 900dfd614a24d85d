"""Ablations: runs are kept, go on where they stopped, and say what they measured; on random weights, tiny sizes."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch

import tables
from musekit import evaluate as evaluation
from musekit import flow, solve
from musekit.config import MuseError
from musekit.evaluate import ablations, small_models
from musekit.evaluate.study import Study
from musekit.results import read_result
from musekit.train.data import Stage1Data


def test_smaller_sets_are_part_of_larger_ones(tiny):
    whole = Stage1Data(tiny.cache, "train", tiny.config)
    row = {c["id"]: x for c, x in zip(whole.clips, whole.embeddings)}
    few, more = (small_models.subset(Stage1Data(tiny.cache, "train", tiny.config), n) for n in (4, 8))
    assert {c["id"] for c in few.clips} < {c["id"] for c in more.clips} < set(row) and len(few) == 4
    assert all(torch.equal(row[c["id"]], x) for c, x in zip(few.clips, few.embeddings))
    assert torch.equal(few.sample(0, flow.Draws(0, 0), flow.Draws(0, 1))["x_1"], few.embeddings[0])


def test_a_stopped_training_goes_on_to_the_same_weights(tiny, tmp_path, monkeypatch):
    """Stopped after a checkpoint and started again, a run ends with the weights of one that was not."""
    config, quick = tiny.config, small_models.settings("stage1", True, checkpoint_minutes=0.0)
    study = Study(tiny.weights, tiny.cache, tmp_path, 4, quick=True)
    whole = small_models.train(study, "stage1", config, quick, label="whole")
    real = small_models.fit

    def stopping(*arguments):
        for record in real(*arguments):
            yield record
            raise KeyboardInterrupt

    monkeypatch.setattr(small_models, "fit", stopping)
    with pytest.raises(KeyboardInterrupt):
        small_models.train(study, "stage1", config, quick, label="stopped")
    monkeypatch.setattr(small_models, "fit", real)
    again = small_models.train(study, "stage1", config, quick, label="stopped")
    for folder in ("ema", "last"):
        a, b = (getattr(t, folder) / "stage1.safetensors" for t in (whole, again))
        assert a != b and a.read_bytes() == b.read_bytes()
    monkeypatch.setattr(small_models, "fit", lambda *a: pytest.fail("it is trained"))
    assert small_models.train(study, "stage1", config, quick, label="stopped") == again
    with pytest.raises(pytest.fail.Exception):
        small_models.train(study, "stage1", config, dataclasses.replace(quick, lr=1e-4), label="stopped")


def test_stage2_velocity_is_the_samplers(tiny, tmp_path):
    """Solved with Euler it gives the latents that the sampler decodes."""
    from musekit.evaluate.diversity import samples
    from musekit.muse import Settings

    study = Study(tiny.weights, tiny.cache, tmp_path, 4, quick=True)
    muse, n = study.muse, study.muse.config.sample.micro_batch
    muse.dtype = "float32"
    with torch.inference_mode():
        velocity, x_0 = ablations.stage2_velocity(study, n, 1.0)
        x = solve.solve(velocity, x_0, solver="euler", steps=3).x
        decoded = muse.codec.decode(muse.stage2.latents(x[:1]))[0, :, :20000]
    embeddings = torch.from_numpy(samples(study, "a sad piano melody", n, ablations.SEED)).float()
    recipes = [muse.recipe("x", ablations.SEED + i, Settings(seconds=1.0, steps=3, solver="euler")) for i in range(n)]
    audio = muse.render_batch(embeddings, recipes)[0][0][:, :20000]
    scale = float(audio.abs().max() / decoded.abs().max())  # what would clip is scaled down
    torch.testing.assert_close(decoded * scale, audio, atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", evaluation.GROUPS["ablations"])
def test_an_ablation_runs_and_says_what_it_measured(name, tiny, tmp_path, monkeypatch, capsys):
    evaluation.evaluate(name, tiny.weights, tiny.cache, tmp_path, quick=True)
    result, out = read_result(name, tmp_path), capsys.readouterr().out
    rows = result["rows"]
    assert rows and f"== {name}" in out and "noise" in result["provenance"]["note"]
    numbers = [v for r in rows for v in r.values() if isinstance(v, float)]
    assert np.isfinite(numbers).all()
    monkeypatch.setattr(tables, "read", lambda name: result)
    lines = list(tables.ablation_lines(name.removeprefix("ablation-")))  # of the table in docs/results.md
    assert name == "ablation-solver" or lines and all(np.isfinite(line[2]) for line in lines)
    if name == "ablation-solver":
        exact = {r["measure"] for r in rows if r["error"] == 0 and r.get("reference")}
        assert exact == {"stage1", "stage2"} and all(r["error"] >= 0 for r in rows)
    elif name == "ablation-cache":
        assert {r["part"] for r in rows if r["measure"] == "time"} == {"stage1", "stage2"}
        result = {r["embeddings"]: r for r in rows if r["measure"] == "result"}
        assert result["cached"]["cosine_to_cached"] == pytest.approx(1)
        assert 0 < result["on the fly"]["largest_rounding"] < 1e-3  # half precision of coordinates below 1
        assert result["on the fly"]["cosine_to_cached"] > 0.99
    else:
        assert {r["model"] for r in rows} == {"smoke"} and all(r["parameters"] > 0 for r in rows)


def test_a_cache_that_lacks_what_is_learned_from_is_told(tiny, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    shutil.copy(tiny.cache / "clips.jsonl", cache)
    with pytest.raises(MuseError, match="musekit cache --kinds latents"):
        evaluation.evaluate("ablation-noise", tiny.weights, cache, tmp_path, quick=True)
    with pytest.raises(MuseError, match="did you mean 'ablation-ema'"):
        evaluation.evaluate("ablation-emma", tiny.weights, cache, tmp_path)
