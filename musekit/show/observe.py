"""Small measures of sampling that the notebooks share: distances, estimated end points, mean cosines."""

from __future__ import annotations

import itertools
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
