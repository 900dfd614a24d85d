"""Ablations: what each design decision is worth, on a small model that trains in a minute or two (`small_models`).

ablation-guidance    Guidance needs a network that also knows the unconditional velocity. What does teaching it cost?
ablation-solver      Solver and number of evaluations against the error of the solution, both stages; trains nothing.
ablation-ema         The weights' moving average against the last weights, with and without a decaying learning rate.
ablation-cache       Cached embeddings against embeddings computed in training: time, and result.
ablation-noise       Noise on the embeddings that Stage 2 learns from: what its own clips gain and new ones lose.
ablation-data        Learning from a sixteenth, a quarter and all of the clips. Does Stage 1 copy its training clips?
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import torch

from musekit import flow, solve
from musekit.cache import Shards
from musekit.config import MINI_TRAINING, MuseConfig, MuseError
from musekit.evaluate import small_models
from musekit.evaluate.diversity import SEED, samples
from musekit.evaluate.quality import STAGE1_SEED, Stage1Quality
from musekit.evaluate.sounds import progress, read_audio, sampled
from musekit.evaluate.study import Study
from musekit.muse import Settings
from musekit.statistics import neighbours, percentile_difference
from musekit.train.data import Stage1Data, Stage2Data

DROPOUTS, SCALES = (0.0, 0.1, 0.3), (1.0, 2.0, 3.0)
BUDGETS, TOLERANCES = (4, 8, 16, 32, 64, 128), (1e-2, 1e-3, 1e-4)  # NFE of the fixed solvers; of dopri5
FINEST = {"stage1": 128, "stage2": 50}  # steps of rk4, the reference solution
TIMED, CACHE_CLIPS, CACHE_SAMPLES = 24, 128, 25_600
NOISES, OFF = (0.0, 0.01, 0.03, 0.1), 0.03
SHARES = (16, 4, 1)  # one clip of so many


def require(study: Study, name: str, *kinds: str) -> None:
    """Raises MuseError where the cache lacks what the ablation learns from."""
    for kind in kinds:
        if not (study.cache / kind / "manifest.json").exists():
            raise MuseError(f"{study.cache} has no {kind}, which {name} learns from; run: musekit cache --kinds {kind}")


def ablate_guidance(study: Study) -> None:
    """Writes results/ablation-guidance.json. Without dropout the null token is untrained: only w = 1 can be right."""
    require(study, "ablation-guidance", "tokens", "embeddings")
    quality, rows = Stage1Quality(study), []
    plain, how = small_models.small(study.muse.config), small_models.settings("stage1", study.quick)
    for p in DROPOUTS[:2] if study.quick else DROPOUTS:
        config = dataclasses.replace(plain, stage1=dataclasses.replace(plain.stage1, condition_dropout=p))
        model = small_models.train(study, "stage1", config, how, show=f"condition dropout {p:g}")
        muse = model.muse(study)
        for w in progress(SCALES[:1] if study.quick else SCALES, "guidance scales"):
            row = {"measure": "guidance", "condition_dropout": p, "guidance_scale": w}
            rows.append(row | quality.row(quality.sample(muse, Settings(stage1_guidance_scale=w))) | model.about)
    study.write("ablation-guidance", rows, embedding=study.embedding_name)


def ablate_ema(study: Study) -> None:
    """Writes results/ablation-ema.json. One run gives both: the average is saved beside the weights."""
    require(study, "ablation-ema", "tokens", "embeddings")
    quality, rows, config = Stage1Quality(study), [], small_models.small(study.muse.config)
    validation = Stage1Data(study.cache, "valid", config)
    for decay in (0.5, 0.0):
        how = small_models.settings("stage1", study.quick, decay=decay)
        model = small_models.train(study, "stage1", config, how, show=f"learning rate's decay {decay:g}")
        sets = {averaged: quality.sample(model.muse(study, averaged), Settings()) for averaged in (True, False)}
        for averaged, sample in sets.items():
            folder = model.ema if averaged else model.last
            row = {"measure": "ema", "lr_decay": decay, "ema": how.ema if averaged else None}
            row["valid_loss"] = small_models.held_out_loss("stage1", folder, validation, how)
            rows.append(row | quality.row(sample, sets[False]) | model.about)
    study.write("ablation-ema", rows, embedding=study.embedding_name, against="the last weights of the same run")


def ablate_data(study: Study) -> None:
    """Writes results/ablation-data.json."""
    require(study, "ablation-data", "tokens", "embeddings")
    quality, rows, config = Stage1Quality(study), [], small_models.small(study.muse.config)
    how, validation = small_models.settings("stage1", study.quick), Stage1Data(study.cache, "valid", config)
    for share in SHARES[1:] if study.quick else SHARES:
        dataset = Stage1Data(study.cache, "train", config)
        dataset = small_models.subset(dataset, max(2, len(dataset) // share))
        seen = study.unit(dataset.embeddings.double().numpy())  # before training, which may change the order
        model = small_models.train(study, "stage1", config, how, dataset, show=f"1 / {share} of the clips")
        sample = quality.sample(model.muse(study), Settings())
        row = {"measure": "data size", "share": 1 / share, "clips": len(dataset)}
        row["train_loss"] = small_models.held_out_loss("stage1", model.ema, dataset, how)
        row["valid_loss"] = small_models.held_out_loss("stage1", model.ema, validation, how)
        # samples that are nearer to the training clips than held-out clips are would be copies
        own, real = (neighbours.nearest(x, seen)[0] for x in (sample.captions, quality.real))
        gap = percentile_difference(own, real, 5, seed=0)
        row |= quality.row(sample) | {"to_seen": float(own.mean()), "held_out_to_seen": float(real.mean())}
        row |= {"copies_difference": gap["difference"], "copies_low": gap["low"], "copies_high": gap["high"]}
        rows.append(row | model.about)
    study.write("ablation-data", rows, embedding=study.embedding_name)


# -- noise on embeddings


def noisy(config: MuseConfig, noise: float) -> MuseConfig:
    """The config with that noise on Stage 2's training embeddings; a unit vector's coordinates are about 0.04."""
    return dataclasses.replace(config, stage2=dataclasses.replace(config.stage2, embedding_noise=noise))


def ablate_noise(study: Study) -> None:
    """Writes results/ablation-noise.json.

    512 numbers identify a clip. A network that learns this answers a training clip's embedding with the clip, and does
    worse on embeddings that are new, or slightly wrong, as Stage 1's are. Measured as the flow-matching loss given the
    embeddings of training clips, of held-out clips, and of held-out clips with noise 0.03.
    """
    require(study, "ablation-noise", "latents", "embeddings")
    plain, rows = small_models.small(study.muse.config), []
    how, limit = small_models.settings("stage2", study.quick), 4 if study.quick else 256
    sets = {
        "train": Stage2Data(study.cache, "train", noisy(plain, 0.0)),
        "held_out": Stage2Data(study.cache, "valid", noisy(plain, 0.0)),
        "held_out_off": Stage2Data(study.cache, "valid", noisy(plain, OFF)),
    }
    for noise in NOISES[:2] if study.quick else NOISES:
        model = small_models.train(study, "stage2", noisy(plain, noise), how, show=f"embedding noise {noise:g}")
        row = {"measure": "embedding noise", "noise": noise, "off": OFF}
        for name, dataset in sets.items():
            row[f"loss_{name}"] = small_models.held_out_loss("stage2", model.ema, dataset, how, limit)
        rows.append(row | {"gap": row["loss_held_out"] - row["loss_train"]} | model.about)
    study.write("ablation-noise", rows)


# -- the cache


def ablate_cache(study: Study) -> None:
    """Writes results/ablation-cache.json.

    Time: milliseconds per training sample, of what each stage learns from. Result: two small Stage 1 with the same seed
    and clips, one on cached embeddings, one on float32 embeddings computed from the audio (once, not in each epoch as
    training without a cache would; the projection counts each).
    """
    require(study, "ablation-cache", "tokens", "embeddings")
    rows = cache_times(study, 2 if study.quick else TIMED)
    rows += cache_results(study, 4 if study.quick else CACHE_CLIPS, CACHE_SAMPLES)
    study.write("ablation-cache", rows, embedding=study.embedding_name)


def milliseconds(work: Callable[[dict], object], clips: list[dict], text: str) -> float:
    """Mean wall time (ms) of `work` per clip; the first one warms up and is left out where there are more."""
    took = []
    for clip in progress(clips, text):
        began = time.perf_counter()
        work(clip)
        took.append(time.perf_counter() - began)
    return 1000 * float(np.mean(took[1:] or took))


@torch.inference_mode()
def cache_times(study: Study, n: int) -> list[dict]:
    """One row per stage: the time of a clip from the cache and from its audio, and of the preset's whole training."""
    muse, clips, rows = study.muse, study.split("train")[:n], []

    def embed(clip: dict):
        audio, rate = read_audio(study.path(clip))
        return muse.embedder.embed_audio(torch.from_numpy(audio)[None], rate)

    def encode(clip: dict):
        audio, _ = read_audio(study.path(clip))
        return muse.codec.encode(torch.from_numpy(audio)[None].to(muse.device)).cpu()  # waits for a GPU

    cases = [("stage1", "embeddings", embed)]
    if (study.cache / "latents" / "manifest.json").exists() and "codec" in study.hashes:
        cases.append(("stage2", "latents", encode))
    for part, kind, work in cases:
        shards, total = Shards(study.cache / kind), MINI_TRAINING[part].samples
        cached = milliseconds(lambda clip, s=shards: s.row(clip["id"]).float(), clips, f"reading {kind}")
        made = milliseconds(work, clips, f"computing {kind}")
        row = {"measure": "time", "part": part, "what": kind, "n": n, "cached_ms": cached, "on_the_fly_ms": made}
        row |= {"times": made / cached, "samples": total, "projected": True}
        rows.append(row | {"cached_minutes": total * cached / 6e4, "on_the_fly_minutes": total * made / 6e4})
    return rows


def cache_results(study: Study, clips: int, total: int) -> list[dict]:
    """What is learned from cached embeddings and from fresh ones."""
    config, models, sets, rows = small_models.small(study.muse.config), {}, {}, []
    how = small_models.settings("stage1", study.quick, **({} if study.quick else {"samples": total}))
    quality, validation = Stage1Quality(study), Stage1Data(study.cache, "valid", config)
    for name in ("cached", "on the fly"):
        dataset = small_models.subset(Stage1Data(study.cache, "train", config), clips)
        dataset.transposed = None  # both learn from these clips only, each from its own embeddings of them
        if name == "on the fly":
            fresh = [
                study.muse.embedder.embed_audio(torch.from_numpy(audio)[None], rate)[0]
                for audio, rate in map(read_audio, progress(study.paths(dataset.clips), "embedding on the fly"))
            ]
            half, dataset.embeddings = dataset.embeddings, torch.stack(fresh)
            rounding = float((half - dataset.embeddings).abs().max())
        model = small_models.train(study, "stage1", config, how, dataset, label=name, show=f"embeddings {name}")
        models[name], sets[name] = model, quality.sample(model.muse(study), Settings())
    for name, model in models.items():
        row = {"measure": "result", "embeddings": name, "clips": clips, "largest_rounding": rounding}
        row["valid_loss"] = small_models.held_out_loss("stage1", model.ema, validation, how)
        row |= quality.row(sets[name], sets["cached"]) | model.about
        rows.append(row | {"cosine_to_cached": float((sets[name].captions * sets["cached"].captions).sum(1).mean())})
    return rows


# -- solvers


def grids(most: int) -> list[tuple[str, int]]:
    """(solver, steps) of the fixed solvers for each budget of at most so many evaluations."""
    fixed = [solver for solver in solve.SOLVERS if solver not in solve.ADAPTIVE]
    cost = solve.NFE_PER_STEP
    return [(s, budget // cost[s]) for s in fixed for budget in BUDGETS if cost[s] <= budget <= most]


def ablate_solver(study: Study) -> None:
    """Writes results/ablation-solver.json.

    The error is the distance from the same equation's solution by rk4 with many steps, from the same noise, on the
    preset's own weights: of Stage 1's embeddings (unit vectors), and of Stage 2's standardised latents (RMS).
    """
    study.write("ablation-solver", stage1_errors(study) + stage2_errors(study), seed=SEED)


def stage1_errors(study: Study) -> list[dict]:
    """Mean distance of embeddings from the reference solution's, for one caption of each of 64 held-out clips."""
    clips = study.split("valid", "test")[: 3 if study.quick else 64]
    texts = [c["captions"][0]["text"] for c in clips]

    def solved(solver: str, steps: int) -> tuple[np.ndarray, dict]:
        settings = Settings(stage1_solver=solver, stage1_steps=steps, micro_batch=16)
        x, nfe = sampled(study.muse, texts, STAGE1_SEED, settings)
        shown = None if solver in solve.ADAPTIVE else steps
        return x, {"measure": "stage1", "solver": solver, "steps": shown, "nfe": float(nfe.mean())}

    exact, row = solved("rk4", 8 if study.quick else FINEST["stage1"])
    rows = [row | {"error": 0.0, "reference": True}]
    for solver, steps in progress([*grids(4 if study.quick else BUDGETS[-1]), ("dopri5", 1)], "Stage 1, solvers"):
        x, row = solved(solver, steps)
        rows.append(row | {"error": float(np.linalg.norm(x - exact, axis=1).mean())})
    scale = study.muse.config.sample.stage1_guidance_scale
    return [row | {"n": len(texts), "guidance_scale": scale, "seed": STAGE1_SEED} for row in rows]


@torch.inference_mode()
def stage2_errors(study: Study) -> list[dict]:
    """Root mean square error of the standardised latents, for a few short pieces, in float32."""
    pieces, seconds = (1, 1.0) if study.quick else (4, 3.0)
    velocity, x_0 = stage2_velocity(study, pieces, seconds)

    def solved(solver: str, steps: int, **options) -> tuple[torch.Tensor, dict]:
        found = solve.solve(velocity, x_0, solver=solver, steps=steps, **options)
        row = {"measure": "stage2", "solver": solver, "steps": None if options else steps}
        return found.x, row | {"nfe": float(found.nfe.double().mean()), "tolerance": options.get("rtol")}

    exact, row = solved("rk4", 4 if study.quick else FINEST["stage2"])
    rows = [row | {"error": 0.0, "reference": True}]
    cases = [(solver, steps, {}) for solver, steps in grids(4 if study.quick else 64)]
    for r in TOLERANCES[: 1 if study.quick else 3]:
        cases.append(("dopri5", 1, {"rtol": r, "atol": r, "overshoot": False}))
    for solver, steps, options in progress(cases, "Stage 2, solvers"):
        x, row = solved(solver, steps, **options)
        rows.append(row | {"error": float((x - exact).square().mean().sqrt())})
    scale = study.muse.config.sample.guidance_scale
    return [row | {"n": pieces, "seconds": seconds, "guidance_scale": scale, "seed": SEED} for row in rows]


def stage2_velocity(study: Study, n: int, seconds: float) -> tuple[Callable, torch.Tensor]:
    """Stage 2's guided velocity for n samples of Stage 1, and its initial noise (n, C, T)."""
    muse = study.muse
    x = torch.from_numpy(samples(study, "a sad piano melody", n, SEED)).float().to(muse.device)
    network, w = muse.stage2, muse.config.sample.guidance_scale
    condition = network.condition_pair(x, torch.tensor([[0.0, seconds]], device=muse.device).expand(n, 2))

    def velocity(t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return flow.guided(*network(torch.cat([z, z]), torch.cat([t, t]), condition).chunk(2), w)

    noise = [flow.noise(SEED + i, 2, muse.frames(seconds), network.config.latent_dim) for i in range(n)]
    return velocity, torch.stack(noise).to(muse.device)
