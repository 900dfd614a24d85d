"""Ablations: what two design decisions are worth, on the preset's own weights. Nothing is trained.

ablation-cache     Milliseconds per training sample: read from the cache, or computed from the audio.
ablation-solver    Solver and number of evaluations against the error of the solution, both stages.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from musekit import flow, solve
from musekit.cache import Shards
from musekit.config import MINI_TRAINING, MuseError
from musekit.evaluate.study import HELD_OUT, Study, progress
from musekit.muse import Muse, Settings

BUDGETS = (4, 8, 16, 32, 64, 128)  # NFE
FINEST = {"stage1": 128, "stage2": 50}  # steps of rk4, the reference solution
STAGE1_SEED, STAGE2_SEED = 100_000, 60_000
TIMED = 24  # clips


# -- the cache


def milliseconds(work: Callable[[dict], object], clips: list[dict], text: str) -> float:
    """Mean wall time (ms) of `work` per clip; the first one warms up and is left out where there are more."""
    took = []
    for clip in progress(clips, text):
        began = time.perf_counter()
        work(clip)
        took.append(time.perf_counter() - began)
    return 1000 * float(np.mean(took[1:] or took))


@torch.inference_mode()
def ablate_cache(study: Study) -> None:
    """Writes results/ablation-cache.json.

    A row per stage: the time of a clip from the cache and from its audio, and, projected, of the preset's training.
    """
    clips, rows = study.split("train")[: 2 if study.quick else TIMED], []

    def embed(clip: dict) -> np.ndarray:
        return study.embed_audio(*study.read(clip))

    def encode(clip: dict) -> torch.Tensor:
        audio = torch.from_numpy(study.read(clip)[0])[None]
        return study.muse.codec.encode(audio.to(study.muse.device)).cpu()  # waits for a GPU

    for part, kind, work in (("stage1", "embeddings", embed), ("stage2", "latents", encode)):
        if not (study.cache / kind / "manifest.json").exists():
            raise MuseError(f"{study.cache} has no {kind}, whose reading is timed; run: musekit cache --kinds {kind}")
        shards, total = Shards(study.cache / kind), MINI_TRAINING[part].samples
        cached = milliseconds(lambda clip, s=shards: s.row(clip["id"]).float(), clips, f"reading {kind}")
        made = milliseconds(work, clips, f"computing {kind}")
        row = {"measure": "time", "part": part, "what": kind, "n": len(clips)}
        row |= {"cached_ms": cached, "on_the_fly_ms": made, "times": made / cached, "samples": total, "projected": True}
        rows.append(row | {"cached_minutes": total * cached / 6e4, "on_the_fly_minutes": total * made / 6e4})
    study.write("ablation-cache", rows, embedding=study.embedding_name)


# -- solvers


def grids(most: int) -> list[tuple[str, int]]:
    """(solver, steps) of the fixed solvers for each budget of at most so many evaluations."""
    fixed = [solver for solver in solve.SOLVERS if solver not in solve.ADAPTIVE]
    cost = solve.NFE_PER_STEP
    return [(s, budget // cost[s]) for s in fixed for budget in BUDGETS if cost[s] <= budget <= most]


def ablate_solver(study: Study) -> None:
    """Writes results/ablation-solver.json.

    The error is the distance from the same equation's solution by rk4 with many steps, from the same noise: of Stage
    1's embeddings (unit vectors), and of Stage 2's standardised latents (RMS).
    """
    study.write("ablation-solver", stage1_errors(study) + stage2_errors(study), seed=STAGE2_SEED)


def stage1_errors(study: Study) -> list[dict]:
    """Mean distance of embeddings from the reference solution's, for one caption of each of 64 held-out clips."""
    texts = [c["captions"][0]["text"] for c in study.split(*HELD_OUT)[: 3 if study.quick else 64]]

    def solved(solver: str, steps: int) -> tuple[np.ndarray, dict]:
        settings = Settings(stage1_solver=solver, stage1_steps=steps, micro_batch=16)
        x, nfe = study.sample(study.recipes(texts, STAGE1_SEED, settings))
        return x, {"measure": "stage1", "solver": solver, "steps": steps, "nfe": float(nfe.mean())}

    exact, row = solved("rk4", 8 if study.quick else FINEST["stage1"])
    rows = [row | {"error": 0.0, "reference": True}]
    for solver, steps in progress(grids(4 if study.quick else BUDGETS[-1]), "Stage 1, solvers"):
        x, row = solved(solver, steps)
        rows.append(row | {"error": float(np.linalg.norm(x - exact, axis=1).mean())})
    scale = study.muse.config.sample.stage1_guidance_scale
    return [row | {"n": len(texts), "guidance_scale": scale, "seed": STAGE1_SEED} for row in rows]


@torch.inference_mode()
def stage2_errors(study: Study) -> list[dict]:
    """Root mean square error of the standardised latents, for a few short pieces, in float32."""
    pieces, seconds = (1, 1.0) if study.quick else (4, 3.0)
    x = torch.from_numpy(study.samples("a sad piano melody", pieces, STAGE2_SEED)).float()
    velocity, x_0 = stage2_flow(study.muse, x, seconds, STAGE2_SEED)

    def solved(solver: str, steps: int) -> tuple[torch.Tensor, dict]:
        found = solve.solve(velocity, x_0, solver=solver, steps=steps)
        row = {"measure": "stage2", "solver": solver, "steps": steps, "nfe": float(found.nfe.double().mean())}
        return found.x, row

    exact, row = solved("rk4", 4 if study.quick else FINEST["stage2"])
    rows = [row | {"error": 0.0, "reference": True}]
    for solver, steps in progress(grids(4 if study.quick else 64), "Stage 2, solvers"):
        x, row = solved(solver, steps)
        rows.append(row | {"error": float((x - exact).square().mean().sqrt())})
    scale = study.muse.config.sample.guidance_scale
    return [row | {"n": pieces, "seconds": seconds, "guidance_scale": scale, "seed": STAGE2_SEED} for row in rows]


def stage2_flow(muse: Muse, x: torch.Tensor, seconds: float, seed: int) -> tuple[Callable, torch.Tensor]:
    """Stage 2's guided velocity for embeddings x (n, 512), and its initial noise (n, C, T) of the seeds `seed + i`."""
    network, w, frames = muse.stage2, muse.config.sample.guidance_scale, muse.frames(seconds)
    timing = torch.tensor([[0.0, seconds]], device=muse.device).expand(len(x), 2)
    condition = network.condition_pair(x.to(muse.device), timing)

    def velocity(t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return flow.guided(*network(torch.cat([z, z]), torch.cat([t, t]), condition).chunk(2), w)

    noise = [flow.noise(seed + i, 2, frames, network.config.latent_dim) for i in range(len(x))]
    return velocity, torch.stack(noise).to(muse.device)
