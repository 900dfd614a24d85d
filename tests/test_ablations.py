"""Ablations: runs are kept, go on where they stopped, and say what they measured; on random weights, tiny sizes."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch

import ablated
from musekit import evaluate as evaluation
from musekit import flow, solve
from musekit.config import MuseError, mini
from musekit.evaluate.ablations import ABLATIONS, cached, small, solver
from musekit.evaluate.subject import Subject
from musekit.pretrained import build
from musekit.results import read_result
from musekit.train.data import Stage1Data


def parameters(part: str, config) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build(part, config).parameters())


def test_the_small_model_is_small():
    for part in ("stage1", "stage2"):
        assert parameters(part, small.small(mini())) < parameters(part, mini()) / 2


def test_smaller_sets_are_part_of_larger_ones(tiny):
    whole = Stage1Data(tiny.cache, "train", tiny.config)
    row = {c["id"]: x for c, x in zip(whole.clips, whole.embeddings)}
    few, more = (small.subset(Stage1Data(tiny.cache, "train", tiny.config), n) for n in (4, 8))
    assert {c["id"] for c in few.clips} < {c["id"] for c in more.clips} < set(row) and len(few) == 4
    assert all(torch.equal(row[c["id"]], x) for c, x in zip(few.clips, few.embeddings))
    assert torch.equal(few.sample(0, flow.Draws(0, 0), flow.Draws(0, 1))["x_1"], few.embeddings[0])


def test_a_stopped_training_goes_on_to_the_same_weights(tiny, tmp_path, monkeypatch):
    """Stopped after a checkpoint and started again, a run ends with the weights of one that was not."""
    config, quick = tiny.config, small.settings("stage1", True, checkpoint_minutes=0.0)
    subject = Subject(tiny.weights, tiny.cache, tmp_path, 4, quick=True)
    whole = small.train(subject, "stage1", config, quick, label="whole")
    real = small.fit

    def stopping(*arguments):
        for record in real(*arguments):
            yield record
            raise KeyboardInterrupt

    monkeypatch.setattr(small, "fit", stopping)
    with pytest.raises(KeyboardInterrupt):
        small.train(subject, "stage1", config, quick, label="stopped")
    monkeypatch.setattr(small, "fit", real)
    again = small.train(subject, "stage1", config, quick, label="stopped")
    for folder in ("ema", "last"):
        a, b = (getattr(t, folder) / "stage1.safetensors" for t in (whole, again))
        assert a != b and a.read_bytes() == b.read_bytes()
    monkeypatch.setattr(small, "fit", lambda *a: pytest.fail("it is trained"))
    assert small.train(subject, "stage1", config, quick, label="stopped") == again
    with pytest.raises(pytest.fail.Exception):
        small.train(subject, "stage1", config, dataclasses.replace(quick, lr=1e-4), label="stopped")


def test_milliseconds_are_of_the_work(monkeypatch):
    clock = iter([0.0, 5.0, 10.0, 10.002, 20.0, 20.004])
    monkeypatch.setattr(cached.time, "perf_counter", lambda: next(clock))
    assert cached.milliseconds(lambda clip: None, [{}] * 3, "timing") == pytest.approx(3.0)  # the first one warms up


def test_grids_spend_their_budget():
    for name, steps in solver.grids(64):
        assert steps * solve.NFE_PER_STEP[name] in solver.BUDGETS
    assert {name for name, _ in solver.grids(64)} == set(solve.SOLVERS) - set(solve.ADAPTIVE)


def test_stage2_velocity_is_the_samplers(tiny, tmp_path):
    """Solved with Euler it gives the latents that the sampler decodes."""
    from musekit.evaluate.diversity import samples
    from musekit.muse import Settings

    subject = Subject(tiny.weights, tiny.cache, tmp_path, 4, quick=True)
    muse, n = subject.muse, subject.muse.config.sample.micro_batch
    muse.dtype = "float32"
    with torch.inference_mode():
        velocity, x_0 = solver.stage2_velocity(subject, n, 1.0)
        x = solve.solve(velocity, x_0, solver="euler", steps=3).x
        decoded = muse.codec.decode(muse.stage2.latents(x[:1]))[0, :, :20000]
    embeddings = torch.from_numpy(samples(subject, "a sad piano melody", n, solver.SEED)).float()
    recipes = [muse.recipe("x", solver.SEED + i, Settings(seconds=1.0, steps=3, solver="euler")) for i in range(n)]
    audio = muse.render_rows(embeddings, recipes)[0][0][:, :20000]
    scale = float(audio.abs().max() / decoded.abs().max())  # what would clip is scaled down
    torch.testing.assert_close(decoded * scale, audio, atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_runs_and_says_what_it_measured(name, tiny, tmp_path, capsys):
    evaluation.evaluate(name, tiny.weights, tiny.cache, tmp_path, quick=True)
    result, out = read_result(name, tmp_path), capsys.readouterr().out
    rows = result["rows"]
    assert rows and f"== {name}" in out and "noise" in result["provenance"]["note"]
    numbers = [v for r in rows for v in r.values() if isinstance(v, float)]
    assert np.isfinite(numbers).all()
    told = list(ablated.LINES[name.removeprefix("ablation-")](rows))  # the README's table can tell it
    assert name == "ablation-solver" or told and all(np.isfinite(line[2]) for line in told)
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
