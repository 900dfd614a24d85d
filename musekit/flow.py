"""Flow matching, fixed once for both stages.

Noise at t = 0, data at t = 1. Path x_t = (1 - t) x_0 + t x_1; velocity target u = x_1 - x_0
(Lipman et al. 2023, arXiv 2210.02747; Liu et al. 2022, arXiv 2209.03003).
Guidance v = v_uncond + w (v_cond - v_uncond) (Ho & Salimans 2022, arXiv 2207.12598).
Foreign conventions (stable-audio-tools has noise at t = 1) are converted once, where foreign weights load.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def match_dims(t: Tensor, x: Tensor) -> Tensor:
    """t (B,) shaped to broadcast against x (B, ...)."""
    return t.reshape(-1, *[1] * (x.dim() - 1))


def interpolate(x_0: Tensor, x_1: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """x_t and its velocity u on the straight path; x_0, x_1 (B, ...), t (B,)."""
    t = match_dims(t, x_1)
    return (1 - t) * x_0 + t * x_1, x_1 - x_0


def guided(v_cond: Tensor, v_uncond: Tensor, guidance_scale: float | Tensor) -> Tensor:
    """Classifier-free guidance; w = 1 is the conditional velocity, w = 0 the unconditional (or negative) one."""
    return v_uncond + guidance_scale * (v_cond - v_uncond)


def denoised(v: Tensor, t: float | Tensor, x: Tensor) -> Tensor:
    """The x_1 that the velocity v at x (B, ...) leads to on a straight path; t is shared or has one time per sample."""
    return x + (1 - (match_dims(t, x) if isinstance(t, Tensor) else t)) * v


def loss(v: Tensor, u: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared velocity error of each row, (B,); mask (B, T) leaves out padded frames of (B, C, T)."""
    exact = torch.promote_types(torch.promote_types(v.dtype, u.dtype), torch.float32)
    error = (v.to(exact) - u.to(exact)).square()
    if mask is None:
        return error.flatten(1).mean(1)
    mask = mask[:, None, :].to(exact)
    return (error * mask).flatten(1).sum(1) / (mask.flatten(1).sum(1) * error.shape[1]).clamp_min(1)


def gaussian_floor(t: Tensor) -> Tensor:
    """The least possible loss at time t when x_1 ~ N(0, 1) is independent of the condition: 1 / ((1 - t)^2 + t^2)."""
    return 1.0 / ((1 - t) ** 2 + t**2)


def generator(seed: int, counter: int) -> np.random.Generator:
    """The random stream of that key; any whole seed, negative ones too, has its own."""
    # uint64 by name: numpy would make floats of a list with a number above 2**63
    return np.random.Generator(np.random.Philox(key=np.array([seed & (2**64 - 1), counter], dtype=np.uint64)))


class SampleRNG:
    """The random draws of one training sample, keyed by (seed, draw counter = epoch * dataset length + position), never
    by rank. Philox is counter-based: any sample of any epoch can be drawn alone.
    """

    def __init__(self, seed: int, counter: int):
        self._rng = generator(seed, counter)

    def uniform(self) -> float:
        """In [0, 1)."""
        return float(self._rng.random())

    def integer(self, n: int) -> int:
        """In 0..n-1."""
        return int(self._rng.integers(n)) if n > 1 else 0

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, float32."""
        return torch.from_numpy(self._rng.standard_normal(shape, dtype=np.float32))


def time_features(t: Tensor, dim: int, max_turns: float = 1000.0) -> Tensor:
    """Sinusoidal features of t (B,) in [0, 1], (B, dim): frequencies from 1 to `max_turns` turns, geometrically."""
    frequency = torch.exp(torch.linspace(0, math.log(max_turns), dim // 2, device=t.device)) * 2 * math.pi
    angle = t.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def logit_normal_time(z: Tensor, location: float = 0.0) -> Tensor:
    """t in (0, 1) from a standard normal z: most near sigmoid(location) (Esser et al. 2024, arXiv 2403.03206)."""
    return torch.sigmoid(z + location)


def stratified_time(n: int) -> Tensor:
    """n fixed, evenly spread times in (0, 1): validation sees the whole path with no draw's luck."""
    return (torch.arange(n, dtype=torch.float32) + 0.5) / n


def noise(seed: int, stage: int, frames: int, channels: int) -> Tensor:
    """The initial noise of the sample with that seed in that stage, (channels, frames): the same on every device; fewer
    frames get a prefix of it.
    """
    rng = generator(seed, 0x4D555345 + stage)
    return torch.from_numpy(rng.standard_normal((frames, channels), dtype=np.float32)).T.contiguous()


def keyed_noise(keys: Sequence[int], like: Tensor) -> Tensor:
    """Standard normal noise of the shape, dtype and device of `like` (B, ...): sample i is a function of keys[i].

    Drawn where it is used, since it would be half of what training data sends. Kinds of devices draw different numbers.
    """
    x, rng = torch.empty_like(like), torch.Generator(like.device)
    for row, key in zip(x, keys, strict=True):
        torch.randn(row.shape, generator=rng.manual_seed(key), out=row)
    return x
