"""Two moons: the smallest data in which one sentence has many right answers, and the exact velocity of their flow.

A point lies on one of two arcs, with Gaussian noise of standard deviation `SIGMA`. Three sentences ask for it: an
upper moon, a lower moon, or the vague "a moon", which both answer.
"""

import math

import torch
from torch import Tensor

WORDS = ("an upper moon", "a lower moon", "a moon")
VAGUE = 2  # the index of the sentence that both moons answer
SIGMA = 0.08  # how thick a moon is
ANGLES = 160  # points that stand for an arc in sums over it


def arc(angle: Tensor, moon: Tensor) -> Tensor:
    """The centre line of a moon (n,), 0 upper, 1 lower, at angles (n,) in [0, pi]: (n, 2)."""
    x = torch.stack([angle.cos(), angle.sin()], dim=1)
    lower = torch.tensor([1.0, 0.5], dtype=x.dtype) - x
    return 1.6 * (torch.where(moon[:, None] == 0, x, lower) - torch.tensor([0.5, 0.25], dtype=x.dtype))


def draw(n: int, generator: torch.Generator, vague: float = 1 / 3) -> tuple[Tensor, Tensor]:
    """n points (n, 2) and a sentence each (n,) that is true of it; a share of the sentences is the vague one."""
    moon = torch.randint(2, (n,), generator=generator)
    x = arc(math.pi * torch.rand(n, generator=generator), moon) + SIGMA * torch.randn(n, 2, generator=generator)
    return x, torch.where(torch.rand(n, generator=generator) < vague, VAGUE, moon)


def centres(word: int) -> Tensor:
    """Points (A, 2) evenly along the arcs that answer a sentence, in float64."""
    angle = math.pi * (torch.arange(ANGLES, dtype=torch.float64) + 0.5) / ANGLES
    moons = (0, 1) if word == VAGUE else (word,)
    return torch.cat([arc(angle, torch.full((ANGLES,), moon)) for moon in moons])


def exact_velocity(t: Tensor, x: Tensor, word: int) -> Tensor:
    r"""v*(x, t) = E[x_1 - x_0 | x_t = x] of a sentence's data; t (B,), x (B, 2) -> (B, 2).

    Given the arc point a, x_t ~ N(t a, s^2) with s^2 = (1 - t)^2 + t^2 sigma^2, so
    v* = sum_a w_a [a + (t sigma^2 - (1 - t)) / s^2 (x - t a)] with w_a proportional to exp(-|x - t a|^2 / (2 s^2)).
    """
    a, t = centres(word).to(x), t[:, None].to(x)
    variance = (1 - t).square() + t.square() * SIGMA**2
    away = x[:, None] - t[:, None] * a  # (B, A, 2)
    weight = torch.softmax(-away.square().sum(-1) / (2 * variance), dim=1)[..., None]
    slope = (t * SIGMA**2 - (1 - t)) / variance
    return (weight * (a + slope[:, None] * away)).sum(1)


def distance(x: Tensor, word: int = VAGUE) -> Tensor:
    """Distance of each point (n, 2) to the arcs that answer a sentence, in units of a moon's thickness: (n,)."""
    return torch.cdist(x, centres(word).to(x)).min(1).values / SIGMA
