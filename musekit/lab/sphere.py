"""The unit sphere that embeddings live on: angles, great circles and means.

Rows are (n, D) unit vectors; angles are in radians, 0 to pi. Two samples of one prompt are typically 0.5 to 1 apart.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from musekit.config import MuseError

TINY = 1e-6  # radians: two points this close, or this close to opposite, have no unique great circle


def unit(x: Tensor) -> Tensor:
    """Rows of x (..., D) scaled to length 1."""
    return torch.nn.functional.normalize(x, dim=-1)


def angle(a: Tensor, b: Tensor) -> Tensor:
    """The angle between rows of a and b (..., D), exact also where they are close: 2 atan2(|a - b|, |a + b|)."""
    a, b = unit(a.double()), unit(b.double())
    return 2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1))


def slerp(a: Tensor, b: Tensor, position: float) -> Tensor:
    """The point at `position` (0: a, 1: b, both bit for bit) of the great circle from a to b, any shape, any length.

    (sin((1 - p) w) a + sin(p w) b) / sin w, with w their angle (Shoemake 1985). Vectors need not be unit: between two
    independent Gaussian noises, nearly orthogonal in many dimensions, it keeps the variance. Raises MuseError for
    opposite vectors, between which no path is the shortest.
    """
    if position in (0.0, 1.0):
        return a if position == 0.0 else b
    w = float(angle(a.flatten(), b.flatten()))
    if w < TINY:
        return a
    if math.pi - w < TINY:
        raise MuseError("the two ends are opposite points of the sphere; choose another end, or a point between them")
    p = float(position)
    mixed = (math.sin((1 - p) * w) * a.double() + math.sin(p * w) * b.double()) / math.sin(w)
    return mixed.to(a.dtype)


def towards(x: Tensor, goal: Tensor, radians: float) -> Tensor:
    """x (D,) moved by exactly that angle along the great circle to `goal` (D,), beyond it if need be; unit length."""
    x, goal = unit(x.double()), unit(goal.double())
    side = goal - (goal @ x) * x
    if float(side.norm()) < TINY:
        raise MuseError("there is no one direction from a point to itself or its opposite; choose another goal")
    return unit(math.cos(radians) * x + math.sin(radians) * unit(side)).float()


def along(stops: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """n points (n, D) at equal angles on the path through `stops` (k, D), k >= 2; positions (n,) in [0, k - 1].

    The first and the last are the first and last stop, bit for bit.
    """
    legs = angle(stops[:-1], stops[1:])
    ends = torch.cat([torch.zeros(1, dtype=torch.float64), legs.cumsum(0)])
    rows, positions = [], []
    for s in torch.linspace(0, float(ends[-1]), n, dtype=torch.float64).tolist():
        k = min(int((ends[1:] < s).sum()), len(legs) - 1)
        p = min(1.0, (s - float(ends[k])) / max(float(legs[k]), TINY))
        rows.append(slerp(stops[k], stops[k + 1], p))
        positions.append(k + p)
    rows[0], rows[-1], positions[-1] = stops[0], stops[-1], len(legs) * 1.0
    return torch.stack(rows), torch.tensor(positions, dtype=torch.float64)


def mean(rows: Tensor) -> Tensor:
    """The mean direction of rows (n, D), scaled to length 1. Raises MuseError where the rows cancel each other out."""
    middle = rows.double().mean(0)
    if not float(middle.norm()) > 1e-3:
        raise MuseError("these places cancel each other out; mix others")
    return unit(middle).to(rows.dtype)
