"""Ways to sample Stage 2 that are compared with each other: solver, grid, when guidance acts, how often it is new."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from musekit import flow, solve
from musekit.muse import Muse
from musekit.solve.bespoke import Bespoke, power
from musekit.stage2 import GuidedStage2, Stage2Time

BATCH = 16  # pieces at once: the measurement's own, no recipe's


@dataclass(frozen=True)
class Setting:
    """One way. Its name is unique; `solver` is a fixed-grid one, "ab2", or "bespoke" with its table."""

    name: str
    kind: str  # teacher, default, plain, bespoke, interval or reused
    times: tuple[float, ...]
    solver: str = "euler"
    grid: str = "uniform"
    table: Bespoke | None = None
    interval: tuple[float, float] = (0.0, 1.0)
    every: int = 1  # evaluations for which a guidance difference serves

    @property
    def key(self) -> str:
        """A hash of all that decides the result."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def options(self) -> dict:
        """The arguments of `solve.solve`."""
        table = Bespoke.adams_bashforth(self.times) if self.solver == "ab2" else self.table
        if table is not None:
            return {"solver": f"bespoke-{table.nfe}", "table": table}
        return {"solver": self.solver, "grid": self.times}


def euler(kind: str, n: int, **more) -> Setting:
    """n equal steps of Euler."""
    name = f"{kind}: euler {n}" if kind in ("teacher", "default") else f"{kind} {more}"
    return Setting(name, kind, tuple(power(n)), **more)


def plain(solver: str, nfe: int, p: float, q: float = 1.0, every: int = 1) -> Setting:
    """A solver that nothing was learned for, on the grid of those powers."""
    steps = nfe // solve.NFE_PER_STEP.get(solver, 1)
    grid = "uniform" if (p, q) == (1, 1) else f"power {p:g}" if q == 1 else f"powers {p:g}, {q:g}"
    reused = f", guidance every {every}" if every > 1 else ""
    name, kind = f"{solver} {nfe}, {grid}{reused}", "reused" if every > 1 else "plain"
    return Setting(name, kind, tuple(power(steps, p, q)), solver, grid, every=every)


class Counted:
    """A guided velocity that counts the rows a piece costs, and may use a guidance difference for several evaluations.

    In between only the conditional row is computed: v = v_cond + d, with d = v_guided - v_cond of the last renewal.
    """

    def __init__(self, velocity: GuidedStage2, every: int):
        self.velocity, self.every, self.calls, self.rows, self.kept = velocity, every, 0, 0, None
        self.alone = GuidedStage2(velocity.inference, velocity.condition, 1.0)

    def at(self, times: Tensor) -> list[Stage2Time]:
        """As GuidedStage2's."""
        return self.velocity.at(times)

    def __call__(self, t: Stage2Time, x: Tensor) -> Tensor:
        inside = self.velocity.interval[0] <= t.t <= self.velocity.interval[1]
        renewed, self.calls = self.calls % self.every == 0, self.calls + 1
        self.rows += 2 if inside and renewed else 1
        if self.every == 1:
            return self.velocity(t, x)
        v_cond = self.alone(t, x)
        if renewed:
            self.kept = self.velocity(t, x) - v_cond
        return v_cond + self.kept


@torch.inference_mode()
def latents(muse: Muse, setting: Setting, embeddings: Tensor, seeds: Iterable[int], frames: int) -> tuple[Tensor, dict]:
    """Standardised latents (n, C, frames) of embeddings (n, 512), and {"nfe", "rows"}: what a piece costs.

    rows: the network's evaluations of one row each; a guided evaluation is two.
    """
    x_0 = torch.stack([flow.noise(s, 2, frames, muse.config.stage2.latent_dim) for s in seeds]).to(muse.device)
    found = []
    for k in range(0, len(embeddings), BATCH):
        velocity = Counted(guided(muse, embeddings[k : k + BATCH], frames, setting.interval), setting.every)
        solution = solve.solve(velocity, x_0[k : k + BATCH], **setting.options())
        found.append(solution.x)
    return torch.cat(found), {"nfe": int(solution.nfe[0]), "rows": velocity.rows}


def guided(muse, embeddings: Tensor, frames: int, interval: tuple[float, float] = (0.0, 1.0)) -> GuidedStage2:
    """The system's guided velocity for embeddings (B, 512) and so many latent frames."""
    codec = muse.config.codec
    timing = torch.tensor([[0.0, frames * codec.hop / codec.sample_rate]], device=muse.device)
    timing = timing.expand(len(embeddings), 2)
    pair = muse.stage2.condition_pair(embeddings, timing)
    return GuidedStage2(muse.inference2, pair, muse.config.sample.guidance_scale, interval)
