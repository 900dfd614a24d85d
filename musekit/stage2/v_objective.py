"""The v-objective of stable-audio-tools and diffusers, told in `flow`'s convention; converted here and nowhere else.

A foreign network has its noise at tau = 1 on a circle: with theta = pi tau / 2,

    z = cos(theta) x_1 + sin(theta) x_0        what it is given, x_1 data and x_0 unit noise
    v = cos(theta) x_0 - sin(theta) x_1        what it says: dz / d theta

(Salimans & Ho 2022, arXiv 2202.00512). diffusers' schedulers (EDM, Cosine) say the same with sigma = tan(theta) and
sigma_data = 1: c_in (x_1 + sigma x_0) = z, c_noise = 2 atan(sigma) / pi = tau, and c_skip (x_1 + sigma x_0) + c_out v
= cos(theta) z - sin(theta) v is their denoised x_1.

Our path is the chord of that circle's quarter. Let s = sqrt(t^2 + (1 - t)^2), between sqrt(1/2) and 1. Then

    x_t = (1 - t) x_0 + t x_1 = s z            with cos(theta) = t / s, sin(theta) = (1 - t) / s

so tau = 2 atan2(1 - t, t) / pi. Solving z and v for x_1 = cos z - sin v and x_0 = sin z + cos v gives our velocity

    u = x_1 - x_0 = (cos - sin) z - (cos + sin) v = ((2 t - 1) x_t - s v) / s^2

which is finite everywhere and affine in v, so guidance of v is guidance of u. A network that says v = 0 gives
(2 t - 1) x_t / s^2, the exact velocity of standard normal data.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from musekit.flow import expand


def foreign_input(x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """(z, tau) that a v-objective network is given for our x_t (B, ...) at t (B,); tau = 1 is noise."""
    return x_t / expand(radius(t), x_t), torch.atan2(1 - t, t) * (2 / math.pi)


def velocity(x_t: Tensor, t: Tensor, v: Tensor) -> Tensor:
    """Our velocity u (B, ...) from what the network said at `foreign_input(x_t, t)`, in x_t's precision."""
    s = expand(radius(t), x_t)
    return (expand(2 * t - 1, x_t) * x_t - s * v.to(x_t.dtype)) / s**2


def radius(t: Tensor) -> Tensor:
    """s = sqrt(t^2 + (1 - t)^2), (B,)."""
    return torch.sqrt(t**2 + (1 - t) ** 2)
