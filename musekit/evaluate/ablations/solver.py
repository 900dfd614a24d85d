"""ablation-solver: how many evaluations of the velocity does a sample need, and of which solver?

Error is the distance from the solution of the same equation, from the same noise: rk4 with many steps. It is measured
on the preset's own weights, Stage 1 on embeddings (unit vectors), Stage 2 on standardised latents (root mean square).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from musekit import flow, solve
from musekit.evaluate.diversity import samples
from musekit.evaluate.quality import MICRO_BATCH, SEED, sampled
from musekit.evaluate.subject import Subject, bar, table
from musekit.muse import Settings

BUDGETS = (4, 8, 16, 32, 64, 128)  # NFE of the fixed solvers
TOLERANCES = (1e-2, 1e-3, 1e-4)  # of dopri5
FINEST = {"stage1": 128, "stage2": 50}  # steps of rk4, the reference
PIECES, SECONDS = 4, 3.0


def grids(most: int) -> list[tuple[str, int]]:
    """(solver, steps) that spend each budget."""
    return [
        (solver, budget // solve.NFE_PER_STEP[solver])
        for solver in solve.SOLVERS
        if solver not in solve.ADAPTIVE
        for budget in BUDGETS
        if budget <= most and budget >= solve.NFE_PER_STEP[solver]
    ]


def stage1_errors(subject: Subject) -> list[dict]:
    """Mean distance of embeddings to the finest solution's, for one caption of each of 64 held-out clips."""
    clips = subject.split("valid", "test")[: 3 if subject.quick else 4 * MICRO_BATCH]
    texts = [c["captions"][0]["text"] for c in clips]
    steps = 8 if subject.quick else FINEST["stage1"]

    def solved(solver: str, n: int) -> tuple[np.ndarray, float]:
        return sampled(subject.muse, texts, Settings(stage1_solver=solver, stage1_steps=n))

    exact, nfe = solved("rk4", steps)
    rows = [{"solver": "rk4", "steps": steps, "nfe": nfe, "error": 0.0, "reference": True}]
    wanted = [*grids(4 if subject.quick else BUDGETS[-1]), ("dopri5", 1)]
    for solver, n in bar(wanted, "Stage 1, solvers"):
        x, nfe = solved(solver, n)
        rows.append({"solver": solver, "steps": None if solver in solve.ADAPTIVE else n, "nfe": nfe})
        rows[-1]["error"] = float(np.linalg.norm(x - exact, axis=1).mean())
    about = {"n": len(texts), "guidance_scale": subject.muse.config.sample.stage1_guidance_scale, "seed": SEED}
    return [{"measure": "stage1", **about, **row} for row in rows]


def stage2_velocity(subject: Subject, n: int, seconds: float) -> tuple[Callable, torch.Tensor]:
    """Stage 2's guided velocity for n samples of Stage 1, and its initial noise (n, C, T)."""
    muse = subject.muse
    x = torch.from_numpy(samples(subject, "a sad piano melody", n, SEED)).float().to(muse.device)
    frames = muse.frames(seconds)
    timing = torch.tensor([[0.0, seconds]], device=muse.device).expand(n, 2)
    network, w = muse.stage2, muse.config.sample.guidance_scale
    condition = network.condition_pair(x, timing)

    def velocity(t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        v = network(torch.cat([z, z]), torch.cat([t, t]), condition)
        return flow.guided(*v.chunk(2), w)

    noise = [flow.noise(SEED + i, 2, frames, network.config.latent_dim) for i in range(n)]
    return velocity, torch.stack(noise).to(muse.device)


@torch.inference_mode()
def stage2_errors(subject: Subject) -> list[dict]:
    """Root mean square error of the standardised latents, for a few short pieces, in float32."""
    pieces, seconds = (1, 1.0) if subject.quick else (PIECES, SECONDS)
    velocity, x_0 = stage2_velocity(subject, pieces, seconds)
    steps = 4 if subject.quick else FINEST["stage2"]
    found = solve.solve(velocity, x_0, solver="rk4", steps=steps)
    exact, rows = found.x, [{"solver": "rk4", "steps": steps, "nfe": float(found.nfe.double().mean()), "error": 0.0}]
    rows[0]["reference"] = True
    wanted = [(s, n, {}) for s, n in grids(4 if subject.quick else 64)]
    wanted += [
        ("dopri5", 1, {"rtol": r, "atol": r, "overshoot": False}) for r in TOLERANCES[: 1 if subject.quick else 3]
    ]
    for solver, n, options in bar(wanted, "Stage 2, solvers"):
        found = solve.solve(velocity, x_0, solver=solver, steps=n, **options)
        row = {"solver": solver, "steps": None if options else n, "nfe": float(found.nfe.double().mean())}
        row |= {"tolerance": options.get("rtol"), "error": float((found.x - exact).square().mean().sqrt())}
        rows.append(row)
    about = {"n": pieces, "seconds": seconds, "guidance_scale": subject.muse.config.sample.guidance_scale, "seed": SEED}
    return [{"measure": "stage2", **about, **row} for row in rows]


def measure_solver(subject: Subject) -> None:
    """Writes results/ablation-solver.json."""
    rows = stage1_errors(subject) + stage2_errors(subject)
    table(rows, "measure", "solver", "steps", "tolerance", "nfe", "error")
    subject.write("ablation-solver", rows, seed=SEED)
