"""What Stable Audio Open's transformer has and the mini preset does without; its weights' names are in `foreign`.

Learned Fourier features of the time and of start and total seconds, a projection of the conditioning token shared by
all layers, and convolutions of width 1 around the transformer (Evans et al. 2024, arXiv 2407.14358).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from musekit.config import Stage2Config


def two_layers(inputs: int, width: int, bias: bool) -> nn.Sequential:
    """Linear, SiLU, Linear: (B, inputs) -> (B, width)."""
    return nn.Sequential(nn.Linear(inputs, width, bias=bias), nn.SiLU(), nn.Linear(width, width, bias=bias))


def turns(x: Tensor, frequencies: Tensor) -> Tensor:
    """2 pi x f, (B, F), in float32 at least: half precision would lose the phase."""
    exact = torch.promote_types(frequencies.dtype, torch.float32)
    return 2 * math.pi * x.to(exact)[:, None] * frequencies.to(exact)


class TimeToken(nn.Module):
    """tau (B,), 1 is noise -> (B, D)."""

    def __init__(self, config: Stage2Config):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(config.time_dim // 2))  # drawn once, never trained
        self.network = two_layers(config.time_dim, config.width, bias=True)

    def forward(self, tau: Tensor) -> Tensor:
        angle = turns(tau, self.frequencies)
        features = torch.cat([angle.cos(), angle.sin()], dim=-1)
        return self.network(features.to(self.network[0].weight.dtype))


class NumberEmbedder(nn.Module):
    """A number of seconds (B,) -> (B, condition_dim): itself and its Fourier features, one linear layer."""

    def __init__(self, config: Stage2Config):
        super().__init__()
        self.most = config.max_seconds
        self.frequencies = nn.Parameter(torch.randn(config.number_dim // 2))
        self.out = nn.Linear(config.number_dim + 1, config.condition_dim)

    def forward(self, seconds: Tensor) -> Tensor:
        x = seconds.clamp(0, self.most) / self.most
        angle = turns(x, self.frequencies)
        features = torch.cat([x.to(angle)[:, None], angle.sin(), angle.cos()], dim=-1)
        return self.out(features.to(self.out.weight.dtype))


class TimingToken(nn.Module):
    """Start and total seconds (B, 2) -> (B, D): the global token's part that does not change over the ODE."""

    def __init__(self, config: Stage2Config):
        super().__init__()
        self.start, self.total = NumberEmbedder(config), NumberEmbedder(config)
        self.network = two_layers(2 * config.condition_dim, config.width, bias=False)

    def forward(self, seconds: Tensor) -> Tensor:
        start, total = seconds.unbind(1)
        return self.network(torch.cat([self.start(start), self.total(total)], dim=-1))


class Residual(nn.Linear):
    """x + W x, frame by frame: a convolution of width 1 around nothing."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)
