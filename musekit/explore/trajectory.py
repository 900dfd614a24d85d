"""Trajectory: Stage 1's samples at every step of their way from noise to an embedding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from musekit import flow, prompts, solve
from musekit.muse import Muse


@dataclass(frozen=True)
class Flow:
    """Samples on their way from noise to the map."""

    times: np.ndarray  # (T + 1,), 0 to 1
    xy: np.ndarray  # (T + 1, n, 2)
    embeddings: np.ndarray  # (n, 512), where they end


@torch.inference_mode()
def stage1_path(
    muse: Muse, prompt: str, n: int, seed: int = 0, steps: int = 24, cancel=None
) -> tuple[np.ndarray, np.ndarray]:
    """Times (T + 1,) and states (T + 1, n, 512) of n samples, each state taken to the sphere as the last one is.

    Seeds are seed, seed + 1, ...: the ends are those of `Muse.embed` with the same solver and steps, up to rounding.
    """
    network, default = muse.stage1, muse.config.sample
    device, scale, sharper = network.mean.device, default.stage1_guidance_scale, default.stage1_autoguidance
    tokens, mask = (part.to(device).expand(n, *part.shape[1:]) for part in muse.text([prompts.clean(prompt)]))
    context = network.context(tokens, mask)
    empty = network.context(tokens, mask, torch.zeros(n, dtype=torch.bool, device=device)) if scale != 1.0 else None

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        if empty is None:
            return network(x, t, context, sharper)
        return flow.guided(network(x, t, context, sharper), network(x, t, empty, sharper), scale)

    x_0 = torch.stack([flow.noise(seed + i, 1, 1, network.config.dim)[:, 0] for i in range(n)]).to(device)
    options = {"solver": default.stage1_solver, "steps": steps, "cancel": cancel, "overshoot": False}
    solution = solve.solve(velocity, x_0, **options, trajectory=True)
    return solution.times.numpy(), network.embedding(solution.trajectory).float().cpu().numpy()
