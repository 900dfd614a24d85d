"""Small measures of sampling that the notebooks share: distances, mean cosines, and the cost of each stage."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import torch
from torch import Tensor


def distance(a: Tensor, b: Tensor) -> Tensor:
    """|a - b| / |b| per sample, (B,); a and b (B, ...)."""
    return (a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)


def endpoint_estimates(trajectory: Tensor) -> Tensor:
    """x_t + (1 - t) v(x_t, t), where each state's own velocity leads: (n, B, ...) from states (n + 1, B, ...).

    The states are those of `solve(..., solver="euler", steps=n, trajectory=True)`; their differences give v.
    """
    n = len(trajectory) - 1
    left = (1 - torch.arange(n, dtype=torch.float32, device=trajectory.device) / n) * n  # (1 - t) / h
    return trajectory[:-1] + left.view(-1, *[1] * (trajectory.dim() - 1)) * trajectory.diff(dim=0)


def embed_clips(muse, clips: Sequence[Tensor]) -> Tensor:
    """Joint embeddings (n, 512) of clips (2, N) of any lengths, unit length each."""
    return torch.cat([muse.embedder.embed_audio(audio[None], muse.config.codec.sample_rate) for audio in clips])


def mean_cosine(a: Tensor) -> float:
    """Mean cosine of all pairs of the unit vectors a (n, 512), n > 1."""
    return float(torch.stack([a[i] @ a[j] for i, j in itertools.combinations(range(len(a)), 2)]).mean())


def seconds_of(call, repeats: int = 5) -> float:
    """Mean seconds of a call on the CPU, after one warm-up call."""
    call()
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - began) / repeats


def cost(muse, prompt: str, n: int, seconds: float, **settings) -> list[dict]:
    """Parameters, evaluations and measured seconds per stage, for one micro-batch of n pieces.

    Times are differences between calls of `on_step`, which follows each solver step and precedes each decoding.
    """
    calls: list[tuple[str, float]] = []
    result = muse.generate(
        prompt, n, seconds=seconds, on_step=lambda stage, i, _: calls.append((stage, time.perf_counter())), **settings
    )
    recipe = result.recipes[0]
    rows = []
    for name, steps in (("stage1", recipe.stage1_steps), ("stage2", recipe.stage2_steps), ("codec", n)):
        spent = [now - then for (before, then), (stage, now) in itertools.pairwise(calls) if before == stage == name]
        rows.append(
            {
                "part": name,
                "M parameters": sum(p.numel() for p in getattr(muse, name).parameters()) / 1e6,
                "NFE": result.nfe[name][0] if name in result.nfe else 1,
                "seconds": sum(spent) / max(1, len(spent)) * steps,
            }
        )
    return rows
