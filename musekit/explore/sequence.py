"""Sequence: several clips as one, each fading into the next."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from musekit.config import MuseError


def crossfade(clips: Sequence[Tensor], sample_rate: int, seconds: float = 1.0) -> Tensor:
    """Clips (2, N_i) one after another, overlapping by `seconds` at most, at constant power: (2, N).

    Weights are cos and sin of the same angle, so two unrelated sounds keep their loudness. Turned down where the sum
    would clip. Raises MuseError where there is no clip.
    """
    if not len(clips):
        raise MuseError("there is nothing to play; choose two points or more")
    joined = clips[0].float()
    for clip in clips[1:]:
        n = min(round(max(0.0, seconds) * sample_rate), joined.shape[1] // 2, clip.shape[1] // 2)
        angle = torch.linspace(0, math.pi / 2, n)
        middle = joined[:, joined.shape[1] - n :] * angle.cos() + clip[:, :n] * angle.sin()
        joined = torch.cat([joined[:, : joined.shape[1] - n], middle, clip[:, n:]], dim=1)
    return joined / (joined.abs().max() / 0.99).clamp_min(1.0)
